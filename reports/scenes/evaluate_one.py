"""`python -m reports.scenes.evaluate_one`: one checkpoint, in a process of its own with one thread."""

from __future__ import annotations

from pathlib import Path

import click

from agevlm.cli import run
from agevlm.errors import DataError


@click.command()
@click.option("--ckpt", "checkpoint", required=True, type=click.Path(path_type=Path), help="Folder of the model.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Where rendered scenes are kept.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for what is found.")
@click.option("--images", default=1000, show_default=True, type=click.IntRange(2), help="Test scenes to ask about.")
@click.option("--scenes", default=1000, show_default=True, type=click.IntRange(2), help="Rendered scenes of a split.")
@click.option(
    "--split",
    default="test",
    show_default=True,
    type=click.Choice(["test", "validation"]),
    help="Scenes to ask about; settings are chosen on validation.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of which questions are asked.")
def main(checkpoint: Path, data: Path, out: Path, images: int, scenes: int, split: str, seed: int) -> None:
    """Ask a checkpoint about held-out scenes and see where it looks; writes scores.json and rows into a folder."""
    import torch

    from reports.scenes.evaluate import evaluate
    from train.scenes.store import SceneStore

    torch.set_num_threads(1)
    if images > scenes:
        raise DataError(f"--images {images}: only {scenes} scenes are rendered")
    asked, validation = (SceneStore.open(data, name, scenes, workers=1) for name in (split, "validation"))
    scores = evaluate(checkpoint, asked, validation, out, images, seed)
    for kind, found in scores["answers"].items():
        accuracy = found["accuracy"]
        click.echo(f"{kind:12} {accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]")


if __name__ == "__main__":
    run(main)
