"""AGE-VLM as transformers models: the vision-language model, and the one that generates.

No `from __future__ import annotations` here: transformers reads class annotations (`config: AgeVlmConfig`) as classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from agevlm.model.configuration import AgeVlmConfig
from agevlm.model.pretrained import AgeVlmPreTrainedModel
from agevlm.model.probe import ProbeRequest, ProbeResult
from agevlm.model.text import AgeVlmModelOutput, AgeVlmTextModel
from agevlm.model.vision import AgeVlmVisionModel


@dataclass
class AgeVlmCausalLMOutput(CausalLMOutputWithPast):
    """Output of the model with its language head."""

    image_hidden_states: torch.Tensor | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None
    probe: ProbeResult | None = None


class AgeVlmAdapter(nn.Module):
    """From the vision tower's width to the language model's, with learned positions if the configuration wants them."""

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__()
        self.config = config
        narrow, wide = config.vision_config.hidden_size, config.text_config.hidden_size
        self.linear_1 = nn.Linear(narrow, wide)
        self.linear_2 = nn.Linear(wide, wide) if config.adapter == "mlp" else None
        self.act = nn.GELU()
        if config.visual_positions != "none":
            self.visual_positions = nn.Parameter(torch.zeros(config.vision_config.num_visual_tokens, wide))
        else:
            self.register_parameter("visual_positions", None)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, visual tokens, vision width) -> (images, visual tokens, text width)."""
        states = self.linear_1(features)
        if self.linear_2 is not None:
            states = self.linear_2(self.act(states))
        return states if self.visual_positions is None else states + self.visual_positions


