"""The demo's look inside: the paper's two claims re-enacted on the shipped checkpoints; what came of them in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from agevlm.data.checkpoint_files import embedded_names
from reports.document import interval
from reports.sections.inside import side, verdict

Step = Callable[[str, list[str]], None]
Cell = Mapping[str, Any]
BASE = "scenes/age-vlm"
"""Its language model was never trained, and is the one that concat began with."""


def inside(out: Path, step: Step) -> list[Path]:
    """Similarity (Fig. 2), attention against masks, failure signs; all three checkpoints on the same scenes.

    Args:
        out: folder for the run folders.
        step: announces and runs one command.

    Returns:
        The run folders.
    """
    checkpoints = [part for name in embedded_names() for part in ("--ckpt", name)]
    folders = {name: out / name for name in ("similarity", "grounding", "failure-signs")}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)

    def run(name: str, *more: str) -> list[str]:
        return [name, *checkpoints, *more, "--draws", "1000", "--out", str(folders[name])]

    claim = "2a. The paper's Fig. 2: do matching captions lie nearer to their image than other images' captions?"
    step(claim, run("similarity", "--kind", "other", "--texts", "1", "--limit", "80"))
    tell(similarity_told(_scores(folders["similarity"])))
    claim = "2b. The paper's cure: does attention lie on the object that is asked about?"
    step(claim, run("grounding", "--limit", "40"))
    tell(grounding_told(_scores(folders["grounding"])))
    use = ["--use", str(folders["similarity"]), "--use", str(folders["grounding"])]
    step("2c. The paper's signs of failure", run("failure-signs", "--limit", "30", "--base", BASE, *use))
    click.echo(f"(--base {BASE}: its language model was never trained, so it and ca-baseline keep theirs by design)")
    return list(folders.values())


def tell(lines: Iterator[str]) -> None:
    """Print sentences."""
    click.secho("\nIn words:", bold=True)
    for line in lines:
        click.echo(f"  {line}")


def similarity_told(content: Cell) -> Iterator[str]:
    """What the AUROCs of mean-pooled hidden states say, raw and centred, against other images' captions."""
    for form in ("raw", "centred"):
        for cell in content["cells"]:
            if cell["headline"] and _main(cell, form):
                auroc = cell["auroc"]
                neither = "not told apart: the interval holds 0.5"
                found = side(auroc, 0.5, "told apart", "the wrong way round", neither)
                yield f"{form} states, {cell['model']}: AUROC {interval(auroc)}: {found}"
        for one in content["differences"]:
            if _main(one, form):
                yield f"{form} states, " + compared(one["first"], one["second"], "AUROC", one["auroc"])


def _main(cell: Cell, form: str) -> bool:
    return (cell["space"], cell["pooling"], cell["form"], cell["kind"]) == ("hidden", "mean", form, "other")


def grounding_told(content: Cell) -> Iterator[str]:
    """What IoU and mass inside the mask say, beside chance, and between checkpoints."""
    for name, held in content["models"].items():
        iou, mass = (held["headline"][score] for score in ("iou", "mass"))
        chance = iou["corrected"]["others"]
        not_shown = "not shown to be beyond chance"
        beyond = side(chance, 0.0, "beyond chance", not_shown, not_shown)
        yield (
            f"{name}: IoU {interval(iou)}, of the way from chance (maps of other images) to the grid's best "
            f"{interval(chance)}: {beyond}; {interval(mass)} of the attention on the object"
        )
    for pair, held in content["differences"].items():
        first, _, second = pair.partition(" - ")
        yield compared(first, second, "IoU", held["iou"])


def compared(first: str, second: str, what: str, cell: Cell) -> str:
    """A paired difference in words: established where the interval leaves 0 out, else a tie."""
    return f"{what} of {first} less that of {second}: {interval(cell, 'signed')}: {verdict(cell)}"


def _scores(folder: Path) -> Cell:
    content: Cell = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return content
