"""What differs between model families: what becomes of an image, and how rows of text run on top of it.

An image becomes features that replace placeholder tokens in the prompt, or keys and values that stand in the cache. The
default below holds wherever (1) `get_image_features` returns the features that replace the placeholder tokens one for
one, in order, and (2) positions are plain. Here is LLaVA; others are in `age_vlm`, `general`, `tiled`, `mrope`,
`gemma` and `mllama`, and `table` says which type is whose. torch is imported only when an image comes, so that refusing
is quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agevlm.errors import NotSupported
from agevlm.vlm.hf.devices import input_device, vision_device

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image
    from transformers import DynamicCache

    from agevlm.geometry import Geometry
    from agevlm.vlm.hf.attention import AttentionRows
    from agevlm.vlm.hf.layout import Layout


UNBOUNDED = 10**9
"""Context of language models that name none."""


class Family:
    """Image features replace `<image>` placeholder tokens one for one; positions are 0, 1, 2, ..."""

    adapter = "hf"
    plain_positions = True
    """Whether positions are 0, 1, 2, ... and each token sees exactly those before it."""
    shares_prefix = True
    """Whether tokens that follow leave the keys and values of the prompt's beginning alone."""
    why_not = ""
    """What keeps rows from sharing their prefix, where something does."""
    blind = True
    """Whether it can be asked without an image."""
    probes = False
    """Whether it is known where the visual tokens lie in the image."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.image_token: str = processor.image_token
        token: int | None = getattr(model.config, "image_token_id", None)
        self.image_token_id: int = -1 if token is None else token
        """The placeholder in token ids; -1, which no text holds, where there is none."""
        text_config = model.config.get_text_config()
        self.context: int = getattr(text_config, "max_position_embeddings", None) or UNBOUNDED
        """Positions the language model has."""
        windows = (getattr(text_config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        self.window: int | None = min((w for w in windows if w), default=None)
        """Tokens that some layer can look back, if limited."""
        self.stretch = _stretch(text_config)
        """Tokens of a row beyond which the longest one decides the positions of all in a call, if so."""
        self.device = input_device(model)
        """Where token ids, positions and masks go."""

    def preprocess(self, image: Image) -> Any:
        """One image as the model's vision inputs, on the CPU. Any thread may call it."""
        return self.processor.image_processor(images=[image], return_tensors="pt")

    def moved(self, inputs: Any) -> dict[str, torch.Tensor]:
        """The tensors among a processor's outputs, on the vision tower's device, floats in the model's dtype."""
        import torch

        device, dtype = vision_device(self.model), self.model.dtype
        return {
            name: value.to(device, dtype) if torch.is_floating_point(value) else value.to(device)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def features(self, inputs: dict[str, torch.Tensor]) -> Any:
        """What the vision work leaves of one image; here features in text space, (visual tokens, hidden size)."""
        import torch

        output = self.model.get_image_features(**inputs)
        pooled = getattr(output, "pooler_output", output)
        if isinstance(pooled, (list, tuple)):
            pooled = torch.cat(list(pooled), dim=0)
        return pooled.reshape(-1, pooled.shape[-1])

    def placeholders(self, features: Any) -> int:
        """How many placeholder tokens stand for the image in the text."""
        return len(features)

    def prompt(self, text: str, features: Any) -> str:
        """A rendered prompt with its one placeholder written out as the processor would."""
        return self.expand(text, self.placeholders(features))

    def start(self, features: Any | None) -> DynamicCache:
        """A cache of one row with what an image (or none) brings before any text: here nothing."""
        from transformers import DynamicCache

        return DynamicCache()

    def expand(self, text: str, placeholders: int) -> str:
        """The prompt with its one placeholder repeated as often as the processor would."""
        return text.replace(self.image_token, self.image_token * placeholders, 1)

    def positions(self, ids: torch.Tensor, features: Any | None) -> torch.Tensor:
        """Positions of rows that run from their start: (rows, length), or with axes of their own in front."""
        import torch

        return torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)

    def shift(self, features: Any | None) -> int:
        """What is added to the index of a token after the image (or after the first row of all) for its position."""
        return 0

    def beginning(self, ids: torch.Tensor, features: Any | None, prompts: Sequence[int]) -> dict[str, Any]:
        """Further arguments of the model for rows that run from their start.

        Args:
            ids: (rows, length) right-padded token ids.
            features: of the image they hold, if any.
            prompts: how many tokens of each row are prompt; the rest continues it.
        """
        return {}

    def further(self, features: Any | None, rows: int, length: int, past: int) -> dict[str, Any]:
        """Further arguments of the model for so many more tokens of rows that have `past` tokens."""
        return {}

    def forward(self, ids: torch.Tensor, features: Any | None, **arguments: Any) -> Any:
        """The model's output for (rows, length) token ids, each row with its own copy of the features."""
        return self.model(inputs_embeds=self.embed_rows(ids, features), **arguments)

    def embed_rows(self, ids: torch.Tensor, features: Any | None) -> torch.Tensor:
        """`embed` for several rows: (rows, length, hidden)."""
        import torch

        if features is None or len(ids) == 1:
            return self.embed(ids, features)
        return torch.cat([self.embed(row[None], features) for row in ids])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the visual tokens that see the whole image."""
        raise NotSupported(f"where the visual tokens of model type {self.model.config.model_type!r} lie is not known")

    @property
    def before_grid(self) -> int:
        """Visual tokens before the grid's first (CLIP's class token, where it is kept)."""
        return 0

    def geometry(self, width: int, height: int) -> Geometry:
        """Where the grid's cells lie in an image of so many pixels. Raises DataError, NotSupported."""
        raise NotSupported(f"how images of model type {self.model.config.model_type!r} are resized is not known")

    def layout(self, features: Any, width: int, height: int) -> Layout:
        """Where the visual tokens of an image of so many pixels lie. Raises DataError, NotSupported."""
        from agevlm.vlm.hf.layout import Layout

        geometry, tokens = self.geometry(width, height), self.visual_tokens(features)
        try:
            return Layout.plain(geometry, tokens, self.before_grid)
        except ValueError as error:
            raise NotSupported(f"{error}: where they lie is not known for this checkpoint") from None

    def visual_tokens(self, features: Any) -> int:
        """How many visual tokens text can look at."""
        return self.placeholders(features)

    def attending_layers(self) -> list[int]:
        """Layers in which text can look at the image."""
        return list(range(self.model.config.get_text_config().num_hidden_layers))

    def outside(self, features: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What cross-attention is given of an image, (visual tokens, hidden), and which of it is seen, (visual tokens,)
        bool; None where visual tokens stand in the text."""
        return None

    @property
    def text_stack(self) -> Any:
        """The language model, whose layers attend to the image."""
        inner = self.model.model
        return inner.language_model if hasattr(inner, "language_model") else inner.text_model

    @contextmanager
    def recording(self, wanted: AttentionRows) -> Iterator[None]:
        """Record rows of attention to the visual tokens in the forward passes of this context."""
        from agevlm.vlm.hf.attention import recording

        with recording(self.text_stack, wanted):
            yield

    def columns(self, ids: Sequence[int]) -> list[int]:
        """Where the visual tokens are among the keys of attention to the image, for a row of token ids."""
        return [place for place, token in enumerate(ids) if token == self.image_token_id]

    def visual_end(self, ids: Sequence[int]) -> int:
        """How many tokens of a row are there when the image is whole; 0 where the text holds none of it."""
        return max(self.columns(ids), default=-1) + 1

    @contextmanager
    def hiding(
        self, rows: Sequence[Sequence[int]], past: int, hidden: Sequence[NDArray[np.bool_]]
    ) -> Iterator[dict[str, Any]]:
        """Hide visual tokens from text behind the image in the forward passes of this context.

        Args:
            rows: all token ids of each row, cached ones too.
            past: how many of them are cached.
            hidden: for each row (visual tokens,).

        Yields:
            Further arguments of the model.
        """
        import torch

        from agevlm.vlm.hf.attention import HiddenKeys, hiding

        columns = [self.columns(ids) for ids in rows]
        keys = torch.zeros((len(rows), max(map(max, columns)) + 1), dtype=torch.bool)
        for row, places, gone in zip(keys, columns, hidden, strict=True):
            row[places] = torch.from_numpy(gone)
        first = torch.tensor([self.visual_end(ids) - past for ids in rows])
        with hiding(self.text_stack, HiddenKeys(keys, first, self.attending_layers())):
            yield {}

    def embed(self, ids: torch.Tensor, features: Any | None) -> torch.Tensor:
        """Input embeddings of one row of token ids with features in place of placeholders: (1, length, hidden)."""
        embeddings = self.model.get_input_embeddings()(ids)
        mask = ids == self.image_token_id
        if features is None or not bool(mask.any()):
            return embeddings
        return embeddings.masked_scatter(mask.unsqueeze(-1), features.to(embeddings.device, embeddings.dtype))


def expect(family: Family, tokens: int, expected: int) -> None:
    """Refuse a number of visual tokens that is not the expected one. Raises NotSupported."""
    if tokens != expected:
        raise NotSupported(
            f"the image has {tokens} visual tokens where {expected} were expected of model type "
            f"{family.model.config.model_type!r}: where they lie is not known for this checkpoint"
        )


def _stretch(text_config: Any) -> int | None:
    """Where rotary positions begin to depend on the length of the call, as `longrope` and `dynamic` ones do."""
    given = getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
    ends = []
    for rope in (given, *(value for value in given.values() if isinstance(value, dict))):
        if rope.get("rope_type", rope.get("type")) in ("longrope", "dynamic"):
            original = rope.get("original_max_position_embeddings")
            original = original or getattr(text_config, "original_max_position_embeddings", None)
            ends.append(original or text_config.max_position_embeddings)
    return min(ends, default=None)


class Llava(Family):
    """LLaVA 1.5 and its kin (BakLLaVA, LLaVA-Interleave, TinyLLaVA-hf, ...)."""

    probes = True
    squash = False
    """Whether the view that the grid stands for is the image stretched to a square."""

    @property
    def grid(self) -> tuple[int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    @property
    def before_grid(self) -> int:
        full = getattr(self.model.config, "vision_feature_select_strategy", "default") == "full"
        tower = self.model.model.vision_tower
        # SigLIP and its kin have no class token to keep.
        return int(full and any(name.endswith("class_embedding") for name, _ in tower.named_parameters()))

    def geometry(self, width: int, height: int) -> Geometry:
        from agevlm.vlm.hf.preprocessing import clip_geometry

        images = self.processor.image_processor
        pad = bool(getattr(images, "do_pad", False)) and not self.squash
        placed = clip_geometry(images, (width, height), self.grid, pad=pad, squash=self.squash)
        # Patches need not fill the input: 27 of 14 pixels leave 6 of SigLIP's 384 unseen.
        rows, columns = self.grid
        patch = self.model.config.vision_config.patch_size
        return replace(placed, input_width=columns * patch, input_height=rows * patch)
