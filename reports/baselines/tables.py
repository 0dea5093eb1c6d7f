"""Groups of published and measured figures as tables and as plain rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agevlm.errors import DataError
from reports.baselines.beside import Beside
from reports.baselines.measured import Measured
from reports.document import NONE, Cell, Column, Table, slug
from reports.published import NOT_STATED, UNDEFINED, Published

MEASURED, PUBLISHED = "measured", "published"
UNAVAILABLE = "not available to us"
NAMES = ("model", "size", "%", "is", "data version", "prompt", "source", "date")
OF_MEASURED = "is"
"""A column that says nothing where all is published."""


def table(group: Beside) -> Table:
    """One group: measured rows first, then published ones with the digits that their sources print."""
    prompts = _Names("prompt {}")
    sources = _sources([*group.published, *group.unavailable])
    measured = _alike(group.measured)
    rows = [
        *(_measured(one, readings, prompts) for one, readings in measured),
        *(_published(row, prompts, sources) for row in (*group.published, *group.unavailable)),
    ]
    notes = [*_about(group), *_read(measured), *prompts.told(), *_remarks(group), *_told(sources)]
    parts = [group.benchmark, group.metric, *([group.split] if group.metric in UNDEFINED else [])]
    kept = [i for i, name in enumerate(NAMES) if group.measured or name != OF_MEASURED]
    columns = [Column(NAMES[i], numeric=NAMES[i] == "%") for i in kept]
    shown = [[row[i] for i in kept] for row in rows]
    return Table(slug("-".join(["published", *parts, group.data_version or ""])), title(group), columns, shown, notes)


def title(group: Beside) -> str:
    """What the figures are of, and on which questions."""
    if group.metric in UNDEFINED:
        # "not stated" alone would be read as a split's or a model's.
        what = "what the figure is: not stated" if group.metric == NOT_STATED else group.metric
        split = "" if group.split == NOT_STATED else f" {group.split}"
        return f"{group.benchmark}{split}, {what}; published alone, beside nothing measured"
    both = "measured and published" if group.published else "measured"
    where = f" on {group.data_version}: {both}" if group.measured else ": published"
    return f"{group.benchmark}, {group.metric}, %{where}{', on other data than was measured' * group.elsewhere}"


class _Names:
    """Long texts in the order of their first use, by short names; a note under the table says what each is."""

    def __init__(self, form: str) -> None:
        self.form, self.known = form, dict[str, str]()

    def of(self, text: str) -> str:
        return self.known.setdefault(text, self.form.format(len(self.known) + 1))

    def told(self) -> Iterator[str]:
        for text, name in self.known.items():
            yield f"{name}: “{text}”"


def _alike(measured: Sequence[Measured]) -> list[tuple[Measured, list[str]]]:
    """Numbers of a model that are the same in several readings of its answers, once, with these readings' names."""
    found: dict[tuple[object, ...], tuple[Measured, list[str]]] = {}
    for one in measured:
        same = (one.model, one.fingerprint, one.data_version, one.prompt, str(one.cell), _counts(one))
        found.setdefault(same, (one, []))[1].append(one.reading)
    return list(found.values())


def _counts(one: Measured) -> str:
    row = one.row
    failed = f", {row['missing']:,} that the model failed on left out" if row["missing"] else ""
    undecided = f", {row['undecided']:,} undecided" if row.get("undecided") else ""
    return f"{row['n']:,} questions, {row['unparsed']:,} unparsed{undecided}{failed}"


def _measured(one: Measured, readings: Sequence[str], prompts: _Names) -> list[Cell]:
    prompt = one.prompt if one.prompt == NOT_STATED else prompts.of(one.prompt) if one.prompt else "nothing added"
    others = f" and {len(readings) - 1} alike" if len(readings) > 1 else ""
    kind = f"{MEASURED}, {readings[0]}{others}"
    source = f"model {one.fingerprint[:8]}" if one.fingerprint else "scored answers"
    texts = (kind, one.data_version, prompt, source, one.date or NONE)
    return [Cell(one.model), Cell(NONE), one.cell, *map(Cell, texts)]


def _published(row: Published, prompts: _Names, sources: Mapping[str, str]) -> list[Cell]:
    texts = (
        row.model,
        row.size,
        UNAVAILABLE if row.value is None else str(row.value),
        PUBLISHED,
        row.data_version or NOT_STATED,
        prompts.of(row.prompt) if row.prompt else NOT_STATED,
        sources[row.source],
        row.date,
    )
    return list(map(Cell, texts))


