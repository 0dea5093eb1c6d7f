"""The signs of failure that the paper names, each measured, beside a threshold, with a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from reports.document import NONE, Cell, Section, Table, interval, number
from reports.opened import Run
from reports.runs.headline import VERDICTS
from reports.sections.inside import Content, Looks, numbers, texts
from reports.sections.signs_figure import figures, sign_if

NAME = "failure-signs"
TEXT = (
    "The AGE-VLM paper (arXiv 2511.17793) names ways in which small vision-language models fail. Each is measured here "
    "and set beside a threshold. The thresholds are ours: the paper gives none. present, absent: the whole 95 % "
    "interval lies on that side of the threshold; undecided: it holds the threshold, or there is none; not measured: "
    "there is no value, and the note says why.",
    "What it does not show: a sign that is absent here may be present in other data, and a small sample leaves most "
    "signs undecided; it does not make them absent.",
)


def section(runs: Sequence[Run]) -> Section | None:
    """All readings by sign, counts of verdicts, and why the thresholds are where they are."""
    looks = Looks.among(runs, NAME)
    if looks is None:
        return None
    tables = list(_tables(looks))
    looked_up = [one for one in tables if one.folded]
    items = [*(one for one in tables if not one.folded), *looks.figures(figures), *looked_up]
    return Section(NAME, "Signs of failure", [*TEXT, *looks.lacking], items)


def _tables(looks: Looks) -> Iterator[Table]:
    yield from looks.table(
        "verdicts",
        "Signs of failure: how many got which verdict",
        [*texts("model"), *numbers(*VERDICTS)],
        _verdicts,
    )
    yield from looks.table(
        "",
        "Signs of failure: measured values, thresholds and verdicts",
        [
            *texts("sign", "model"),
            *numbers("value"),
            *texts("sign if", "verdict", "measured on", "note"),
        ],
        _readings,
        ("Intervals are over images; of perplexity over texts.",),
    )
    yield from looks.table(
        "thresholds",
        "Signs of failure: why the thresholds are there",
        texts("measure", "what is measured", "sign if", "why"),
        _thresholds,
        ("Ours; --threshold MEASURE=VALUE sets another.",),
        folded=True,
    )


def _verdicts(content: Content) -> Iterator[list[Cell | str]]:
    for model in dict.fromkeys(one["model"] for one in content["readings"]):
        counts = Counter(one["verdict"] for one in content["readings"] if one["model"] == model)
        yield [str(model), *(number(counts[verdict], unit="count") for verdict in VERDICTS)]


def _thresholds(content: Content) -> Iterator[list[Cell | str]]:
    says = {one["measure"]: f"{one['sign']}: {one['says']}" for one in content["readings"]}
    for one in content["thresholds"]:
        measure = str(one["measure"])
        yield [measure, says.get(measure, NONE), sign_if(one, "value"), str(one["why"])]


def _readings(content: Content) -> Iterator[list[Cell | str]]:
    readings = content["readings"]
    for measure in dict.fromkeys(one["measure"] for one in readings):
        for one in (one for one in readings if one["measure"] == measure):
            names = (f"{one['sign']}: {one['says']}", str(one["model"]))
            ends = (str(one[name]) for name in ("verdict", "n", "note"))
            yield [*names, interval(one), sign_if(one, "threshold"), *ends]
