"""Configuration of AGE-VLM.

The defaults are the paper's model: LLaMA-3.2-1B, ConvNeXt-L at 768 pixels, 576 visual tokens.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig, PreTrainedConfig

SELF_ATTENTION = "full_attention"
CROSS_ATTENTION = "cross_attention"
FUSIONS = ("cross", "concat")
ADAPTERS = ("mlp", "linear")
VISUAL_POSITIONS = ("none", "learned", "sincos")

LLAMA_3_2_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def default_cross_attention_layers(llama_layers: int) -> list[int]:
    """Indices in the fused stack: one cross-attention layer for four of LLaMA's, the first after two of them.

    16 LLaMA layers give the paper's 2, 7, 12, 17 of 20 (0-based); 32 give 2, 7, ..., 37 of 40.
    """
    return [2 + 5 * i for i in range(max(1, llama_layers // 4))]


@strict
class AgeVlmTextConfig(LlamaConfig):
    """The fused text stack: LLaMA's own layers with gated cross-attention layers between them.

    `num_hidden_layers` counts the fused stack. All other sizes are LLaMA's.

    Raises:
        ValueError: a cross-attention index at layer 0, outside the stack, or named twice.
    """

    model_type = "age_vlm_text"
    base_config_key = "text_config"

    vocab_size: int = 128256
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 20
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    bos_token_id: int | None = 128000
    eos_token_id: int | list[int] | None = 128001
    tie_word_embeddings: bool = True
    cross_attention_layers: list[int] | None = None
    """Where the cross-attention layers stand in the fused stack, 0-based; None for the paper's one in five."""
    cross_attention_mlp: bool = True
    """Whether a cross-attention layer has a gated MLP branch of its own (201 M parameters at 1B size)."""
    rope_parameters: Any = None
    """transformers' description of the rotary positions; None for LLaMA 3.2's."""
    layer_types: list[str] | None = None
    """Derived: what each layer of the fused stack is. Caches are built from it."""

    def __post_init__(self, **kwargs: Any) -> None:
        if self.cross_attention_layers is None:
            # Of n fused layers one in five is cross-attention.
            self.cross_attention_layers = default_cross_attention_layers(self.num_hidden_layers * 4 // 5)
        self.cross_attention_layers = sorted(self.cross_attention_layers)
        self._check_layers()
        crossing = set(self.cross_attention_layers)
        self.layer_types = [CROSS_ATTENTION if i in crossing else SELF_ATTENTION for i in range(self.num_hidden_layers)]
        if self.rope_parameters is None and not {"rope_theta", "rope_scaling"} & kwargs.keys():
            self.rope_parameters = dict(LLAMA_3_2_ROPE)
        super().__post_init__(**kwargs)

    def _check_layers(self) -> None:
        layers, total = self.cross_attention_layers or [], self.num_hidden_layers
        if len(set(layers)) != len(layers):
            raise ValueError(f"cross_attention_layers {layers} names a layer twice; name each once")
        if layers and layers[0] == 0:
            raise ValueError(
                f"cross_attention_layers {layers} puts cross-attention at layer 0: the first layer must be LLaMA's own "
                "self-attention (the cache counts text positions there); begin at 1 or later"
            )
        outside = [i for i in layers if not 0 < i < total]
        if outside:
            raise ValueError(
                f"cross_attention_layers {layers}: {outside} lie outside the fused stack of {total} layers (0 to "
                f"{total - 1}); num_hidden_layers counts LLaMA's layers and the cross-attention layers together"
            )

    def validate_layer_type(self) -> None:
        """The layer types are derived and need no check; the base class would refuse cross-attention."""

    @property
    def self_attention_layers(self) -> list[int]:
        """Where LLaMA's own layers stand in the fused stack, in LLaMA's order."""
        return [i for i, kind in enumerate(self.layer_types or []) if kind == SELF_ATTENTION]

    @classmethod
    def from_llama(
        cls,
        llama: LlamaConfig,
        *,
        cross_attention_layers: list[int] | None = None,
        cross_attention_mlp: bool = True,
    ) -> "AgeVlmTextConfig":
        """The fused stack over a LLaMA.

        Args:
            llama: the language model's configuration.
            cross_attention_layers: indices in the fused stack; None for one layer in five; [] for none (concat).
            cross_attention_mlp: see the class.
        """
        inherited = {k: v for k, v in llama.to_dict().items() if k in LlamaConfig.__dataclass_fields__}
        for derived in ("model_type", "layer_types", "architectures", "transformers_version"):
            inherited.pop(derived, None)
        layers = cross_attention_layers
        if layers is None:
            layers = default_cross_attention_layers(llama.num_hidden_layers)
        inherited["num_hidden_layers"] = llama.num_hidden_layers + len(layers)
        return cls(**inherited, cross_attention_layers=list(layers), cross_attention_mlp=cross_attention_mlp)


@strict
class AgeVlmVisionConfig(PreTrainedConfig):
    """A ConvNeXt by timm: its name and arguments, the input side, and what comes out.

    `hidden_size` and `stride` are what the trunk has after `num_stages` stages; the model refuses others.
    `AgeVlmVisionConfig.from_timm` fills them in.

    Raises:
        ValueError: an input side that is not a multiple of the stride.
    """

    model_type = "age_vlm_vision"
    base_config_key = "vision_config"

    architecture: str = "convnext_large_mlp"
    """timm's name, without a pretrained tag."""
    model_args: dict[str, Any] | None = None
    """Further arguments of timm.create_model: depths, dims, patch_size, output_stride, ls_init_value, ..."""
    num_stages: int | None = None
    """Keep only so many of the trunk's stages; None for all."""
    image_size: int = 768
    """Side of the square input in pixels."""
    stride: int = 32
    """Input pixels per visual token and side."""
    hidden_size: int = 1536
    """Channels of the last kept stage."""
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.image_size <= 0 or self.stride <= 0 or self.image_size % self.stride:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of the stride {self.stride}: the last visual tokens "
                f"would see no whole cell; give {max(1, self.image_size // max(self.stride, 1)) * self.stride}"
            )
        super().__post_init__(**kwargs)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        side = self.image_size // self.stride
        return side, side

    @property
    def num_visual_tokens(self) -> int:
        """Visual tokens of one image: 576 by default."""
        return self.grid[0] * self.grid[1]

    @classmethod
    def from_timm(
        cls,
        architecture: str,
        *,
        image_size: int = 768,
        num_stages: int | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> "AgeVlmVisionConfig":
        """The configuration of a timm trunk, with its width and stride read off the trunk itself (no memory is used).

        Raises:
            ValueError: timm knows no such architecture, refuses the arguments, or it is no ConvNet.
        """
        import torch

        from agevlm.model.vision import build_trunk, trunk_output

        with torch.device("meta"):
            trunk = build_trunk(architecture, model_args, num_stages)
            width, stride = trunk_output(trunk)
            side = max(1, image_size // stride)
            features = trunk.forward_features(torch.empty(1, 3, side * stride, side * stride))
        if tuple(features.shape) != (1, width, side, side):
            raise ValueError(
                f"vision tower: {architecture} gives features of shape {tuple(features.shape)}, not a feature map of "
                f"{(1, width, side, side)}: take a ConvNet"
            )
        return cls(
            architecture=architecture,
            model_args=model_args,
            num_stages=num_stages,
            image_size=image_size,
            stride=stride,
            hidden_size=width,
        )


@strict
class AgeVlmConfig(PreTrainedConfig):
    """AGE-VLM: ConvNeXt, adapter, and a LLaMA that looks at the image.

    Raises:
        ValueError: unknown settings, or cross-attention layers that do not go with the fusion.
    """

    model_type = "age_vlm"
    sub_configs = {"text_config": AgeVlmTextConfig, "vision_config": AgeVlmVisionConfig}  # noqa: RUF012

    text_config: Any = None
    """AgeVlmTextConfig, or its entries as a dict."""
    vision_config: Any = None
    """AgeVlmVisionConfig, or its entries as a dict."""
    fusion: str = "cross"
    """cross: gated cross-attention to the visual tokens. concat: visual tokens in the text sequence (the baseline)."""
    adapter: str = "mlp"
    """From vision to text width: one linear layer, or two with a GELU between them."""
    visual_positions: str = "none"
    """A position embedding added to each visual token after the adapter. learned: from nothing; sincos: learned from
    two-dimensional sines and cosines. Weak ones (learned at initializer_range) take far longer to be of use."""
    mask_padding: bool = False
    """Hide visual tokens that hold nothing but padding from cross-attention (off in the paper)."""
    image_token_id: int | None = None
    """concat only: the token that visual tokens take the place of."""
    tie_word_embeddings: bool = True
    """As text_config says; kept here because transformers reads it from the top."""
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        for name, allowed in (("fusion", FUSIONS), ("adapter", ADAPTERS), ("visual_positions", VISUAL_POSITIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; give one of {', '.join(allowed)}")
        if self.text_config is None:
            sizes = {"num_hidden_layers": 16, "cross_attention_layers": []} if self.fusion == "concat" else {}
            self.text_config = AgeVlmTextConfig(**sizes)
        elif isinstance(self.text_config, dict):
            self.text_config = AgeVlmTextConfig(**self.text_config)
        elif not isinstance(self.text_config, AgeVlmTextConfig):
            kind = type(self.text_config).__name__
            raise ValueError(f"text_config is a {kind}; AgeVlmTextConfig.from_llama makes a fused stack of a LLaMA's")
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = AgeVlmVisionConfig(**(self.vision_config or {}))
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        self._check_fusion()
        super().__post_init__(**kwargs)

    def _check_fusion(self) -> None:
        layers = self.text_config.cross_attention_layers
        if self.fusion == "cross" and not layers:
            raise ValueError("fusion 'cross' without cross_attention_layers: the model would never see an image")
        if self.fusion == "concat":
            if layers:
                raise ValueError(
                    f"fusion 'concat' has no cross-attention, but text_config names cross_attention_layers {layers}; "
                    "give []"
                )
            if self.mask_padding:
                raise ValueError("mask_padding hides visual tokens from cross-attention; fusion 'concat' has none")