def short(url: str) -> str:
    """arXiv and number, owner and name on GitHub, else the host."""
    parts = urlsplit(url)
    path = parts.path.strip("/").split("/")
    host = (parts.hostname or "").removeprefix("www.")
    if host == "arxiv.org":
        return f"arXiv {path[-1]}"
    return f"GitHub {path[0]}/{path[1]}" if host == "github.com" and len(path) > 1 else host


def _sources(rows: Sequence[Published]) -> dict[str, str]:
    """Short names by address; two pages of one place are told apart by a number."""
    names: dict[str, str] = {}
    for url in dict.fromkeys(row.source for row in rows):
        taken = sum(short(other) == short(url) for other in names)
        names[url] = short(url) + (f" ({taken + 1})" if taken else "")
    return names


def _told(sources: Mapping[str, str]) -> Iterator[str]:
    for url, name in sources.items():
        yield f"{name}: {url}"


def _about(group: Beside) -> Iterator[str]:
    if group.metric in UNDEFINED:
        yield "Nobody says how these figures are made: nothing measured may stand beside them, nor one beside another."
    elif group.measured and group.published:
        yield (
            "Beside each other by metric and questions alone. The prompt is shown where it is stated. What read the "
            "answers stands behind “measured”; how those of published rows were read and generated is rarely stated."
        )
    elif group.measured:
        yield "Nobody in our list publishes a figure of this metric on these questions."
    elif group.elsewhere:
        yield "The metric is what was measured too, the questions are not: these figures stand beside nothing measured."
    if any(not row.data_version for row in group.published):
        yield "Data version not stated: the source does not say which release of the questions was asked."
    if any(row.size.endswith(" LLM") for row in group.published):
        yield "A size with LLM is the language model's alone."


def _read(measured: Sequence[tuple[Measured, Sequence[str]]]) -> Iterator[str]:
    if measured:
        yield "Limits are 95 % bootstrap intervals over images; published rows have none."
    for one, readings in measured:
        yield f"{one.model}, read by {', '.join(readings)}: {_counts(one)}."


def _remarks(group: Beside) -> Iterator[str]:
    """What one must know of rows, said once for all that share it."""
    models: dict[str, list[str]] = {}
    for row in (*group.published, *group.unavailable):
        said = [f"what the figure is: {row.metric_source}"] if row.metric_source not in ("", row.source) else []
        if row.note or said:
            models.setdefault("; ".join([*([row.note] if row.note else []), *said]), []).append(row.model)
    for remark, names in models.items():
        yield f"{', '.join(dict.fromkeys(names))}: {remark}"


def plain(group: Beside) -> list[dict[str, Any]]:
    """The same rows for programs: values in percent, `printed` as the table has it, addresses in full."""
    head: dict[str, Any] = {"benchmark": group.benchmark, "metric": group.metric, "split": group.split}
    head["beside_data_version"] = group.data_version
    return [
        *(head | _plain_measured(one) for one in group.measured),
        *(head | _plain_published(row) for row in (*group.published, *group.unavailable)),
    ]


def _plain_measured(one: Measured) -> dict[str, Any]:
    limits = {"value": one.score, "low": f"{one.score}_low", "high": f"{one.score}_high"}
    numbers = {name: one.row.get(field) for name, field in limits.items()}
    return {
        "is": MEASURED,
        "model": one.model,
        "size": None,
        **{name: None if value is None else 100 * value for name, value in numbers.items()},
        "printed": str(one.cell),
        "data_version": one.data_version,
        "prompt": one.prompt,
        "read_by": one.reading,
        "fingerprint": one.fingerprint,
        "date": one.date,
        **{name: one.row[name] for name in ("n", "missing", "unparsed")},
    }


def _plain_published(row: Published) -> dict[str, Any]:
    return {
        "is": PUBLISHED,
        "model": row.model,
        "size": row.size,
        "value": None if row.value is None else float(row.value),
        "printed": UNAVAILABLE if row.value is None else str(row.value),
        "data_version": row.data_version or NOT_STATED,
        "prompt": row.prompt or NOT_STATED,
        "source": row.source,
        "metric_source": row.metric_source or NOT_STATED,
        "date": row.date,
        "note": row.note,
    }


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plain rows as one CSV; what a row has not got is empty.

    Raises:
        DataError: it cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise DataError(f"--csv {path}: cannot write: {error.strerror}") from None
