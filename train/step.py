"""One forward pass with its losses, as a module, so that distributed training sees all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from agevlm.model import ProbeRequest
from train.data.collate import IGNORED, Batch
from train.losses import FORMS, Looks, measure
from train.spec import Guidance

LOOKS = tuple(Looks.__dataclass_fields__)


@dataclass(frozen=True)
class Scales:
    """What the sums of one forward pass are multiplied with, to add up to the means of the whole step."""

    text: float
    guidance: float


class TrainingModule(nn.Module):
    """A model with its losses.

    Args:
        model: an `AgeVlmForConditionalGeneration`.
        guidance: how attention is taught; None for not at all.
        precision: float32, or bfloat16 for autocast.
    """

    def __init__(self, model: Any, guidance: Guidance | None, precision: str) -> None:
        super().__init__()
        self.model = model
        self.guided = guidance is not None
        self.form = guidance.form if guidance is not None else ""
        self.mixed = precision == "bfloat16"
        crossing = list(model.config.text_config.cross_attention_layers or [])
        self.layers = crossing if guidance is None or guidance.layers is None else list(guidance.layers)

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of the sums that `forward` returns: of losses, and of measures, layer by layer."""
        if not self.guided:
            return ("text",)
        return ("text", "guidance", *(f"{look}/{layer}" for layer in self.layers for look in LOOKS))

    def forward(self, batch: Batch, scales: Scales) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to go backward from, and sums to log.

        Args:
            batch: on the model's device.
            scales: of the sums.

        Returns:
            The loss: sums over tokens and phrases, each times its scale. And the sums named by `sums`, unscaled and
            without gradients.
        """
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            probe = None
            if self.guided and len(batch.rows):
                probe = ProbeRequest(batch.rows, batch.positions, layers=self.layers)
            output = self.model.model(
                input_ids=batch.input_ids,
                pixel_values=batch.pixel_values,
                attention_mask=batch.attention_mask,
                image_mask=batch.image_mask,
                vision_token_mask=batch.vision_token_mask,
                use_cache=False,
                probe=probe,
            )
            text = self._text(output.last_hidden_state, batch.labels)
        loss = text * scales.text
        if not self.guided:
            return loss, text.detach()[None]
        if output.probe is None:
            sums = text.new_zeros(len(self.sums))
            sums[0] = text.detach()
            return loss, sums
        guidance, looks = self._guidance(output.probe.attention, batch)
        if scales.guidance:
            loss = loss + guidance * scales.guidance
        return loss, torch.stack([text.detach(), guidance.detach(), *looks])

    def _text(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropies in float32. The head runs where something is to be predicted, and nowhere else."""
        wanted = labels[:, 1:] != IGNORED
        logits = self.model.lm_head(states[:, :-1][wanted])
        return cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="sum")

    def _guidance(self, attention: tuple[torch.Tensor, ...], batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Sum over phrases of the loss, mean over layers; and sums over phrases of the measures."""
        form = FORMS[self.form]
        losses = torch.stack([form(p, batch.coverage) for p in attention]).mean(0)
        shown = batch.vision_token_mask[batch.rows]
        looks = []
        for p in attention:
            measured = measure(p.detach(), batch.coverage, shown)
            looks += [(getattr(measured, look) * batch.shares).sum() for look in LOOKS]
        return (losses * batch.shares).sum(), looks
