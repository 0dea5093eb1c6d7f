"""The numbers that a run is known by, as its scores.json holds them. Pure.

| run | headline |
|---|---|
| pope | F1 and accuracy under the first protocol, mean of the splits; of the one split where there is one |
| cvbench | accuracy under the first reading: the official number, else the row mean |
| similarity | AUROC of hidden states after the last self-attention layer, mean pooling, raw |
| grounding | area-matched IoU |
| padding | attention on padding over its share of the cells, the object's word; the model's own padding, else black |
| linkage | AUROC of errors by the answer's confidence, and by attention over margin and prior |
| failure-signs | how many signs got which verdict |
| lmms | each task's metrics |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agevlm.errors import RunFolderError
from agevlm.scenes.selection import SCENES
from reports.document import Unit, number

Content = Mapping[str, Any]
FIELD = {"pope": "protocol", "cvbench": "reading"}
"""Runs that ask questions -> what their rows call the way in which an answer is read."""
UNITS: Mapping[str, Unit] = {"share": "percent", "number": "number", "count": "count"}
"""A headline's unit -> how it is printed."""
VERDICTS = ("present", "absent", "undecided", "not measured")


@dataclass(frozen=True)
class Headline:
    """One number with its limits."""

    measure: str
    about: str
    """The model, or the data set where a run has several; empty where neither needs saying."""
    value: float | None
    """None where undefined."""
    low: float | None = None
    high: float | None = None
    unit: str = "number"
    """share (a fraction, printed in per cent), number, or count."""
    of: Content = field(default_factory=dict, repr=False, compare=False)
    """The row or cell of the scores that it stands in."""

    def __str__(self) -> str:
        if self.unit == "count":
            return f"{self.value:g} {self.measure}"
        return f"{self.measure} {number(self.value, self.low, self.high, UNITS[self.unit])}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the row."""
        return {name: value for name, value in vars(self).items() if name != "of"}


def benchmark_name(benchmark: str, dataset: str) -> str:
    """POPE or CV-Bench, or its counterpart in the rendered world; empty for other kinds of run."""
    if benchmark == "pope":
        return "POPE-Scenes" if dataset == SCENES else "POPE"
    return (dataset or "CV-Bench") if benchmark == "cvbench" else ""


def headlines(benchmark: str, scores: Content) -> list[Headline]:
    """The headline of a run; empty for a kind of run that has none.

    Raises:
        RunFolderError: the scores are not as that kind of run writes them.
    """
    read = KINDS.get(benchmark)
    try:
        return [] if read is None else list(read(scores))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(
            f"scores.json is damaged or of another version ({type(error).__name__}: {error}); give the run's command "
            "again to score it"
        ) from None


def lead(scores: Content, field: str) -> str:
    """The first protocol or reading of a run: `field` is the rows' name for it."""
    named = scores.get("settings", {}).get(f"{field}s")
    if named:
        return str(named[0])
    return str(next(row[field] for row in scores["rows"] if row["condition"] == "image"))


def _pope(scores: Content) -> Iterator[Headline]:
    protocol = lead(scores, "protocol")
    own = [r for r in scores["rows"] if (r["condition"], r["protocol"]) == ("image", protocol)]
    versions = list(dict.fromkeys(r["data_version"] for r in own))
    for version in versions:
        rows = {r["split"]: r for r in own if r["data_version"] == version}
        split = "mean" if "mean" in rows else next(iter(rows))
        about = f"{rows[split]['dataset']}" if len(versions) > 1 else ""
        suffix = "" if split == "mean" else f" {split}"
        yield _flat(f"F1{suffix}", about, rows[split], "f1")
        yield _flat(f"accuracy{suffix}", about, rows[split], "accuracy")


def _cvbench(scores: Content) -> Iterator[Headline]:
    reading = lead(scores, "reading")
    rows = {r["score"]: r for r in scores["rows"] if (r["condition"], r["reading"]) == ("image", reading)}
    name = next((n for n in ("official", "row mean") if n in rows), None)
    if name is not None:
        yield _flat(name, "", rows[name], "accuracy")


def _flat(measure: str, about: str, row: Content, name: str) -> Headline:
    value, low, high = (_number(row[name + ending]) for ending in ("", "_low", "_high"))
    return Headline(measure, about, value, low, high, "share", row)


def _similarity(scores: Content) -> Iterator[Headline]:
    for cell in scores["cells"]:
        if cell["headline"] and (cell["space"], cell["pooling"], cell["form"]) == ("hidden", "mean", "raw"):
            kind = "" if cell["kind"] == "other" else f" {cell['kind']}"
            yield _interval(f"AUROC{kind}", cell["model"], cell["auroc"])


def _grounding(scores: Content) -> Iterator[Headline]:
    for model, held in scores["models"].items():
        if "headline" in held:
            yield _interval("IoU", model, held["headline"]["iou"])


def _padding(scores: Content) -> Iterator[Headline]:
    rows = [r for r in scores["attention"] if (r["group"], r["query"], r["layer"]) == ("non-square", "object", None)]
    for model in dict.fromkeys(r["checkpoint"] for r in scores["attention"]):
        ratios = {r["condition"]: r["attended"]["ratio"] for r in rows if r["checkpoint"] == model}
        defined = [c for c in ("native", "letterbox black") if c in ratios and ratios[c]["value"] is not None]
        if defined:
            own = "" if defined[0] == "native" else ", black"
            yield _interval(f"padding ratio{own}", model, ratios[defined[0]])
        else:
            yield Headline("padding ratio", str(model), None)


def _linkage(scores: Content) -> Iterator[Headline]:
    for model, held in scores["models"].items():
        errors = held["targets"]["error"]
        yield _interval("AUROC of errors by confidence", model, errors["signals"]["confidence"]["auroc"])
        added = errors["added_by_attention"].get("margin and prior")
        if added is not None:
            yield _interval("with margin, prior and attention", model, added["full"])


def _signs(scores: Content) -> Iterator[Headline]:
    for model in dict.fromkeys(r["model"] for r in scores["readings"]):
        counts = Counter(r["verdict"] for r in scores["readings"] if r["model"] == model)
        for verdict in (*VERDICTS, *sorted(set(counts) - set(VERDICTS))):
            if counts[verdict]:
                yield Headline(str(verdict), str(model), counts[verdict], unit="count")


def _interval(measure: str, about: str, cell: Content) -> Headline:
    return Headline(measure, str(about), _number(cell["value"]), _number(cell["low"]), _number(cell["high"]), of=cell)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _lmms(scores: Content) -> Iterator[Headline]:
    for row in scores["rows"]:
        if isinstance(row.get("value"), (int, float)):
            yield Headline(str(row["metric"]), str(row["task"]), row["value"], of=row)


KINDS: dict[str, Callable[[Content], Iterator[Headline]]] = {
    "pope": _pope,
    "cvbench": _cvbench,
    "similarity": _similarity,
    "grounding": _grounding,
    "padding": _padding,
    "linkage": _linkage,
    "failure-signs": _signs,
    "lmms": _lmms,
}
