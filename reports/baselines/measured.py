"""What runs measured that others publish too: numbers of POPE and CV-Bench on the whole published questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.document import Cell, flat
from reports.opened import Run, reading
from reports.published import METRICS, NOT_STATED, benchmark_of, cvbench_metric, pope_metric
from reports.runs.headline import FIELD

_PLACES = ("{question}", "{prompt}")


@dataclass(frozen=True)
class Measured:
    """One measured number of a published metric."""

    model: str
    """The run's label."""
    benchmark: str
    """POPE, RePOPE or CV-Bench."""
    metric: str
    """One of `reports.published.METRICS`."""
    row: Mapping[str, Any]
    """The row of the scores."""
    score: str
    """The number's name in it: f1 or accuracy."""
    data_version: str
    prompt: str
    """What is asked beside each question, in words; empty: nothing. "not stated" where the run does not say."""
    reading: str
    """The protocol or reading that read the answers."""
    fingerprint: str
    """Of the model."""
    date: str
    """Of the run's beginning, YYYY-MM-DD."""

    @property
    def cell(self) -> Cell:
        """The value with its interval, in percent."""
        return flat(self.row, self.score)


@dataclass(frozen=True)
class LeftOut:
    """A run, or its part on some data, beside which nothing published may stand."""

    label: str
    data_version: str
    why: str

    def __str__(self) -> str:
        about = f" on {self.data_version}" if self.data_version else ""
        return f"{self.label}{about}: {self.why}"


def measured(runs: Sequence[Run]) -> tuple[list[Measured], list[LeftOut]]:
    """The numbers of runs that have a published counterpart, in the order of the runs, and what was left out.

    Raises:
        DataError: a run's scores are not as that kind of run writes them.
    """
    found: list[Measured] = []
    left_out: list[LeftOut] = []
    for run in runs:
        if run.benchmark not in FIELD:
            left_out.append(LeftOut(run.label, "", f"no published result is of this kind ({run.benchmark})"))
        elif run.scores is None:
            left_out.append(LeftOut(run.label, "", "not scored"))
        else:
            with reading(run, "run.json or scores.json"):
                _add(run, run.scores, found, left_out)
    return found, left_out


def _add(run: Run, scores: Mapping[str, Any], found: list[Measured], left_out: list[LeftOut]) -> None:
    rows = [row for row in scores["rows"] if row["condition"] == "image"]
    for version in dict.fromkeys(row["data_version"] for row in rows):
        mine = [row for row in rows if row["data_version"] == version]
        benchmark = next(filter(None, (benchmark_of(version, split) for split in ("all", "2D", "3D"))), None)
        # Missing counts questions that the model failed on too: these were asked, and the table says how many.
        unasked = max(row["missing"] - _errors(run, scores, row) for row in mine)
        if benchmark is None:
            left_out.append(LeftOut(run.label, version, _why_not(run, version)))
        elif unasked > 0:
            left_out.append(LeftOut(run.label, version, f"{unasked:,} questions wait for an answer"))
        else:
            found += _numbers(run, benchmark, mine)


def _errors(run: Run, scores: Mapping[str, Any], row: Mapping[str, Any]) -> int:
    return int(row["errors"] if run.benchmark == "pope" else scores["errors"]["image"])


def _numbers(run: Run, benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Measured]:
    model = run.manifest["model"]
    for row in rows:
        if run.benchmark == "pope":
            splits = {other["split"] for other in rows} - {"mean", "pooled"}
            named = {score: pope_metric(score, row["split"], splits) for score in ("f1", "accuracy")}
            reading = row["protocol"]
        else:
            named = {"accuracy": cvbench_metric(row["score"])}
            reading = row["reading"]
        for score, metric in named.items():
            # Of a half of CV-Bench only the half's own number.
            if metric is not None and benchmark_of(row["data_version"], METRICS[benchmark][metric]) == benchmark:
                yield Measured(
                    run.label,
                    benchmark,
                    metric,
                    row,
                    score,
                    row["data_version"],
                    _prompt(run.manifest),
                    reading,
                    str(model["fingerprint"]),
                    str(run.manifest.get("created", ""))[:10],
                )


def _prompt(manifest: Mapping[str, Any]) -> str:
    template = manifest.get("prompt", {}).get("template")
    if template is None:
        return NOT_STATED
    for place in _PLACES:
        template = template.replace(place, "…")
    text = " ".join(template.split())
    return "" if text == "…" else text.removeprefix("… ")


def _why_not(run: Run, version: str) -> str:
    """Why nothing published may stand beside these questions."""
    sources = [str(name) for one in run.manifest.get("data", ()) for name in one.get("from", ())]
    if "scenes@" in version or any(name.startswith("scenes") for name in sources):
        return "rendered scenes; published figures are of photographs, and neither says anything of the other"
    base = version.partition(" limit ")[0].partition(" task ")[0]
    if base != version:
        return "a part of the questions"
    if version.startswith("custom"):
        return "questions of one's own, or a part of the published ones"
    return "no published result is listed for these questions"
