"""Questions of runs as items of a gallery, with what is needed to find their pictures and overlays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agevlm.errors import AgeVlmError, DataError
from benchmarks.judge.cases import JUDGED
from benchmarks.run_folder import RunFolder
from reports.document import Item, ItemKind
from reports.opened import Run
from reports.runs.headline import FIELD
from reports.runs.printing import remark_lines
from reports.runs.showing import Opened, Shown, open_run

WRONG: frozenset[ItemKind] = frozenset({"false yes", "missed", "wrong answer", "unparsed"})


@dataclass(frozen=True)
class Entry:
    """An item before its picture is made."""

    item: Item
    run: Run
    identity: str | None
    """SHA-256 of the image file that the model saw; None where that is not known."""
    fingerprint: str
    """Of the model."""
    prompt: str
    """The template that the question was put in."""
    looked: bool = False
    """Whether it is of a grounding run, whose records prove which image they are of, or leave it open."""
    look: tuple[int, int] | None = None
    """Where its own map is: which of the report's looks, and the row."""

    @property
    def rank(self) -> tuple[bool, float]:
        """Wrong answers before others, the worst first."""
        margin = self.item.margin
        return self.item.kind not in WRONG, math.inf if margin is None else -margin


def benchmark_entries(run: Run, notes: list[str], opened: Opened | None = None) -> list[Entry]:
    """The questions of a POPE or CV-Bench run, or those that are given; none of other runs.

    What cannot be read is said in `notes`."""
    if run.benchmark not in FIELD:
        return []
    try:
        opened = opened or _opened(run, notes)
    except AgeVlmError as error:
        notes.append(f"{run.label}: no questions: {error}")
        return []
    notes += [f"{run.label}: {line}" for line in remark_lines(opened.remarks)]
    model = run.manifest.get("model", {})
    fingerprint, prompt = str(model.get("fingerprint")), str(run.manifest.get("prompt", {}).get("template"))
    seen = {q.image: q.shown for q in opened.questions if q.shown is not None}
    return [
        # A question without an answer is about the image that others of the run were answered about.
        Entry(_item(run, q), run, q.shown or seen.get(q.image), fingerprint, prompt)
        for q in opened.questions
    ]


def _opened(run: Run, notes: list[str]) -> Opened:
    """In the first of the ways in which the run was scored that can be shown."""
    from benchmarks.cvbench.readers import MAIN

    pope = run.benchmark == "pope"
    named = RunFolder(run.folder).last_scored(f"{FIELD[run.benchmark]}s")
    ways = [name for name in named if not (pope and name in JUDGED.values())]
    trouble = "a judge's verdicts on POPE's answers are not kept question by question"
    for name in dict.fromkeys([*ways, "default" if pope else MAIN]):
        try:
            opened = open_run(run.folder, name if pope else None, None if pope else name, "image")
        except DataError as error:
            trouble = str(error)
            continue
        if named and name != named[0]:
            notes.append(f"{run.label}: answers are shown as read by {name}, not by {named[0]}: {trouble}")
        return opened
    raise DataError(trouble)


def _item(run: Run, q: Shown) -> Item:
    return Item(
        run=run.label,
        number=q.number,
        split=q.split,
        category=q.category,
        question=q.text,
        official=q.official,
        answer=q.answer if q.error is None else None,
        read=f"{q.read.label} ({q.read.rule if q.error is None else q.error})",
        kind=kind_of(q),
        margin=margin_of(q.options, q.right, q.read.label),
        logprobs=[one for one in q.likeliest if math.isfinite(one[1])],
        size=None,
        image=q.image,
        picture=None,
        overlay=None,
    )


def kind_of(q: Shown) -> ItemKind:
    """What became of a question of POPE (official yes or no) or CV-Bench."""
    if q.read.verdict == "missing":
        return "not answered"
    if q.read.verdict == "error":
        return "model failed"
    if q.read.unparsed:
        return "unparsed"
    if q.read.verdict != "wrong":
        return q.read.verdict
    if q.right not in ("yes", "no"):
        return "wrong answer"
    return "false yes" if q.right == "no" else "missed"


def margin_of(logprobs: Mapping[str, float], right: str, said: str) -> float | None:
    """How much likelier a wrong answer was than the right one, in nats: what was said, or else the likeliest.

    Args:
        logprobs: of each answer by its label.
        right: the label of the right answer.
        said: the label that the answer was read as.
    """
    if right not in logprobs or len(logprobs) < 2:
        return None
    others = {label: value for label, value in logprobs.items() if label != right}
    margin = others.get(said, max(others.values())) - logprobs[right]
    return margin if math.isfinite(margin) else None
