"""Published results of other models, and which of them may stand beside a measured number.

`published.csv` has one row per model, benchmark, split and metric, as a public source prints it (docs/published.md).
The names of metrics are a closed list: a published figure stands only beside a measured one of the same name. So a mean
of three F1s never meets an accuracy or a pooled F1, and a figure whose metric nobody states meets nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from urllib.parse import urlsplit

from agevlm.errors import DataError
from benchmarks.pope import versions
from benchmarks.pope.types import SPLITS

CSV = Path(__file__).with_name("published.csv")

POPE, REPOPE, CV_BENCH = "POPE", "RePOPE", "CV-Bench"
"""POPE is the one on COCO images; RePOPE has its questions with corrected labels."""
NOT_STATED = "not stated"
NO_FORMULA = "accuracy, formula not stated"
"""An accuracy of CV-Bench; whether over questions, sources or tasks is not stated."""
UNDEFINED = frozenset({NOT_STATED, NO_FORMULA})
"""Metrics that say too little to be compared."""

_POPE_PLACES = {"mean": "mean of three splits", "pooled": "pooled", **{split: split for split in SPLITS}}
_POPE_SCORES = {"accuracy": "accuracy", "f1": "F1"}
_POPE_METRICS = {f"{score} {place}": split for score in _POPE_SCORES.values() for split, place in _POPE_PLACES.items()}
_CV_SCORES = {
    "official": ("accuracy, official formula", "all"),
    "row mean": ("accuracy, over questions", "all"),
    "2D": ("accuracy 2D, mean of ADE20K and COCO", "2D"),
    "3D": ("accuracy 3D, over questions", "3D"),
}
METRICS: Mapping[str, Mapping[str, str]] = {
    POPE: _POPE_METRICS,
    REPOPE: _POPE_METRICS,
    CV_BENCH: dict(_CV_SCORES.values()),
}
"""Benchmark -> metric -> its split. `UNDEFINED` ones are known besides."""

_SIZE = re.compile(r"\d+(\.\d+)?[MB](x\d+)?( LLM)?")
_CV_BENCH_VERSION = re.compile(r"cv-bench(?: (2D|3D))?@[0-9a-f]+")


@dataclass(frozen=True)
class Published:
    """One published figure."""

    model: str
    size: str
    """As the source names it ("1.7B", "1.8Bx4"); with " LLM" the language model's; or "not stated"."""
    benchmark: str
    """POPE (on COCO), RePOPE or CV-Bench."""
    split: str
    """POPE: mean, pooled, random, popular, adversarial; CV-Bench: all, 2D, 3D; or "not stated"."""
    metric: str
    """One of `METRICS` or `UNDEFINED`."""
    value: Decimal | None
    """Percent, with the digits that the source prints. None: not available, and `note` says why."""
    data_version: str
    """As `agevlm-eval` names it ("pope-coco@e3e3926"); empty if the source does not say."""
    prompt: str
    """What is asked after each question, in its own words; empty if the source does not say."""
    source: str
    """URL of the page that prints the figure."""
    metric_source: str
    """URL of the page that says what the figure is; empty where nobody says so."""
    date: str
    """Of the source, YYYY-MM-DD or YYYY-MM."""
    note: str


FIELDS = tuple(Published.__dataclass_fields__)


# --- reading ----------------------------------------------------------------------------------------------------------


