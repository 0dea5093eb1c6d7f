"""What differs between model families, in one place.

A family says what becomes of an image: features that replace placeholder tokens in the prompt, or keys and values that
stand in the cache before any text does. The default below holds wherever (1) `get_image_features` returns the features
that replace the placeholder tokens one for one, in order, and (2) positions are plain. Exceptions are subclasses; a
type that is not listed in `FAMILIES` is refused rather than guessed. torch is imported only when an image comes, so
that refusing is quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agevlm.errors import CheckpointError, NotSupported

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import DynamicCache

    from agevlm.geometry import Geometry


UNBOUNDED = 10**9
"""Context of language models that name none."""


class Family:
    """Image features replace `<image>` placeholder tokens one for one; positions are 0, 1, 2, ..."""

    adapter = "hf"
    plain_positions = True
    """Whether positions are 0, 1, 2, ... and each token sees exactly those before it."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.image_token: str = processor.image_token
        token: int | None = model.config.image_token_id
        self.image_token_id: int = -1 if token is None else token
        """The placeholder in token ids; -1, which no text holds, where there is none."""
        text_config = model.config.get_text_config()
        self.context: int = getattr(text_config, "max_position_embeddings", None) or UNBOUNDED
        """Positions the language model has."""
        windows = (getattr(text_config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        self.window: int | None = min((w for w in windows if w), default=None)
        """Tokens that some layer can look back, if limited."""

    def preprocess(self, image: Image) -> dict[str, torch.Tensor]:
        """One image as the model's vision inputs, on the model's device and in its dtype."""
        import torch

        inputs = self.processor.image_processor(images=[image], return_tensors="pt")
        device, dtype = self.model.device, self.model.dtype
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

    def start(self, features: Any | None) -> DynamicCache:
        """A cache of one row with what an image (or none) brings before any text: here nothing."""
        from transformers import DynamicCache

        return DynamicCache()

    def expand(self, text: str, placeholders: int) -> str:
        """The prompt with its one placeholder repeated as often as the processor would."""
        return text.replace(self.image_token, self.image_token * placeholders, 1)

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

    def attending_layers(self) -> list[int]:
        """Layers in which text can look at the image."""
        return list(range(self.model.config.get_text_config().num_hidden_layers))

    def attention(self, ids: torch.Tensor, features: Any, layers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Head-mean attention of every text token to the image.

        Args:
            ids: (1, length) a whole sequence, placeholders included.
            features: of its image.
            layers: to record.

        Returns:
            (layers, text tokens, cells) to the grid, row by row, and (layers, text tokens) to other visual tokens;
            float32 on the CPU.
        """
        import torch

        from agevlm.vlm.hf.attention import AttentionRows, recording

        is_visual = ids[0] == self.image_token_id
        visual = is_visual.nonzero().squeeze(1)
        wanted = AttentionRows((~is_visual).nonzero().squeeze(1), visual, list(layers))
        with recording(self.model.model.language_model, wanted):
            self.model(
                inputs_embeds=self.embed(ids, features),
                attention_mask=torch.ones_like(ids),
                use_cache=False,
                logits_to_keep=1,
            )
        rows = torch.stack([wanted.found[layer] for layer in layers])
        first, cells = self.before_grid, self.grid[0] * self.grid[1]
        if rows.shape[-1] < first + cells:
            raise NotSupported(
                f"the image has {rows.shape[-1]} visual tokens, but a grid of {self.grid[0]} x {self.grid[1]} would "
                f"need {first + cells}: where they lie is not known for this checkpoint"
            )
        return rows[..., first : first + cells], rows[..., :first].sum(-1) + rows[..., first + cells :].sum(-1)

    def embed(self, ids: torch.Tensor, features: Any | None) -> torch.Tensor:
        """Input embeddings of one row of token ids with features in place of placeholders: (1, length, hidden)."""
        embeddings = self.model.get_input_embeddings()(ids)
        mask = ids == self.image_token_id
        if features is None or not bool(mask.any()):
            return embeddings
        return embeddings.masked_scatter(mask.unsqueeze(-1), features.to(embeddings.dtype))


class Llava(Family):
    """LLaVA 1.5 and its kin (BakLLaVA, LLaVA-Interleave, TinyLLaVA-hf, ...)."""

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


class LlavaNext(Llava):
    """LLaVA-NeXT (1.6): tiles of the image, packed with newline features by the model itself.

    Its first visual tokens are a view of the whole image, which the grid stands for; tiles follow.
    """

    squash = True


class _AgeVlm(Family):
    adapter = "native"

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.model.config.vision_config.grid
        return rows, columns

    def geometry(self, width: int, height: int) -> Geometry:
        placed: Geometry = self.processor.image_processor.geometry(width, height)
        return placed


class AgeVlmCross(_AgeVlm):
    """AGE-VLM: an image is the keys and values of its cross-attention layers, made once; the text holds none of it."""

    def features(self, inputs: dict[str, torch.Tensor]) -> DynamicCache:
        """A cache of one row that holds the image alone."""
        return self.model.vision_cache(**inputs)

    def placeholders(self, features: DynamicCache) -> int:
        return 0

    def start(self, features: DynamicCache | None) -> DynamicCache:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config) if features is None else features

    def embed(self, ids: torch.Tensor, features: DynamicCache | None) -> torch.Tensor:
        embeddings: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    def attending_layers(self) -> list[int]:
        return list(self.model.config.text_config.cross_attention_layers)

    def attention(
        self, ids: torch.Tensor, features: DynamicCache, layers: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        from agevlm.model import ProbeRequest
        from agevlm.vlm.hf.prefix import Prefix

        positions = torch.arange(ids.shape[1], device=ids.device)
        output = self.model(
            input_ids=ids,
            past_key_values=Prefix((), features).cache(1),
            logits_to_keep=1,
            probe=ProbeRequest(torch.zeros_like(positions), positions, list(layers)),
        )
        rows = torch.stack(output.probe.attention).cpu()
        return rows, torch.zeros(rows.shape[:2])


class AgeVlmConcat(_AgeVlm):
    """AGE-VLM's concatenation baseline: visual tokens in the text sequence, as in LLaVA."""

    def features(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.get_image_features(inputs["pixel_values"]).pooler_output[0]


FAMILIES: dict[str, type[Family]] = {
    "age_vlm": AgeVlmCross,
    "age_vlm/concat": AgeVlmConcat,
    "llava": Llava,
    "llava_next": LlavaNext,
}
"""By model type, with the fusion after a slash where there are several."""


ROW_MARKS = ("pixtral",)
"""Vision towers whose prompts hold a mark after each row of patches: not one placeholder per feature."""


def family_class(config: Mapping[str, Any]) -> type[Family]:
    """The family of a checkpoint by its config.json.

    Raises:
        CheckpointError: a model type or vision tower that no family handles; names the known types.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        known = ", ".join(sorted(name for name in FAMILIES if "/" not in name))
        raise CheckpointError(f"model type {model_type!r} is not supported yet; supported: {known}")
    tower = (config.get("vision_config") or {}).get("model_type")
    if tower in ROW_MARKS:
        raise CheckpointError(
            f"model type {model_type!r} with a {tower!r} vision tower is not supported yet: its prompts mark the end "
            "of each row of patches"
        )
    return FAMILIES.get(f"{model_type}/{config.get('fusion')}", FAMILIES[model_type])
