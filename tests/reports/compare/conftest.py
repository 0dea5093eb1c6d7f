"""Run folders of the real commands on stubs, with answers planted afterwards."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agevlm.vlm.contract import Fingerprint
from tests.benchmarks.cvbench.stub import CvStub, make_cv_data
from tests.benchmarks.runs.stub import StubVlm, make_data
from tests.reports.runs.conftest import ask

IMAGES = 30
Copy = Callable[..., Path]
Say = Callable[[Mapping[str, Any]], str]


class OtherStub(StubVlm):
    fingerprint = Fingerprint("other", {"weights": "other"})


class OtherCvStub(CvStub):
    fingerprint = Fingerprint("other", {"weights": "other"})


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """pope-a, pope-b and cv-a, cv-b: two models each on the same questions; what they say is planted by skill."""
    folder = tmp_path_factory.mktemp("compared")
    data = make_data(folder / "pope-data", IMAGES)
    cv_data = make_cv_data(folder / "cv-data", IMAGES)
    for name, stub, skill in (("pope-a", StubVlm(), 0.6), ("pope-b", OtherStub(), 0.85)):
        assert ask("pope", stub, data, folder / name, "--control", "shuffled") == 0
        plant(folder / name, guesses(skill))
        plant(folder / name, guesses(skill - 0.2), "shuffled")
    for name, cv_stub, skill in (("cv-a", CvStub(), 0.4), ("cv-b", OtherCvStub(), 0.9)):
        assert ask("cvbench", cv_stub, cv_data, folder / name) == 0
        plant(folder / name, guesses(skill))
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Copy:
    """Copies one of them into a folder of this test's own, to be changed."""

    def copied(name: str, to: str | None = None) -> Path:
        return Path(shutil.copytree(made / name, tmp_path / (to or name)))

    return copied


def guesses(skill: float) -> Say:
    """What a model of this skill says, for each image and question once, whatever the split."""

    def say(question: Mapping[str, Any]) -> str:
        right = random.Random(f"{skill} {question['image']} {question.get('text', question.get('prompt'))}")
        if "label" in question:
            return "Yes" if question["label"] == (right.random() < skill) else "No"
        place = question["gold"] if right.random() < skill else (question["gold"] + 1) % len(question["options"])
        return f"({'ABCD'[place]})"

    return say


def questions_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "questions.jsonl").read_text().splitlines()]


def plant(run: Path, say: Say, condition: str = "image") -> None:
    """Put answers in the place of those under a condition, with log-probabilities that agree with them."""
    texts = {row["keys"][condition]: say(row["question"]) for row in questions_of(run)}

    def changed(row: dict[str, Any]) -> dict[str, Any]:
        if row["key"] not in texts:
            return row
        text = texts[row["key"]]
        sure = random.Random(row["key"]).random()
        names = ("yes", "no") if "Yes" in texts.values() else ("(A)", "(B)", "(C)", "(D)")
        return row | {
            "text": text,
            "logprobs": {n: -0.1 if n == text.lower() or n == text else -0.2 - sure for n in names},
        }

    rewrite(run / "answers-00000.jsonl", changed)


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the rows of a file; None leaves one out."""
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def remake(run: Path, **changes: Any) -> Path:
    """Change a run's manifest."""
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run
