"""The first table of a report: what was asked of which models, and the number that each run is known by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.cvbench.score import ROW_MEAN
from benchmarks.pope.rows import MEAN, POOLED
from benchmarks.remarks import FEW_IMAGES, HIGH_UNPARSED
from reports.document import NONE, Cell, Column, Section, Table, Unit, number
from reports.opened import Run, reading
from reports.runs.headline import KINDS, Headline, headlines
from reports.sections.side_by_side import FIELD, asked_by_version

BENCHMARKS = {
    "pope": "POPE",
    "cvbench": "CV-Bench",
    "lmms": "lmms-eval",
    "similarity": "similarity",
    "grounding": "grounding",
    "padding": "padding",
    "linkage": "linkage",
    "failure-signs": "failure signs",
}
"""As tables show them, in their order."""
ASKED = {
    "pope": "POPE, yes/no questions about objects",
    "cvbench": "CV-Bench, multiple-choice questions",
    "lmms": "lmms-eval, its tasks",
    "similarity": "similarity, whether hidden states tell an image's own caption from others",
    "grounding": "grounding, whether attention lies on what a phrase names",
    "padding": "padding, how much attention it draws away",
    "linkage": "linkage, whether attention foretells errors",
    "failure-signs": "failure signs, what training did to the language model",
}
COUNTS = ("n", "missing", "unparsed")
UNITS: dict[str, Unit] = {"share": "percent", "number": "number", "count": "count"}


def section(runs: Sequence[Run]) -> Section | None:
    """The headlines of all runs; first in a report."""
    places = {name: place for place, name in enumerate(BENCHMARKS)}
    ordered = sorted(runs, key=lambda run: places.get(run.benchmark, len(places)))
    columns = [Column(name, False) for name in ("benchmark", "model", "measure")] + [Column("value")]
    columns += [Column(name) for name in COUNTS]
    columns += [Column(name, False) for name in ("data version", "prompt", "protocol or reading")]
    rows = [row for run in ordered for row in _rows(run)]
    notes = (
        "Accuracy and F1 in % of questions, AUROC and IoU as fractions, signs as counts. In brackets: 95 % interval "
        "over images. lmms-eval gives standard errors instead: see its table.",
        "n: questions with an answer. missing: without one, in no number. unparsed: answers that were not read as "
        f"any of the options; the protocol says what they count as. {NONE}: not defined, or said in the part of that "
        "benchmark.",
    )
    return Section(
        "summary",
        "Summary",
        (*_lead(ordered), *_doubts(ordered)),
        [Table("summary", "Headline numbers", columns, rows, notes)],
    )


def _lead(runs: Sequence[Run]) -> Iterator[str]:
    said = []
    for benchmark in dict.fromkeys(run.benchmark for run in runs):
        own = [run for run in runs if run.benchmark == benchmark]
        models = list(dict.fromkeys(name for run in own for name in _models(run)))
        said.append(f"{ASKED.get(benchmark, benchmark)} ({', '.join(models) or 'models not named'})")
    yield f"What was asked, and of which models: {'; '.join(said)}."
    yield (
        "How to read an interval: in about 95 of 100 data sets drawn like this one, [low, high] holds the number that "
        "all images of the same kind would give. It is made by resampling images, not questions, since the "
        "questions about one image share its difficulty. A difference is established only where its own 95 % "
        "interval leaves out 0; else it is a tie, whichever number is larger. That two intervals overlap does not "
        "make a tie: the comparison of the models on the same questions decides."
    )


def _doubts(runs: Sequence[Run]) -> Iterator[str]:
    """What makes a headline doubtful, as the benchmark's own command warns of it."""
    for asked in (one for name in FIELD for own in asked_by_version(runs, name).values() for one in own):
        with reading(asked.run):
            rows = [row for row in asked.of() if row.get("split") not in (MEAN, POOLED)]
            if asked.run.benchmark == "cvbench":
                rows = [row for row in rows if row["score"] == ROW_MEAN]
            unread, n = (sum(row[count] for row in rows) for count in ("unparsed", "n"))
            images = min((row["images"] for row in rows if row["n"]), default=0)
            if unread > HIGH_UNPARSED * n:
                yield (
                    f"Mind: {asked.label}, {asked.titled}: {unread:,} of {n:,} answers could not be read; look at the "
                    "prompt and the answers before trusting any score."
                )
            if 0 < images < FEW_IMAGES:
                yield f"Mind: {asked.label}, {asked.titled}: only {images} images; intervals over so few are rough."


def _models(run: Run) -> list[str]:
    """Those of the manifest; of a run that looked at other runs, those of its scores."""
    named = [name for name in run.models if name != "not stated"]
    if not named and run.scores is not None:
        named = [h.about for h in headlines(run.benchmark, run.scores) if h.about]
    return list(dict.fromkeys(named))


def _rows(run: Run) -> Iterator[list[Cell]]:
    name = BENCHMARKS.get(run.benchmark, run.benchmark)
    if run.benchmark not in KINDS:
        yield _row(run, name, run.label, "a kind of run that this version does not know", Cell(NONE))
        return
    if run.scores is None:
        yield _row(run, name, run.label, "no scores", Cell(NONE))
        return
    with reading(run):
        found = headlines(run.benchmark, run.scores)
    if not found:
        yield _row(run, name, run.label, "no headline among its scores", Cell(NONE))
    for one in found:
        value = number(one.value, one.low, one.high, UNITS[one.unit])
        yield _row(run, name, _model(run, one), _in_full(run, one), value, one)


def _model(run: Run, one: Headline) -> str:
    """An analysis has its models in the headlines; a benchmark, if several, its data sets there."""
    if run.benchmark in FIELD or run.benchmark == "lmms" or not one.about:
        return run.label
    return one.about if run.label in (run.folder.name, one.about) else f"{one.about}, {run.label}"


SAID = {
    "similarity": " of an image's own caption against others, hidden states",
    "grounding": " of attention and the object's mask",
    "failure-signs": ": number of signs",
}
"""What a headline's name leaves open to one who has not read the docs."""


def _in_full(run: Run, one: Headline) -> str:
    """The measure with what it is of, and its unit."""
    several = (run.benchmark in FIELD or run.benchmark == "lmms") and one.about
    name = f"{one.about}: {one.measure}" if several else f"{one.measure}{SAID.get(run.benchmark, '')}"
    mean = ", mean of splits" if one.of.get("split") == "mean" else ""
    return f"{name}{mean}{', %' if one.unit == 'share' else ''}"


def _row(run: Run, name: str, model: str, measure: str, value: Cell, one: Headline | None = None) -> list[Cell]:
    of = {} if one is None else one.of
    with reading(run):
        cells = [Cell(name), Cell(model), Cell(measure), value]
        cells += [number(_count(of.get(key)), unit="count") for key in COUNTS]
        how = of.get(FIELD[run.benchmark], NONE) if run.benchmark in FIELD else NONE
        return [*cells, Cell(_version(run, one)), Cell(_prompt(run)), Cell(str(how))]


def _count(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _version(run: Run, one: Headline | None) -> str:
    if one is not None and "data_version" in one.of:
        return str(one.of["data_version"])
    data = run.manifest.get("data")
    sets = [d for d in data if isinstance(d, dict)] if isinstance(data, list) else []
    return (
        ", ".join(str(d.get("data_version") or d.get("name")) for d in sets if d.get("data_version") or d.get("name"))
        or NONE
    )


def _prompt(run: Run) -> str:
    prompt = run.manifest.get("prompt")
    return str(prompt.get("name", NONE)) if isinstance(prompt, dict) else NONE
