"""Where each number comes from: model, data, prompt, versions, hardware, and the command that makes the run again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.document import NONE, Cell, Column, Listing, Section, Table, slug
from reports.opened import Run
from reports.runs.files import printable
from reports.sections.summary import BENCHMARKS

FIELDS = ("field", "value")


def section(runs: Sequence[Run]) -> Section | None:
    """A table, the command and the manifest of every run."""
    items: list[Table | Listing] = []
    for place, run in enumerate(runs, start=1):
        name = f"{BENCHMARKS.get(run.benchmark, run.benchmark)}, {run.label}"
        rows = [[Cell(field), Cell(value)] for field, value in _facts(run)]
        id = f"run-{place}-{slug(f'{run.benchmark} {run.label}')[:60].strip('-')}"
        items.append(Table(id, f"Run {place}: {name}", [Column(f, False) for f in FIELDS], rows, folded=True))
        items.append(Listing(f"Run {place}: the command", _command(run), folded=False))
        items.append(Listing(f"Run {place}: run.json", json.dumps(run.manifest, indent=1, ensure_ascii=False)))
    return Section(
        "provenance",
        "Where the numbers come from",
        (
            "Every run folder says what was run on what. The fingerprint covers the model's weights, configuration, "
            "tokenizer, processor, chat template, precision and quantisation by content; the data's hash covers the "
            "questions. The same command on the same model and data goes on with a run folder that is there: it "
            "asks only what is not answered yet, and scores again.",
        ),
        items,
    )


def _command(run: Run) -> str:
    command = run.manifest.get("command")
    return str(command) if command else f"{run.folder / 'run.json'} states no command"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """Field and value; what a run does not state is left out, but for the model."""
    manifest = run.manifest
    yield "run folder", str(run.folder)
    yield "benchmark", run.benchmark
    for name, model in _models(manifest):
        yield "model", name
        yield from _of_model(model)
    yield from _of_data(manifest)
    for field in ("images", "limit", "conditions", "kinds", "queries", "tasks", "gen_kwargs", "thresholds"):
        if manifest.get(field) not in (None, [], {}):
            yield field, _text(manifest[field])
    prompt = manifest.get("prompt")
    if isinstance(prompt, dict):
        yield "prompt", f"{prompt.get('name', 'not stated')}: {_text(prompt.get('template'))}"
    elif prompt is not None:
        yield "prompt", _text(prompt)
    for field in ("decoding", "seed", "scoring", "packages", "python", "hardware", "created"):
        if manifest.get(field) is not None:
            yield field, _text(manifest[field])
    yield from _of_launches(manifest.get("launches"))


def _models(manifest: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    one, many = manifest.get("model"), manifest.get("models")
    if isinstance(one, dict):
        return [(_text(one.get("ckpt", "not stated")), one)]
    if isinstance(many, dict) and many:
        return [(str(name), held if isinstance(held, dict) else {}) for name, held in many.items()]
    return [("not stated", {})]


def _of_model(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model, fingerprint", _text(model.get("fingerprint", "not stated"))
    session = model.get("session")
    if not isinstance(session, dict):
        session = {}
    for field in ("adapter", "model_type", "dtype", "device_name", "attention", "batch_size", "reuse"):
        value = session.get(field, model.get(field))
        if value is not None:
            yield f"model, {field.replace('_', ' ')}", _text(value)


def _of_data(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data = manifest.get("data")
    for one in data if isinstance(data, list) else []:
        if isinstance(one, dict):
            version = one.get("data_version") or one.get("name") or "not stated"
            yield "data version", _text(version)
            for field, value in one.items():
                if field != "data_version" and value not in (None, [], {}, version):
                    yield f"data, {field.replace('_', ' ')}", _text(value)


def _of_launches(launches: Any) -> Iterator[tuple[str, str]]:
    there = [one for one in launches if isinstance(one, dict)] if isinstance(launches, list) else []
    yield "launches", f"{len(there)}"
    for number, one in enumerate(there, start=1):
        yield f"launch {number}", ", ".join(f"{field.replace('_', ' ')} {_text(value)}" for field, value in one.items())


def _text(value: Any) -> str:
    """A value in one line; a mapping as its fields."""
    if value is None:
        return NONE
    if isinstance(value, dict):
        return ", ".join(f"{printable(str(field))} {_text(held)}" for field, held in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return printable(str(value).replace("\n", "\\n"))
