"""The commands that make models. Heavy imports happen inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agevlm.terminal import JSON, chat_template_text, consoles, write_json


def _cross_layers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of layer indices; give them as 2,7,12,17") from None


@click.command()
@click.option("--llama", required=True, metavar="DIR|ORG/NAME", help="The language model: a LLaMA in safetensors.")
@click.option(
    "--vision",
    required=True,
    metavar="DIR|FILE|NAME|ORG/NAME|random",
    help="The vision tower: a folder that timm saved, a .safetensors file, timm's name, a hub id, or untrained.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to write.")
@click.option("--architecture", metavar="NAME", help="timm's model name, for a bare file (needed) or random weights.")
@click.option("--image-size", type=click.IntRange(1), help="Side of the square input in pixels.  [768]")
@click.option("--num-stages", type=click.IntRange(1), help="Keep so many stages of the ConvNeXt.  [all]")
@click.option("--fusion", type=click.Choice(["cross", "concat"]), help="How text sees the image.  [cross]")
@click.option(
    "--cross-layers",
    metavar="2,7,12,17",
    callback=_cross_layers,
    help="Where cross-attention layers stand in the fused stack, from 0.  [one layer in five]",
)
@click.option(
    "--cross-mlp/--no-cross-mlp", default=None, help="Whether cross-attention layers have an MLP branch.  [yes]"
)
@click.option("--adapter", type=click.Choice(["mlp", "linear"]), help="From vision to text width.  [mlp]")
@click.option(
    "--visual-positions",
    type=click.Choice(["none", "learned", "sincos"]),
    help="Position embeddings of visual tokens.  [none]",
)
@click.option(
    "--mask-padding/--no-mask-padding", default=None, help="Hide visual tokens that hold padding alone.  [no]"
)
@click.option(
    "--resize",
    type=click.Choice(["letterbox", "squash", "crop"]),
    default="letterbox",
    show_default=True,
    help="How images become square.",
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="An AGE-VLM's config.json to follow; everything must fit it."
)
@click.option(
    "--chat-template", type=click.Path(path_type=Path), help="Jinja file.  [the one that suits the tokenizer]"
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Seed of the new weights."
)
@click.option(
    "--initializer-range",
    type=click.FloatRange(0, 1, min_open=True),
    help="Standard deviation of the new weights.  [LLaMA's, 0.02]",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="What weights are stored in; auto: as their sources have them, new ones in float32.",
)
@click.option("--force", is_flag=True, help="Replace an AGE-VLM checkpoint that stands at --out.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Load what was written and compare.")
def assemble(chat_template: Path | None, **options: Any) -> None:
    """Join a LLaMA and a ConvNeXt into an untrained AGE-VLM (stage 0).

    The gates of its cross-attention are shut: it says what its LLaMA says, with or without an image, until it is
    trained.

    \b
    agevlm-train assemble --llama meta-llama/Llama-3.2-1B-Instruct \\
        --vision convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_384 --out age-vlm-1b
    """
    from agevlm.model.assemble import AssembleSettings
    from agevlm.model.assemble import assemble as join
    from train.tables import assembled_lines

    made = join(AssembleSettings(chat_template=chat_template_text(chat_template), **options))
    for line in assembled_lines(made):
        click.echo(line)


@click.command()
@click.option("--ckpt", type=click.Path(path_type=Path), metavar="DIR", help="Of an AGE-VLM checkpoint.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Of an AGE-VLM's config.json.")
@click.option(
    "--backbone",
    type=click.Choice(["1b", "3b", "8b", "70b"]),
    help="Over LLaMA-3.2-1B or -3B, LLaMA-3.1-8B or -70B.  [1b, if nothing else is named]",
)
@click.option(
    "--fusion", default="both", show_default=True, type=click.Choice(["both", "cross", "concat"]), help="Columns."
)
@click.option("--no-cross-mlp", is_flag=True, help="Cross-attention layers without an MLP branch.")
@click.option(
    "--question-tokens",
    default=32,
    show_default=True,
    type=click.IntRange(1),
    help="Text tokens of a question, its chat layout included.",
)
@click.option(
    "--answer-tokens", default=2, show_default=True, type=click.IntRange(1), help="Of an answer, end included."
)
@click.option(
    "--questions", default=18, show_default=True, type=click.IntRange(1), help="Questions about each image (POPE: 18)."
)
@JSON
def describe(
    ckpt: Path | None, config: Path | None, backbone: str | None, json_out: str | None, **options: Any
) -> None:
    """Say what an AGE-VLM costs: parameters, operations per image and question, cache.

    Counted on the model itself, without memory for weights: any size on any machine. Cross-attention and concatenation
    (visual tokens in the text sequence) stand side by side.

    \b
    agevlm-train describe
    agevlm-train describe --backbone 70b --json -
    """
    from agevlm.model.describe import backbone_config, read_age_vlm_config, variant
    from agevlm.model.describe import describe as count
    from train.tables import print_description

    if sum(x is not None for x in (ckpt, config, backbone)) > 1:
        raise click.UsageError("--ckpt, --config and --backbone each name the model; give one of them")
    file = ckpt or config
    base = read_age_vlm_config(file) if file is not None else backbone_config(backbone or "1b")
    title = str(file) if file is not None else f"AGE-VLM over LLaMA {(backbone or '1b').upper()}"
    fusions = ("cross", "concat") if options["fusion"] == "both" else (options["fusion"],)
    cross_mlp = False if options["no_cross_mlp"] else None
    columns = [
        count(variant(base, fusion=fusion, cross_mlp=cross_mlp), options["question_tokens"]) for fusion in fusions
    ]
    questions, answer_tokens = options["questions"], options["answer_tokens"]
    write_json([column.as_json(questions, answer_tokens) for column in columns], json_out)
    if json_out == "-":
        return
    console, _ = consoles()
    print_description(console, title, columns, questions, answer_tokens)
