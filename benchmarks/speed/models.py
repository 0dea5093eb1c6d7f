"""The models that can be measured: a real checkpoint, or a random one of some kind and size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agevlm.checkpoints.tiny import AgeVlmShape, TinyLlava
    from agevlm.vlm.hf.session import HfVlm

LLAVA = "llava"
FUSIONS = {"age-vlm": "cross", "age-vlm-concat": "concat"}
KINDS = (LLAVA, *FUSIONS)
WIDTHS = {"small": 512, "medium": 768}
FIXED = ("tiny", "paper")
SIZES = ("tiny", *WIDTHS, "paper")


@dataclass(frozen=True)
class Random:
    """A random model that says Yes or No and stops."""

    kind: str = LLAVA
    size: str = "small"
    layers: int | None = None
    """Of LLaMA and of CLIP; the size's own if None."""
    hidden: int | None = None
    """Text width; the size's own if None."""

    def __str__(self) -> str:
        return f"random {self.kind}, {self.size} size"

    def shape(self) -> TinyLlava | AgeVlmShape:
        """All its sizes: 576 visual tokens unless tiny.

        Raises:
            click.BadParameter: a size that this kind does not have, or widths that do not divide.
        """
        if self.size == "paper" and self.kind == LLAVA:
            raise click.BadParameter(
                f"paper is the size of AGE-VLM: give --model {' or '.join(FUSIONS)} with it; for a LLaVA of real size, "
                "give its checkpoint as --ckpt",
                param_hint="--size",
            )
        if self.size in FIXED and (self.layers or self.hidden):
            raise click.BadParameter(f"{self.size} has its own layers and width", param_hint="--layers, --hidden")
        if self.hidden is not None and self.hidden % 256:
            raise click.BadParameter("must be a multiple of 256", param_hint="--hidden")
        return self._llava() if self.kind == LLAVA else self._age_vlm()

    def _llava(self) -> TinyLlava:
        from agevlm.checkpoints.tiny import TinyLlava

        if self.size == "tiny":
            return TinyLlava()
        width, depth = self.hidden or WIDTHS[self.size], self.layers or 6
        vision = width * 3 // 4
        return TinyLlava(
            image_size=336,
            vision_hidden=vision,
            vision_layers=depth,
            vision_heads=vision // 64,
            text_hidden=width,
            text_layers=depth,
            text_heads=width // 64,
            text_kv_heads=width // 128,
            vocabulary=2048,
        )

    def _age_vlm(self) -> AgeVlmShape:
        from agevlm.checkpoints.tiny import PAPER_SHAPE, AgeVlmShape
        from agevlm.model.configuration import default_cross_attention_layers

        fusion = FUSIONS[self.kind]
        if self.size == "tiny":
            return AgeVlmShape(image_size=128, num_stages=None, fusion=fusion)
        if self.size == "paper":
            return replace(PAPER_SHAPE, fusion=fusion)
        width, depth = self.hidden or WIDTHS[self.size], self.layers or 8
        crossing = default_cross_attention_layers(depth)
        vision = width * 3 // 4
        return AgeVlmShape(
            image_size=768,
            # Without layer scale: at its initial 1e-6 nothing of a block would reach the features.
            model_args={
                "depths": (2, 2, 6, 2),
                "dims": (vision // 8, vision // 4, vision // 2, vision),
                "ls_init_value": None,
            },
            num_stages=None,
            text_hidden=width,
            text_intermediate=4 * width,
            text_layers=depth + len(crossing),
            cross_layers=tuple(crossing),
            text_heads=width // 64,
            text_kv_heads=width // 128,
            vocabulary=2048,
            fusion=fusion,
        )

    def build(self, folder: str | Path) -> Path:
        """Write the checkpoint.

        An AGE-VLM is written in bfloat16 whatever it is run in: half the memory and disk, and a run in float32 has the
        very weights of one in bfloat16.
        """
        from agevlm.checkpoints.tiny import TinyLlava, build_age_vlm, build_tiny_llava

        shape = self.shape()
        if isinstance(shape, TinyLlava):
            return build_tiny_llava(folder, answers=True, sizes=shape)
        # At either seed the model says both Yes and No, without which equal answers would mean little.
        seed = 3 if self.size == "tiny" else 0
        return build_age_vlm(folder, answers=True, seed=seed, shape=shape, dtype="bfloat16")


def load_model(wanted: str | Random, dtype: str, device: str) -> HfVlm:
    """The checkpoint of that name, or a random one; its folder is gone when this returns, however it returns."""
    with opened(wanted, dtype, device) as (vlm, _):
        return vlm


@contextmanager
def opened(wanted: str | Random, dtype: str, device: str) -> Iterator[tuple[HfVlm, Path]]:
    """The model and its folder; a random one's is there in this context alone."""
    from transformers.utils import logging

    from agevlm.vlm.hf.checkpoint import find_checkpoint
    from agevlm.vlm.hf.session import HfVlm

    logging.disable_progress_bar()
    if isinstance(wanted, str):
        found = find_checkpoint(wanted)
        yield HfVlm.load(found, dtype=dtype, device=device), found.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield HfVlm.load(wanted.build(folder), dtype=dtype, device=device), Path(folder)
