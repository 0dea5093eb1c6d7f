"""Run folders of the analyses, made by the real commands on small samples."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from agevlm.cli import eval_group
from analysis.failure_signs.signs import THRESHOLDS, read
from analysis.failure_signs.sources import grounding_signs, padding_signs, similarity_signs
from analysis.linkage.command import LinkageSettings, run_linkage
from analysis.padding.score import score
from benchmarks.prompts import OFFICIAL
from reports.document import Section, Table
from reports.opened import open_runs
from tests.analysis.linkage.planted import Rule, choice
from tests.analysis.padding.test_score import WAYS, records, table

KINDS = ("similarity", "grounding", "padding", "linkage", "failure-signs")
MODELS = ("scenes/age-vlm", "scenes/concat")
SCENES = "scenes:12"


def call(name: str, out: Path, *options: object) -> None:
    """A command on the shipped checkpoints; those it must not fail."""
    models = [word for model in MODELS for word in ("--ckpt", model)]
    given = [name, *models, "--draws", "100", *map(str, options), "--out", str(out)]
    with contextlib.suppress(SystemExit):
        eval_group.main(given, standalone_mode=False)
    assert (out / "scores.json").is_file()


def _scored(folder: Path, data: list[dict[str, Any]], scores: Mapping[str, Any]) -> None:
    """A run folder without records."""
    folder.mkdir()
    write(folder, {"draws": 100, "seed": 0, **scores})
    shared = {"schema": 1, "benchmark": folder.name, "data": data, "limit": None, "seed": 0}
    more = {"scoring": {"seed": 0, "draws": 100}, "models": {name: {} for name in MODELS}}
    write(folder, {**shared, **more, "prompt": {"name": "default", "template": "{question}"}}, "run.json")


def _padding(folder: Path) -> None:
    """What `padding` writes of records that are made up: its own scores of them."""
    hidden = {"hidden_yes": -1.0, "hidden_no": -0.5}
    made = {name: table(records(seed, lambda _: hidden)) for seed, name in enumerate(MODELS)}
    content = score(made, WAYS, draws=100, seed=0).to_json()
    _scored(folder, [{"name": "made", "data_version": "made-1"}], content)


def _signs(folder: Path, runs: Path) -> None:
    """What `failure-signs` writes of the other runs, but for the language, which is not measured."""
    similarity, grounding, padding = (scores_of(runs / kind) for kind in KINDS[:3])
    least = {one.measure: one.value for one in THRESHOLDS}
    readings = [
        reading.row()
        for name in MODELS
        for reading in read(
            name,
            similarity_signs(similarity, name) | padding_signs(padding, name) | grounding_signs(grounding, name, least),
            THRESHOLDS,
        )
    ]
    named = ("measure", "value", "side", "why")
    thresholds = [{name: getattr(one, name) for name in named} for one in THRESHOLDS]
    _scored(folder, [{"used": []}], {"readings": readings, "thresholds": thresholds})


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder for each of `KINDS`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # Drawings of their own that are no part of a report.
        patch.setattr("analysis.grounding.run._draw", lambda *_: [])
        patch.setattr("analysis.linkage.figures.draw", lambda *_: [])
        call("similarity", folder / "similarity", "--limit", 6, "--texts", 1, "--kind", "other", "--kind", "hard")
        call("grounding", folder / "grounding", "--regions", "scenes:4", "--mask-noise", "erode:0.3")
        _padding(folder / "padding")
        _signs(folder / "failure-signs", folder)
        # Models whose errors show in where they look: small samples of the shipped ones have hardly any errors.
        settings = LinkageSettings(
            models=(choice("looks", Rule(), SCENES), choice("random", Rule(looks=False), SCENES)),
            out=folder / "linkage",
            fresh=False,
            limit=None,
            seed=0,
            draws=100,
            json_out=None,
            questions=(SCENES,),
            images=None,
            annotations=None,
            splits=(),
            prompt=OFFICIAL,
            max_new_tokens=4,
            causal_images=11,
            places=1,
            border=0,
            allow_partial=False,
        )
        assert run_linkage(settings, Console(quiet=True), Console(quiet=True)) == 0
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Callable[[str], Path]:
    """Copies one of them into a folder of this test's own, to be changed."""

    def copied(kind: str, name: str = "") -> Path:
        return Path(shutil.copytree(made / kind, tmp_path / (name or kind)))

    return copied


def scores_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return found


def write(folder: Path, content: object, file: str = "scores.json") -> None:
    (folder / file).write_text(json.dumps(content))


def section_of(*folders: Path) -> Section:
    """The section of the folders' kind."""
    from importlib import import_module

    runs, left_out = open_runs(folders)
    assert not left_out
    name = {"failure-signs": "signs"}.get(runs[0].benchmark, runs[0].benchmark)
    found: Section | None = import_module(f"reports.sections.{name}").section(runs)
    assert found is not None
    return found


def drawn_not(*folders: Path) -> Section:
    """The section without the time that figures take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.sections.inside.Looks.figures", lambda *_: iter(()))
        return section_of(*folders)


def tables_of(*folders: Path) -> dict[str, Table]:
    """By id."""
    found = drawn_not(*folders)
    tables = {item.id: item for item in found.items if isinstance(item, Table)}
    assert len(tables) == len(found.items)
    return tables


def rows_of(table: Table) -> list[dict[str, str]]:
    """Each row by the names of its columns, and of those that a note says to be alike in all rows."""
    names = [column.name for column in table.columns]
    said = [note.removeprefix("In all rows ").removesuffix(".") for note in table.notes if note.startswith("In all")]
    alike = dict(one.split(": ", 1) for note in said for one in note.split("; "))
    assert not set(alike) & set(names)
    return [alike | dict(zip(names, map(str, row), strict=True)) for row in table.rows]


def row_of(table: Table, **wanted: str) -> dict[str, str]:
    """The one row whose cells say so."""
    (found,) = [row for row in rows_of(table) if all(row[name] == value for name, value in wanted.items())]
    return found


def shown(cell: Mapping[str, float | None], scale: float = 1, form: str = ".3f") -> str:
    """A value with its limits, if it has any, formatted without the project's own means."""
    value, low, high = (None if cell[name] is None else scale * cell[name] for name in ("value", "low", "high"))
    return f"{value:{form}}" if low is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"
