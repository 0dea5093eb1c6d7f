"""The first table of a report: what was asked of which models, and the number that each run is known by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.cvbench.score import ROW_MEAN
from benchmarks.pope.rows import MEAN, POOLED
from benchmarks.remarks import FEW_IMAGES, HIGH_UNPARSED
from reports.document import NONE, Cell, Column, Finding, Section, Table, number
from reports.opened import Run, reading
from reports.runs.headline import FIELD, KINDS, UNITS, Headline, benchmark_name, headlines
from reports.sections.side_by_side import asked_by_version

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
    "failure-signs": "failure signs, those that the AGE-VLM paper names, each against a threshold",
}
SCALES = {
    "pope": "POPE: % of questions.",
    "cvbench": "CV-Bench: % of questions.",
    "lmms": "lmms-eval gives standard errors, no intervals: see its table.",
    "similarity": "similarity: chance that an image's own caption is more alike to it than another image's (AUROC of "
    "hidden states after the last layer of self-attention, mean pooling, raw; 0.5: no difference).",
    "grounding": "grounding: attention of the object's word against the object's mask, as many cells as the mask "
    "covers (IoU, 0 to 1).",
    "padding": "padding: share of attention on padding over padding's share of the cells, of the object's word in "
    "images that are not square (1: no more than its share).",
    "linkage": "linkage: chance that a wrong answer ranks above a right one (AUROC), by the answer's confidence (far "
    "below 0.5: doubt goes with errors), and by margin, the name's prior and attention together.",
    "failure-signs": "failure signs: how many of the paper's signs.",
}
"""What the numbers of a kind of run are."""
INTERVALS = f"In brackets: 95 % interval over images. {NONE}: not measured here."
PAIRED = (
    "On the same questions or images. Established: the 95 % interval over images leaves 0 out, and of benchmarks the "
    "p value by image (where several runs are compared with one, after Holm's adjustment) is at most 0.05; else a tie. "
    "The differences of analyses are not adjusted for how many there are."
)
READ = (
    "n: questions with an answer; of an analysis, what it looked at. missing: without an answer, in no number. "
    f"unparsed: read as none of the options; the protocol says what they count as. {NONE}: said in the part of that "
    "benchmark."
)
COUNTS = ("n", "missing", "unparsed")


def section(runs: Sequence[Run], findings: Sequence[Finding] = ()) -> Section:
    """What was found, the number that each run is known by, model beside model, and what was asked; first in a report.

    Args:
        runs: all.
        findings: of the other parts.

    Raises:
        DataError: a run's scores are not as that kind of run writes them.
    """
    places = {name: place for place, name in enumerate(BENCHMARKS)}
    ordered = sorted(runs, key=lambda run: places.get(run.benchmark, len(places)))
    found = [_Headlines.of(run) for run in ordered]
    tables = [*_side_by_side(found), *_findings(findings), _asked(found)]
    return Section("summary", "Summary", (*_lead(ordered), *_doubts(ordered)), tables)


@dataclass(frozen=True)
class _Headlines:
    """A run with the numbers that it is known by."""

    run: Run
    found: Sequence[Headline]
    lacking: str
    """Why there are none; empty where there are."""

    @classmethod
    def of(cls, run: Run) -> _Headlines:
        if run.benchmark not in KINDS:
            return cls(run, (), "a kind of run that this version does not know")
        if run.scores is None:
            return cls(run, (), "no scores")
        with reading(run):
            found = headlines(run.benchmark, run.scores)
        return cls(run, found, "" if found else "no headline among its scores")

    def named(self, headline: Headline | None = None) -> str:
        """The benchmark, or its counterpart in the rendered world."""
        dataset = "" if headline is None else headline.of.get("dataset", "")
        named = benchmark_name(self.run.benchmark, str(dataset)) if dataset else ""
        return named or BENCHMARKS.get(self.run.benchmark, self.run.benchmark)


def _side_by_side(runs: Sequence[_Headlines]) -> Iterator[Table]:
    """A row a model, a column a measure; columns of one name are told apart by what else differs."""
    columns: dict[tuple[str, ...], dict[str, Cell]] = {}
    for one in runs:
        signs: dict[str, list[str]] = {}
        for headline in one.found:
            model = _model(one.run, headline)
            if headline.unit == "count":
                signs.setdefault(model, []).append(f"{headline.value:g} {headline.measure}")
                continue
            key = (_in_full(one, headline), *_conditions(one.run, headline))
            columns.setdefault(key, {})[model] = number(
                headline.value, headline.low, headline.high, UNITS[headline.unit]
            )
        for model, counts in signs.items():
            columns.setdefault((one.named(),), {})[model] = Cell(", ".join(counts))
    if not columns:
        return
    names = [key[0] for key in columns]
    heads = []
    for key in columns:
        twins = [other for other in columns if other[0] == key[0]]
        apart = [
            part for part, *others in zip(key[1:], *(twin[1:] for twin in twins), strict=False) if len(set(others)) > 1
        ]
        heads.append(Column(" · ".join([key[0], *apart]) if names.count(key[0]) > 1 else key[0]))
    models = list(dict.fromkeys(model for cells in columns.values() for model in cells))
    rows = [[Cell(model), *(cells.get(model, Cell(NONE)) for cells in columns.values())] for model in models]
    there = {one.run.benchmark for one in runs}
    scales = " ".join(said for benchmark, said in SCALES.items() if benchmark in there)
    yield Table("summary", "Headline numbers", [Column("model", False), *heads], rows, (scales, INTERVALS))


def _findings(findings: Sequence[Finding]) -> Iterator[Table]:
    """What is established, then what is a tie."""
    ordered = sorted(findings, key=lambda one: not one.verdict.endswith("established"))
    rows = [
        [Cell(one.measure), Cell(one.first), Cell(one.second), one.difference, Cell(one.verdict)] for one in ordered
    ]
    columns = [*(Column(name, False) for name in ("measure", "first", "second")), Column("first less second")]
    if rows:
        columns.append(Column("the first is", False))
        yield Table("findings", "Which differences are established", columns, rows, (PAIRED,))


def _conditions(run: Run, one: Headline) -> tuple[str, ...]:
    """Data version, prompt, protocol or reading."""
    with reading(run):
        how = one.of.get(FIELD[run.benchmark], NONE) if run.benchmark in FIELD else NONE
    return _version(run, one), _prompt(run), str(how)


def _asked(runs: Sequence[_Headlines]) -> Table:
    """What each run asked, and how much came of it: a row a run and data version."""
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for one in runs:
        for headline in one.found or (None,):
            with reading(one.run):
                of = {} if headline is None else headline.of
                label = one.run.label if headline is None else _model(one.run, headline)
                conditions = (_version(one.run, None), _prompt(one.run), NONE)
                told = conditions if headline is None else _conditions(one.run, headline)
                counts = [number(_count(of.get(key)), unit="count") for key in COUNTS]
            # Runs of several models have one row for all that was asked of them alike.
            name = one.named(headline)
            key = (name, *told, *map(str, counts), one.run.label if one.run.benchmark in FIELD else "")
            row = rows.setdefault(key, [Cell(name), Cell(""), *map(Cell, told), *counts, Cell(one.lacking or "")])
            named = dict.fromkeys([*filter(None, row[1].text.split(", ")), label])
            row[1] = Cell(", ".join(named))
    columns = [Column(name, False) for name in ("benchmark", "model", "data version", "prompt", "protocol or reading")]
    columns += [*map(Column, COUNTS), Column("remark", False)]
    if not any(row[-1].text for row in rows.values()):
        columns, cut = columns[:-1], -1
    else:
        cut = None
    return Table("asked", "What was asked", columns, [row[:cut] for row in rows.values()], (READ,))


def _lead(runs: Sequence[Run]) -> Iterator[str]:
    models = {
        benchmark: list(dict.fromkeys(name for run in runs if run.benchmark == benchmark for name in _models(run)))
        for benchmark in dict.fromkeys(run.benchmark for run in runs)
    }
    alike = len(models) > 1 and len(set(map(tuple, models.values()))) == 1
    named = {one: ", ".join(own) or "models not named" for one, own in models.items()}
    asked = [ASKED.get(one, one) + ("" if alike else f" ({named[one]})") for one in models]
    yield f"{'; '.join(asked)}{f'. All of {next(iter(named.values()))}' if alike else ''}."
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


def _model(run: Run, one: Headline) -> str:
    """An analysis has its models in the headlines; a benchmark, if several, its data sets there."""
    if run.benchmark in FIELD or run.benchmark == "lmms" or not one.about:
        return run.label
    return one.about if run.label in (run.folder.name, one.about) else f"{one.about}, {run.label}"


def _in_full(one: _Headlines, headline: Headline) -> str:
    """The measure with what it is of, and its unit."""
    run = one.run
    several = (run.benchmark in FIELD or run.benchmark == "lmms") and headline.about
    name = f"{headline.about}: {headline.measure}" if several else f"{one.named(headline)}: {headline.measure}"
    mean = ", mean of splits" if headline.of.get("split") == "mean" else ""
    return f"{name}{mean}{', %' if headline.unit == 'share' else ''}"


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