class AgeVlmModel(AgeVlmPreTrainedModel):
    """Vision tower, adapter and fused text stack, without a language head."""

    _keys_to_ignore_on_load_unexpected = ["lm_head.weight"]  # noqa: RUF012

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__(config)
        self.vision_tower = AgeVlmVisionModel._from_config(config.vision_config)
        self.adapter = AgeVlmAdapter(config)
        self.language_model = AgeVlmTextModel._from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.embed_tokens = value

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Visual tokens of images.

        Args:
            pixel_values: (images, 3, side, side).
            kwargs: for the vision tower.

        Returns:
            `last_hidden_state` (images, visual tokens, vision width); `pooler_output` (images, visual tokens, hidden
            size): the same after the adapter, what the language model sees.
        """
        features = self.vision_tower(pixel_values, **kwargs).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=self.adapter(features))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        vision_token_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        use_cache: bool | None = None,
        probe: ProbeRequest | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AgeVlmModelOutput:
        """See `AgeVlmForConditionalGeneration.forward`."""
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values).pooler_output
        text = input_ids if inputs_embeds is None else inputs_embeds
        rows = 0 if text is None else text.shape[0]
        vision: dict[str, Any] = {}
        if image_features is not None and self.config.fusion == "concat":
            if inputs_embeds is None:
                inputs_embeds = self.get_input_embeddings()(input_ids)
            inputs_embeds = self._in_sequence(input_ids, inputs_embeds, image_features, image_mask)
            input_ids = None
        elif image_features is not None:
            vision = self._by_row(image_features, rows, image_mask, vision_token_mask)
        elif image_mask is not None and self.config.fusion == "cross":
            # The image, if any, is in the cache: rows that shall not see one still do not.
            vision = {"visible": _checked_image_mask(image_mask, rows)[:, None]}
        output = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            hide_padding=self.config.mask_padding,
            probe=probe,
            **vision,
            **kwargs,
        )
        output.image_hidden_states = image_features
        return output

    def _by_row(
        self,
        features: torch.Tensor,
        rows: int,
        image_mask: torch.Tensor | None,
        token_mask: torch.Tensor | None,
    ) -> dict[str, Any]:
        """One image a row; rows without one get zeros that nothing looks at."""
        token_mask = self.token_mask(token_mask, features)
        if image_mask is None:
            if features.shape[0] != rows:
                raise ValueError(
                    f"{features.shape[0]} images for {rows} rows of text: AGE-VLM takes one image a row; say with "
                    "image_mask which rows have one"
                )
            return {"vision_states": features, "visible": token_mask}
        image_mask = _checked_image_mask(image_mask, rows).to(features.device)
        if token_mask is None:
            token_mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        if features.shape[0] == rows:
            return {"vision_states": features, "visible": token_mask & image_mask[:, None]}
        wanted = int(image_mask.sum())
        if features.shape[0] != wanted:
            raise ValueError(
                f"{features.shape[0]} images, but image_mask gives an image to {wanted} of {rows} rows; give one image "
                "for each of these, in their order (or one for every row)"
            )
        states = features.new_zeros(rows, *features.shape[1:])
        visible = token_mask.new_zeros(rows, token_mask.shape[1])
        states[image_mask], visible[image_mask] = features, token_mask
        return {"vision_states": states, "visible": visible}

    def token_mask(self, token_mask: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor | None:
        """The mask of visual tokens as it is used: checked, or None without `mask_padding`. Raises ValueError."""
        if token_mask is None or not self.config.mask_padding:
            return None
        if tuple(token_mask.shape) != tuple(features.shape[:2]):
            raise ValueError(
                f"vision_token_mask of shape {tuple(token_mask.shape)} for {features.shape[0]} images of "
                f"{features.shape[1]} visual tokens; it needs one entry for each of these"
            )
        return token_mask.bool().to(features.device)

    def _in_sequence(
        self,
        input_ids: torch.Tensor | None,
        embeddings: torch.Tensor,
        features: torch.Tensor,
        image_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Features in the place of the image tokens, in order."""
        if input_ids is None or self.config.image_token_id is None:
            raise ValueError(
                "fusion 'concat' puts visual tokens in the place of image_token_id: input_ids must hold it"
            )
        places = input_ids == self.config.image_token_id
        if image_mask is not None:
            image_mask = _checked_image_mask(image_mask, len(input_ids)).to(features.device)
            if features.shape[0] == len(input_ids):
                features = features[image_mask]
        wanted = features.shape[0] * features.shape[1]
        if int(places.sum()) != wanted:
            raise ValueError(
                f"{int(places.sum())} image tokens in the text for {features.shape[0]} images of {features.shape[1]} "
                "visual tokens each; AgeVlmProcessor puts in the right number"
            )
        return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings.dtype))


def _checked_image_mask(image_mask: torch.Tensor, rows: int) -> torch.Tensor:
    if tuple(image_mask.shape) != (rows,):
        raise ValueError(f"image_mask of shape {tuple(image_mask.shape)}: expected ({rows},), one entry a row")
    return image_mask.bool()


