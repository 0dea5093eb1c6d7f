"""What sections are made of: runs of the real commands on stubs, opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from agevlm.vlm.contract import Fingerprint
from reports.opened import Run, open_runs
from tests.benchmarks.cvbench.stub import CvStub, make_cv_data
from tests.benchmarks.runs.stub import StubVlm, make_data
from tests.reports.runs.conftest import ask


class Wordless(StubVlm):
    """Gives no log-probabilities, and says other things."""

    fingerprint = Fingerprint("wordless", {"weights": "wordless"})

    def _reply(self, picture, prompt):
        from dataclasses import replace

        reply = super()._reply(picture, f"{prompt}!")
        return replace(reply, logprobs={})


@pytest.fixture(scope="session")
def scored(tmp_path_factory) -> Path:
    """pope and wordless on the same questions, pope-other on others; cvbench."""
    folder = tmp_path_factory.mktemp("scored")
    data = make_data(folder / "data", 12)
    assert ask("pope", StubVlm(), data, folder / "pope", "--control", "blind", "--control", "shuffled") == 0
    assert ask("pope", Wordless(), data, folder / "wordless", "--prompt", "official") == 0
    assert ask("pope", StubVlm(), make_data(folder / "other-data", 5), folder / "pope-other") == 0
    assert ask("cvbench", CvStub(), make_cv_data(folder / "cv", 12), folder / "cvbench", "--control", "blind") == 0
    return folder


def opened(*folders: Path) -> list[Run]:
    runs, left_out = open_runs(folders)
    assert left_out == []
    return runs
