"""Put the arms of a trained recipe into the package: `python -m reports.scenes.ship --runs runs/scenes --seed 0`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

SHIPPED = {"age-vlm": "age-vlm", "ca-baseline": "ca-baseline", "concat": "concat-unfrozen"}
"""Name in the package -> arm."""
WHAT = {
    "age-vlm": "AGE-VLM: gated cross-attention, taught where to look by exact masks of a tenth of the pictures.",
    "ca-baseline": "The baseline without guidance: gated cross-attention as AGE-VLM's, with the same data and steps.",
    "concat": "The concatenation baseline: 144 visual tokens in the text; its language model is trained in stage 4.",
}
SCORES = {
    "POPE-Scenes, random": "random/accuracy",
    "POPE-Scenes, popular": "popular/accuracy",
    "POPE-Scenes, adversarial": "adversarial/accuracy",
    "counting": "count/accuracy",
    "counting, blind": "count/blind",
    "colour": "color/accuracy",
    "colour, blind": "color/blind",
    "relation": "relation/accuracy",
    "relation, blind": "relation/blind",
    "depth": "depth/accuracy",
    "depth, blind": "depth/blind",
    "distance": "distance/accuracy",
    "distance, blind": "distance/blind",
    "attention IoU, object word": "looks/word_iou",
    "attention on the object, object word": "looks/word_mass",
}


def card(name: str, seed: int, measured: Mapping[str, Mapping[str, Any]], images: int) -> str:
    """A checkpoint's README.md."""
    from agevlm.scenes.world import WORLD_VERSION
    from reports.scenes.tables import cell

    rows = [f"| {said} | {cell(measured[key])} |" for said, key in SCORES.items() if key in measured]
    table = "\n".join(["| | % |", "|---|---:|", *rows])
    return f"""# scenes/{name}

{WHAT[name]}

A small model for demonstrations and tests: it knows the rendered world of `agevlm.scenes` (version {WORLD_VERSION})
and nothing else, its vocabulary is about 200 words, its pictures have 96 pixels. It is no stand-in for the paper's
model; what it shows, and how it was made, stands in docs/scenes.md. Trained by `agevlm-train scenes`, seed {seed};
weights in float16.

Measured before halving the weights, on {images:,} held-out test scenes (95% intervals over images; ranked options;
blind: the same model without the image):

{table}

Use: `agevlm-eval pope --ckpt scenes/{name}`, or any command that takes `--ckpt`; in Python
`AgeVlmForConditionalGeneration.from_pretrained(agevlm.data.checkpoint_files.find_folder("scenes/{name}", "model"))`.

Biases: it inherits the world's co-occurrence priors by design, so that hallucination can be measured.
License: Apache-2.0.
"""


@click.command()
@click.option("--runs", required=True, type=click.Path(path_type=Path, exists=True), help="Folder of the recipe.")
@click.option("--seed", default=0, show_default=True, type=int)
def main(runs: Path, seed: int) -> None:
    """Replace the checkpoints in the package."""
    from agevlm.checkpoints.shipping import ship
    from agevlm.data.checkpoint_files import EMBEDDED, SCENES
    from reports.scenes.summary import gather
    from train.scenes.recipe import Recipe

    recipe = Recipe(runs.resolve(), (seed,))
    summary = gather(recipe, list(SHIPPED.values()))
    models = {name: recipe.model(arm, seed) for name, arm in SHIPPED.items()}
    cards = {name: card(name, seed, summary.arms[arm], summary.images) for name, arm in SHIPPED.items()}
    sizes = ship(models, EMBEDDED / SCENES, cards)
    for file, size in sizes.items():
        click.echo(f"{size:>12,}  {file}")
    click.echo(f"{sum(sizes.values()):>12,}  together")


if __name__ == "__main__":
    main()