class AgeVlmForConditionalGeneration(AgeVlmPreTrainedModel, GenerationMixin):
    """AGE-VLM with its language head: answers questions about an image, or goes on with text."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__(config)
        self.model = AgeVlmModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `AgeVlmModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        vision_token_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        probe: ProbeRequest | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AgeVlmCausalLMOutput:
        """Next-token logits.

        Args:
            input_ids: (rows, length).
            pixel_values: (images, 3, side, side), one image for every row, or for every row of `image_mask`.
            attention_mask: (rows, past + length), 1 for tokens, 0 for padding.
            position_ids: (rows, length).
            past_key_values: a cache; its image is used where none is given.
            inputs_embeds: (rows, length, hidden size) in place of input_ids.
            labels: (rows, length), -100 where there is nothing to predict; the loss is the mean cross-entropy.
            image_mask: (rows,) bool: rows that have an image. A row without one never sees any.
            vision_token_mask: (images, visual tokens) bool: tokens that hold any image; used with `mask_padding`.
            image_features: (images, visual tokens, hidden size) in place of pixel_values: `pooler_output` of
                `get_image_features`.
            use_cache: whether to return a cache.
            logits_to_keep: compute logits only of so many last positions, or of these positions.
            probe: what to record of attention and hidden states.
            kwargs: `output_hidden_states`, `output_attentions`, `output_vision_attentions`, `num_items_in_batch`.

        Raises:
            ValueError: images and rows that do not go together, or positions beyond the context.
        """
        output = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            image_mask=image_mask,
            vision_token_mask=vision_token_mask,
            image_features=image_features,
            use_cache=use_cache,
            probe=probe,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.text_config.vocab_size, **kwargs)
        return AgeVlmCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            image_hidden_states=output.image_hidden_states,
            vision_attentions=output.vision_attentions,
            probe=output.probe,
        )

    @torch.no_grad()
    def generate(self, *args: Any, pixel_values: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """`GenerationMixin.generate`; images are encoded once, before rows are repeated for beams.

        Raises:
            ValueError: the prompt with the new tokens asked for is longer than the model's context.
        """
        if pixel_values is not None and kwargs.get("image_features") is None:
            kwargs["image_features"] = self.get_image_features(pixel_values.to(self.device)).pooler_output
        return super().generate(*args, **kwargs)

    @torch.no_grad()
    def vision_cache(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        vision_token_mask: torch.Tensor | None = None,
    ) -> DynamicCache:
        """A cache that holds images alone: any question can follow, each as if the image had just been given.

        Pass it as `past_key_values`. For several questions one after another, `crop(-cache.get_seq_length())` rolls
        the text back, or give each a `copy.deepcopy`; for a batch of n questions, `batch_repeat_interleave(n)` first.

        Args:
            pixel_values: (images, 3, side, side), or
            image_features: (images, visual tokens, hidden size).
            vision_token_mask: (images, visual tokens) bool; used with `mask_padding`.
        """
        if self.config.fusion != "cross":
            raise ValueError("fusion 'concat' keeps no image apart from the text before it")
        if image_features is None:
            if pixel_values is None:
                raise ValueError("give pixel_values or image_features")
            image_features = self.get_image_features(_beside(pixel_values, self.device)).pooler_output
        cache = DynamicCache(config=self.config)
        for index in self.config.text_config.cross_attention_layers:
            attention = self.model.language_model.layers[index].cross_attn
            # Layers may lie on different devices, and this call goes past what moves their inputs.
            states = _beside(image_features, attention.k_proj.weight.device)
            cache.update(*attention.project_image(states), index)
            cache.layers[index].visible = self.model.token_mask(vision_token_mask, image_features)
        return cache

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As the base class does; images already in the cache are not given again at later steps."""
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if past_key_values is not None and self._has_image(past_key_values):
            ids = inputs.get("input_ids")
            # A later turn gives the whole conversation's image again: concat has its tokens in the cache already.
            new = is_first_iteration and (
                self.config.fusion == "cross" or ids is None or bool((ids == self.config.image_token_id).any())
            )
            if not new:
                inputs["pixel_values"] = inputs["image_features"] = None
        return inputs

    def _has_image(self, cache: Cache) -> bool:
        layers = self.config.text_config.cross_attention_layers
        if not layers:
            return bool(cache.get_seq_length() > 0)
        return layers[0] < len(cache.layers) and bool(cache.layers[layers[0]].is_initialized)

    def _validate_generated_length(self, generation_config: Any, input_ids_length: int, *args: Any) -> None:
        super()._validate_generated_length(generation_config, input_ids_length, *args)
        context = self.config.text_config.max_position_embeddings
        if generation_config.max_length > context:
            raise ValueError(
                f"the prompt's {input_ids_length} tokens and the new ones asked for are "
                f"{generation_config.max_length}, more than the model's context of {context}; shorten the prompt or "
                f"ask for at most {max(0, context - input_ids_length)} new tokens (max_new_tokens)"
            )


def _beside(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the device of weights; where those are on disk, accelerate's hooks bring them to the tensor."""
    return tensor if device.type == "meta" else tensor.to(device)
