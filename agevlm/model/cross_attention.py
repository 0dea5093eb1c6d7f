"""Gated cross-attention: text states ask, visual tokens answer."""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, eager_attention_forward

from agevlm.model.configuration import AgeVlmTextConfig
from agevlm.model.probe import ProbeRequest, attention_rows


class Probed(NamedTuple):
    """What one layer recorded; see `ProbeResult`."""

    attention: torch.Tensor | None
    queries: torch.Tensor | None
    keys: torch.Tensor | None


class AgeVlmCrossAttention(nn.Module):
    """Multi-head attention from text to visual tokens.

    LLaMA's grouped key/value heads, queries and keys normalised (RMSNorm over the head), no rotary positions.
    """

    def __init__(self, config: AgeVlmTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // (config.num_key_value_heads or 1)
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        # SDPA reads it where there is no mask; its default would hide most of the image from the first words.
        self.is_causal = False
        wide, narrow = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, wide, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, narrow, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, narrow, bias=False)
        self.o_proj = nn.Linear(wide, config.hidden_size, bias=False)
        self.q_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def project_image(self, vision_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of visual tokens.

        Args:
            vision_states: (rows, visual tokens, hidden size).

        Returns:
            Keys (normalised) and values, each (rows, key/value heads, visual tokens, head size).
        """
        shape = (*vision_states.shape[:2], -1, self.head_dim)
        keys = self.k_norm(self.k_proj(vision_states).view(shape))
        return keys.transpose(1, 2), self.v_proj(vision_states).view(shape).transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        vision_states: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        probe: ProbeRequest | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, Probed | None]:
        """Attend from (rows, length, hidden size) to the image given, or to the one in the cache.

        Returns:
            The attended states (rows, length, hidden size), the weights where attention is eager, and the probe.
        """
        rows, length, _ = hidden_states.shape
        queries = self.q_norm(self.q_proj(hidden_states).view(rows, length, -1, self.head_dim)).transpose(1, 2)
        if vision_states is not None:
            keys, values = self.project_image(vision_states)
            if past_key_values is not None:
                keys, values = past_key_values.update(keys, values, self.layer_idx)
                past_key_values.layers[self.layer_idx].visible = visible
        else:
            layer = past_key_values.layers[self.layer_idx]
            keys, values = layer.keys, layer.values
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(
            self,
            queries,
            keys,
            values,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        probed = None
        if probe is not None:
            asked = queries[probe.rows, :, probe.positions]
            seen = None if visible is None else visible[probe.rows]
            probed = Probed(
                attention_rows(asked, keys, probe.rows, self.scaling, seen, probe.heads) if probe.attention else None,
                asked if probe.queries_keys else None,
                keys if probe.queries_keys else None,
            )
        return self.o_proj(attended.reshape(rows, length, -1)), weights, probed


class AgeVlmCrossAttentionDecoderLayer(GradientCheckpointingLayer):
    """h + tanh(g_a) CrossAttention(RMSNorm(h), image), then h + tanh(g_m) MLP(RMSNorm(h)); g_a = g_m = 0 at the start.

    With `cross_attention_mlp` off the second branch is absent.
    """

    def __init__(self, config: AgeVlmTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.cross_attn = AgeVlmCrossAttention(config, layer_idx)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        if config.cross_attention_mlp:
            self.mlp = LlamaMLP(config)
            self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.mlp_gate = nn.Parameter(torch.zeros(1))
        else:
            self.mlp = None

    def forward(
        self,
        hidden_states: torch.Tensor,
        vision_states: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        probe: ProbeRequest | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """One layer. Returns the states, or with a probe the states and `Probed`'s entries.

        Tensors that carry gradients come first and positional, as reentrant checkpointing wants them.

        Args:
            hidden_states: (rows, length, hidden size).
            vision_states: (rows, visual tokens, hidden size), or None to use the cached image.
            visible: (rows, visual tokens) bool, or None for all; goes into the cache with the image.
            attention_mask: what the attention implementation needs to hide visual tokens, or None.
            has_image: (rows, 1, 1) bool; both branches are shut for rows without an image. None: all rows have one.
            past_key_values: cache whose layer of this index holds the image's keys and values.
            probe: what to record.
            kwargs: for the attention implementation.
        """
        attended, _, probed = self.cross_attn(
            self.input_layernorm(hidden_states),
            vision_states,
            visible,
            attention_mask,
            past_key_values=past_key_values,
            probe=probe,
            **kwargs,
        )
        hidden_states = hidden_states + _shut(self.attn_gate.tanh() * attended, has_image)
        if self.mlp is not None:
            update = self.mlp(self.post_attention_layernorm(hidden_states))
            hidden_states = hidden_states + _shut(self.mlp_gate.tanh() * update, has_image)
        # A flat tuple: reentrant checkpointing sees no tensors inside a tuple's tuple, and drops their gradients.
        return hidden_states if probed is None else (hidden_states, *probed)


def _shut(update: torch.Tensor, has_image: torch.Tensor | None) -> torch.Tensor:
    # The rows stay in the graph: on every rank every parameter gets a gradient, if a zero one.
    return update if has_image is None else torch.where(has_image, update, torch.zeros_like(update))
