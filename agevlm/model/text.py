"""The fused text stack: LLaMA's decoder layers, unmodified, with gated cross-attention layers between them.

No `from __future__ import annotations` here: transformers reads class annotations (`config: ...`) as classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from agevlm.model.cache import VisionLayer
from agevlm.model.configuration import CROSS_ATTENTION, SELF_ATTENTION, AgeVlmTextConfig
from agevlm.model.cross_attention import AgeVlmCrossAttention, AgeVlmCrossAttentionDecoderLayer, Probed
from agevlm.model.pretrained import AgeVlmPreTrainedModel
from agevlm.model.probe import ProbeRequest, ProbeResult

FLASH = "flash"


@dataclass
class AgeVlmModelOutput(BaseModelOutputWithPast):
    """Output of the model without its head."""

    image_hidden_states: torch.Tensor | None = None
    """(images, visual tokens, hidden size): visual tokens after the adapter."""
    vision_attentions: tuple[torch.Tensor, ...] | None = None
    """With `output_vision_attentions` and eager attention: per cross-attention layer (rows, heads, length, tokens)."""
    probe: ProbeResult | None = None


class AgeVlmTextModel(AgeVlmPreTrainedModel):
    """LLaMA's decoder layers, unmodified, with gated cross-attention layers between them."""

    config: AgeVlmTextConfig
    input_modalities = ("text",)
    _can_record_outputs = {  # noqa: RUF012
        # Both kinds of layers; transformers can pick single states only of one class.
        "hidden_states": GradientCheckpointingLayer,
        "attentions": LlamaAttention,
        # Not "cross_attentions": transformers ties that name to `output_attentions`.
        "vision_attentions": OutputRecorder(AgeVlmCrossAttention, index=1),
    }

    def __init__(self, config: AgeVlmTextConfig) -> None:
        super().__init__(config)
        self.kinds: list[str] = config.layer_types or []
        self.crossing: list[int] = config.cross_attention_layers or []
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        kinds = {CROSS_ATTENTION: AgeVlmCrossAttentionDecoderLayer, SELF_ATTENTION: LlamaDecoderLayer}
        self.layers = nn.ModuleList([kinds[kind](config, i) for i, kind in enumerate(self.kinds)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        vision_states: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
        hide_padding: bool = False,
        probe: ProbeRequest | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AgeVlmModelOutput:
        """Run the fused stack.

        Args:
            input_ids: (rows, length); or `inputs_embeds`.
            attention_mask: (rows, past + length), 1 for tokens; or what the attention implementation takes.
            position_ids: (rows, length).
            past_key_values: text keys and values, and the image's.
            inputs_embeds: (rows, length, hidden size).
            use_cache: whether to return a cache.
            vision_states: (rows, visual tokens, hidden size); None uses the cached image, or none.
            visible: (rows, visual tokens) bool: what each row may look at. Rows without True have no image. Beside a
                cached image (rows, 1) will do, and narrows what the cache says.
            hide_padding: mask single visual tokens, not only whole rows.
            probe: what to record.
            kwargs: `output_hidden_states`, `output_attentions`, `output_vision_attentions`; attention arguments.

        Raises:
            ValueError: more positions than the model has, or recorded weights without eager attention.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if kwargs.get("output_vision_attentions") and self.config._attn_implementation != "eager":
            raise ValueError(
                "output_vision_attentions needs attn_implementation='eager'; a probe gives chosen rows with any"
            )
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if past_key_values is not None:
            self._check_cache(past_key_values)
        length = inputs_embeds.shape[1]
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            self._check_length(int(seen) + length)
            position_ids = (torch.arange(length, device=inputs_embeds.device) + seen).unsqueeze(0)
        if isinstance(attention_mask, dict):
            causal_mask = attention_mask[SELF_ATTENTION]
        else:
            causal_mask = create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        image = self._image(vision_states, visible, hide_padding, past_key_values, hidden_states)
        recorder = _Recorder(probe, self.config, image is not None)
        for index, layer in enumerate(self.layers):
            recorder.hidden(index, hidden_states)
            if self.kinds[index] == SELF_ATTENTION:
                hidden_states = layer(
                    hidden_states,
                    attention_mask=causal_mask,
                    position_embeddings=position_embeddings,
                    position_ids=position_ids,
                    past_key_values=past_key_values,
                    use_cache=use_cache,
                    **kwargs,
                )
            elif image is not None:
                output = layer(
                    hidden_states,
                    *image,
                    past_key_values=past_key_values,
                    probe=probe if recorder.wants(index) else None,
                    **kwargs,
                )
                if isinstance(output, tuple):
                    hidden_states = output[0]
                    recorder.layer(index, Probed(*output[1:]))
                else:
                    hidden_states = output
        hidden_states = self.norm(hidden_states)
        recorder.hidden(len(self.layers), hidden_states)
        return AgeVlmModelOutput(
            last_hidden_state=hidden_states, past_key_values=past_key_values, probe=recorder.result()
        )

    def _image(
        self,
        vision_states: torch.Tensor | None,
        visible: torch.Tensor | None,
        hide_padding: bool,
        cache: Cache | None,
        hidden_states: torch.Tensor,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None] | None:
        """What cross-attention layers need of the image: states, visible, attention mask, which rows have one."""
        if vision_states is None:
            cached = self._vision_layers(cache)
            if not cached or not cached[0].is_initialized:
                return None
            if self.gradient_checkpointing and self.training:
                raise ValueError(
                    "gradient checkpointing puts caches aside: give pixel_values or image_features instead"
                )
            images, tokens = cached[0].keys.shape[0], cached[0].keys.shape[2]
            visible = None if visible is None else visible.to(cached[0].keys.device)
            if visible is None or cached[0].visible is None:
                visible = cached[0].visible if visible is None else visible.expand(-1, tokens)
            elif visible.shape[0] == images:
                visible = visible & cached[0].visible
            # Later steps must heed it too, whether or not they are told again.
            for layer in cached:
                layer.visible = visible
        else:
            images = vision_states.shape[0]
        if images != hidden_states.shape[0]:
            raise ValueError(
                f"{images} images (given or cached) for {hidden_states.shape[0]} rows of text; repeat a vision cache "
                "with batch_repeat_interleave, or say with image_mask which rows have an image"
            )
        if visible is None:
            return vision_states, None, None, None
        has_image = visible.any(-1)
        mask = None
        if hide_padding:
            if self.config._attn_implementation.startswith(FLASH):
                raise ValueError("mask_padding needs attn_implementation sdpa or eager: flash attention hides no keys")
            # A row without an image would be a softmax over nothing: it sees all, and is shut out by `has_image`.
            hidden = ~visible & has_image[:, None]
            lowest = torch.finfo(hidden_states.dtype).min
            mask = torch.zeros_like(hidden, dtype=hidden_states.dtype).masked_fill(hidden, lowest)[:, None, None]
        return vision_states, visible, mask, has_image[:, None, None]

    def _vision_layers(self, cache: Cache | None) -> list[Any]:
        if cache is None:
            return []
        return [cache.layers[i] for i in self.crossing]

    def _check_cache(self, cache: Cache) -> None:
        """Caches built without a configuration know nothing of images: mended while empty, refused otherwise."""
        if not self.crossing:
            return
        if getattr(cache, "layer_class_to_replicate", None) is not None and not cache.layers:
            cache.layers = DynamicCache(config=self.config).layers
            cache.layer_class_to_replicate = None
        if len(cache.layers) != len(self.layers) or not all(
            isinstance(layer, VisionLayer) for layer in self._vision_layers(cache)
        ):
            raise ValueError(
                f"past_key_values ({type(cache).__name__}) has no place for an image's keys and values; build it with "
                "DynamicCache(config=model.config) or StaticCache(config=model.config, max_cache_len=...)"
            )

    def _check_length(self, positions: int) -> None:
        if positions > self.config.max_position_embeddings:
            raise ValueError(
                f"{positions} positions are more than the model's {self.config.max_position_embeddings} "
                "(max_position_embeddings); shorten the prompt or ask for fewer new tokens"
            )


class _Recorder:
    """Gathers what a probe asked for, in the order asked."""

    def __init__(self, probe: ProbeRequest | None, config: AgeVlmTextConfig, has_image: bool) -> None:
        self.probe = probe
        self.probed: dict[int, Probed] = {}
        self.states: dict[int, torch.Tensor] = {}
        self.layers: list[int] = []
        self.indices: list[int] = []
        if probe is None:
            return
        crossing = config.cross_attention_layers or []
        if probe.attention or probe.queries_keys:
            self.layers = list(crossing) if probe.layers is None else list(probe.layers)
            if unknown := sorted(set(self.layers) - set(crossing)):
                raise ValueError(f"probe: layers {unknown} have no cross-attention; those that do: {crossing}")
            if not has_image or not crossing:
                raise ValueError(
                    "probe: there is no cross-attention to an image to look at: give pixel_values or a vision cache"
                    if crossing
                    else "probe: fusion 'concat' has no cross-attention layers"
                )
        total = config.num_hidden_layers + 1
        if beyond := [i for i in probe.hidden_states if not -total <= i < total]:
            raise ValueError(f"probe: hidden states {beyond} do not exist; there are {total} (0 is the embeddings)")
        self.indices = [i % total for i in probe.hidden_states]

    def wants(self, index: int) -> bool:
        return index in self.layers

    def layer(self, index: int, probed: Probed) -> None:
        self.probed[index] = probed

    def hidden(self, index: int, states: torch.Tensor) -> None:
        if self.probe is not None and index in self.indices:
            self.states[index] = states[self.probe.rows, self.probe.positions]

    def result(self) -> ProbeResult | None:
        if self.probe is None:
            return None
        probed = [self.probed[i] for i in self.layers]
        return ProbeResult(
            layers=tuple(self.layers),
            attention=tuple(p.attention for p in probed if p.attention is not None),
            queries=tuple(p.queries for p in probed if p.queries is not None),
            keys=tuple(p.keys for p in probed if p.keys is not None),
            hidden_states=tuple(self.states[i] for i in self.indices),
        )
