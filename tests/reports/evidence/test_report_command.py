"""`agevlm-eval report` on what is incomplete, damaged or newer: the rest is shown, and the top says it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agevlm.errors import DataError, RunFolderError
from reports.evidence.commands import report
from tests.reports.runs.test_listing import drop_last_commit
from tests.reports.writing.conftest import SCRIPT

Call = Callable[..., int]
READ_FIRST = "Read this first"


@pytest.fixture
def call(tmp_path, monkeypatch) -> Call:
    """The command in this process, without pictures, into `tmp_path/report`; its exit code."""

    def run(*arguments: object) -> int:
        given = [*map(str, arguments), "--no-pictures", "--out", str(tmp_path / "report")]
        monkeypatch.setattr(sys, "argv", ["agevlm-eval", "report", *given])
        try:
            report.main(given, standalone_mode=False)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


def written(tmp_path: Path) -> dict[str, str]:
    return {name: (tmp_path / "report" / name).read_text() for name in ("report.html", "tables.md", "tables.tex")}


def signs_run(folder: Path, **change: object) -> Path:
    """A run of failure signs whose scores lack what only its part of the page needs."""
    folder.mkdir()
    manifest = {"schema": 1, "benchmark": "failure-signs", "models": {"m": {}}, "launches": [{"ended": "x"}]}
    (folder / "run.json").write_text(json.dumps({**manifest, **change}))
    (folder / "scores.json").write_text('{"readings": [{"model": "m", "verdict": "present"}], "thresholds": []}')
    return folder


def test_a_complete_run_is_full_success_without_a_warning(copy, call, tmp_path, capsys):
    assert call(copy("pope")) == 0
    assert all(READ_FIRST not in text for text in written(tmp_path).values())
    assert capsys.readouterr().err == ""


def test_an_incomplete_run_is_named_at_the_top_of_all_that_is_read_alone(copy, call, tmp_path, capsys):
    folder = copy("pope")
    drop_last_commit(folder)
    assert call(folder) == 3
    said = "incomplete: "
    for text in written(tmp_path).values():
        top, _, rest = text.partition("Headline numbers")
        assert rest
        assert READ_FIRST in top
        assert said in top
    assert said in capsys.readouterr().err
    assert call(folder, "--allow-partial") == 0


def test_an_analysis_with_damaged_scores_takes_nothing_else_away(copy, call, tmp_path):
    good, bad = copy("pope"), signs_run(tmp_path / f"signs{SCRIPT.replace('/', '')}")
    assert call(bad, good) == 3
    page = written(tmp_path)["report.html"]
    top, _, rest = page.partition("Headline numbers")
    assert "its scores are left out: " in top
    assert "damaged or of another version (KeyError: &#39;measure&#39;)" in top
    assert "<script>alert" not in top
    assert 'id="pope"' in rest
    assert "Not scored, and not shown: signs" in rest
    # As if the file were not there.
    names = {path.name for path in (tmp_path / "report" / "tables").iterdir()}
    (bad / "scores.json").unlink()
    assert call(bad, good) == 3
    assert {path.name for path in (tmp_path / "report" / "tables").iterdir()} == names


def test_an_analysis_with_damaged_scores_alone(call, tmp_path):
    assert call(signs_run(tmp_path / "signs")) == 3
    assert "its scores are left out" in written(tmp_path)["tables.md"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 99}, "written by a newer version"),
        ({"models": []}, "run.json: damaged (models of another type"),
        ({"launches": 7, "data": "x"}, "run.json: damaged (data, launches of another type"),
    ],
)
def test_a_manifest_that_cannot_be_used_leaves_its_run_out(copy, call, tmp_path, change, why):
    good, bad = copy("pope"), signs_run(tmp_path / "signs", **change)
    assert call(good, bad) == 3
    page = written(tmp_path)["tables.md"].replace("\\", "")
    assert f"left out: {bad}" in page
    assert why in page
    with pytest.raises(RunFolderError) as caught:
        call(bad)
    assert why in str(caught.value)


def test_a_file_that_nests_too_deeply_is_damaged(copy, call, tmp_path):
    good, bad, worse = copy("pope"), signs_run(tmp_path / "signs"), signs_run(tmp_path / "worse")
    (bad / "scores.json").write_text("[" * 200_000)
    (worse / "run.json").write_text('{"a":' * 200_000)
    assert call(good, bad, worse) == 3
    page = written(tmp_path)["tables.md"].replace("\\", "")
    assert "scores.json is damaged" in page
    assert f"left out: {worse / 'run.json'}: damaged (nested too deeply)" in page


def test_a_folder_of_something_else_is_refused_before_anything_is_computed(copy, call, tmp_path, monkeypatch):
    monkeypatch.setattr("reports.evidence.assemble.open_runs", lambda *_: pytest.fail("computed"))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match="no report"):
        call(copy("pope"))


@pytest.mark.parametrize("given", ["soon", "1.5", "9" * 30])
def test_a_time_that_is_none_is_told(copy, call, monkeypatch, given):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    with pytest.raises(DataError, match="SOURCE_DATE_EPOCH"):
        call(copy("pope"))


@pytest.mark.slow
def test_two_builds_are_the_same_to_the_byte_whatever_the_hash_seed_and_the_working_folder(copy, tmp_path):
    copy("pope")
    runs = copy("cvbench").parent
    found = []
    for seed in ("1", "2"):
        place = tmp_path / seed
        place.mkdir()
        # The command stands in the page: the same one from another folder.
        (place / "runs").symlink_to(runs)
        subprocess.run(
            [sys.executable, "-c", "from agevlm.cli import eval_main; eval_main()", "report", "runs", "--out", "out"],
            cwd=place,
            env={**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": "0", "PYTHONPATH": os.getcwd()},
            check=True,
        )
        found.append({p.relative_to(place).as_posix(): p.read_bytes() for p in place.glob("out/**/*") if p.is_file()})
    assert len(found[0]) > 10
    assert found[0] == found[1]