def load(path: Path | None = None) -> tuple[Published, ...]:
    """The published results, in the order of the file (the one that comes with the package by default).

    Raises:
        DataError: for a file that cannot be read, other columns, no rows, a field that says nothing valid, or a figure
            given twice; it names file, line and field.
    """
    path = path or CSV
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = tuple(_rows(path, file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table of published results: {error}") from error
    if not rows:
        raise DataError(f"{path}: no published results; give rows below the line of column names")
    return rows


def _rows(path: Path, lines: Iterable[str]) -> Iterator[Published]:
    reader = csv.reader(lines, strict=True)
    header = next(reader, [])
    if tuple(header) != FIELDS:
        raise DataError(f"{path}, line 1: columns {', '.join(header)}; give {', '.join(FIELDS)}")
    seen: dict[tuple[str, ...], int] = {}
    for cells in reader:
        where = f"{path}, line {reader.line_num}"
        if len(cells) != len(FIELDS):
            raise DataError(f"{where}: {len(cells)} fields; give {len(FIELDS)}, in the order of the column names")
        row = _row(where, dict(zip(FIELDS, cells, strict=True)))
        key = (row.model, row.benchmark, row.split, row.metric, row.source)
        if key in seen:
            raise DataError(f"{where}: the same model, benchmark, split, metric and source as line {seen[key]}")
        seen[key] = reader.line_num
        yield row


def _row(where: str, cells: Mapping[str, str]) -> Published:
    for field, text in cells.items():
        if text != text.strip():
            raise DataError(f"{where}, {field}: {text!r} has white space around it; take it away")
    for field in ("model", "size", "benchmark", "split", "metric", "source", "date"):
        if not cells[field]:
            raise DataError(f"{where}, {field}: empty; give one")
    texts = {field: text for field, text in cells.items() if field != "value"}
    row = Published(value=_value(where, cells["value"]), **texts)
    if row.size != NOT_STATED and not _SIZE.fullmatch(row.size):
        raise DataError(f"{where}, size: {row.size!r}; give it as 1.7B, 450M, 1.1B LLM, or {NOT_STATED}")
    _check_metric(where, row)
    if row.value is None and not row.note:
        raise DataError(f"{where}, note: empty; a row without a value says there why it has none")
    _check_version(where, row)
    _check_url(where, "source", row.source)
    if (row.metric == NOT_STATED) == bool(row.metric_source):
        raise DataError(
            f"{where}, metric_source: {row.metric_source!r} for the metric {row.metric!r}; give the page that says "
            f"what the figure is, and none where the metric is {NOT_STATED}"
        )
    if row.metric_source:
        _check_url(where, "metric_source", row.metric_source)
    _check_date(where, row.date)
    return row


def _value(where: str, text: str) -> Decimal | None:
    if not text:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("nan")
    # 1 and less would be a fraction taken for a percentage: no published result is that low.
    if not (value.is_finite() and 1 < value <= 100):
        raise DataError(f"{where}, value: {text!r}; give percent, above 1 and at most 100, or nothing")
    return value


def _check_metric(where: str, row: Published) -> None:
    if row.benchmark not in METRICS:
        raise DataError(f"{where}, benchmark: {row.benchmark!r}; give {', '.join(METRICS)}")
    metrics = METRICS[row.benchmark]
    splits = {NOT_STATED, *metrics.values()}
    if row.metric in metrics:
        splits = {metrics[row.metric]}
    elif row.metric not in UNDEFINED or (row.metric == NO_FORMULA and row.benchmark != CV_BENCH):
        known = [*metrics, *([NO_FORMULA] if row.benchmark == CV_BENCH else []), NOT_STATED]
        raise DataError(f"{where}, metric: {row.metric!r}; of {row.benchmark} give {'; '.join(known)}")
    if row.split not in splits:
        raise DataError(f"{where}, split: {row.split!r}; the metric {row.metric!r} has {', '.join(sorted(splits))}")


def _check_version(where: str, row: Published) -> None:
    if row.data_version and benchmark_of(row.data_version, row.split) != row.benchmark:
        raise DataError(f"{where}, data_version: {row.data_version!r} is no known version of {row.benchmark}")


def _check_url(where: str, field: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "https" and "." in (parts.hostname or "") and not re.search(r"\s", url)
    except ValueError:
        valid = False
    if not valid:
        raise DataError(f"{where}, {field}: {url!r} is no address of a web page; give one that begins with https://")


def _check_date(where: str, text: str) -> None:
    whole = f"{text}-01" if re.fullmatch(r"\d{4}-\d{2}", text) else text
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", whole):
            raise ValueError
        date.fromisoformat(whole)
    except ValueError:
        raise DataError(f"{where}, date: {text!r}; give YYYY-MM-DD or YYYY-MM") from None


# --- comparing --------------------------------------------------------------------------------------------------------


def pope_metric(score: str, split: str, splits: Collection[str]) -> str | None:
    """The metric that a measured number of POPE is; None for one that is not published under a name.

    Args:
        score: "accuracy", "f1" or another field of a score row.
        split: of that row: a split's name, "mean" or "pooled".
        splits: the splits that were asked: a mean or pool of other than the three has no published counterpart.
    """
    if score not in _POPE_SCORES or split not in _POPE_PLACES:
        return None
    if split not in SPLITS and set(splits) != set(SPLITS):
        return None
    return f"{_POPE_SCORES[score]} {_POPE_PLACES[split]}"


def cvbench_metric(score: str) -> str | None:
    """The metric that a measured number of CV-Bench is ("official", "2D", "3D", "row mean"); None for any other."""
    return _CV_SCORES[score][0] if score in _CV_SCORES else None


def comparable(measured_metric: str, measured_data_version: str, row: Published) -> bool:
    """Whether a published figure may stand beside a measured one: see `why_not`."""
    return why_not(measured_metric, measured_data_version, row) is None


def why_not(measured_metric: str, measured_data_version: str, row: Published) -> str | None:
    """Why a published figure may not stand beside a measured one; None if it may.

    It may where benchmark, split and metric are the same, and the data version too unless the source does not say
    which it used. It says nothing of the reading of answers or the prompt: those a table has to show.

    Args:
        measured_metric: as `pope_metric` or `cvbench_metric` name it.
        measured_data_version: of the measured run's rows; a part of a benchmark (a limit, a task) or a custom file is
            no published benchmark.
        row: the published figure.

    Raises:
        ValueError: for a metric that is none of `METRICS`.
    """
    if not any(measured_metric in metrics for metrics in METRICS.values()):
        raise ValueError(f"no metric that is measured: {measured_metric!r}")
    if row.value is None:
        return "no figure is available"
    if row.metric in UNDEFINED:
        return f"what the figure is: {row.metric}"
    if row.metric != measured_metric:
        return f"another metric: {row.metric}"
    if benchmark_of(measured_data_version, row.split) != row.benchmark:
        return f"another benchmark: {row.benchmark}"
    if row.data_version and row.data_version != measured_data_version:
        return f"another data version: {row.data_version}"
    return None


def benchmark_of(data_version: str, split: str) -> str | None:
    """The benchmark whose split a data version holds whole; None for parts, other data and files of one's own.

    Args:
        data_version: as `agevlm-eval` names it.
        split: of CV-Bench all, 2D or 3D, which its halves are told by; any of POPE.
    """
    if (family := versions.family(data_version)) is not None:
        return {"coco": POPE, "repope-coco": REPOPE}.get(family)
    found = _CV_BENCH_VERSION.fullmatch(data_version)
    return CV_BENCH if found and found[1] in (None, split) else None
