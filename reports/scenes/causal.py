"""Does the answer come from where the object is? Its visual tokens are hidden, and the model is asked again.

Hidden are the cells that the object touches and a border of one cell, for every token and in every layer that looks at
the image: in cross-attention by `vision_token_mask`, and where visual tokens stand in the sequence by the attention
mask at their places, with positions as they were, so that no token, visual or text, can attend to them. The control
hides as many other cells. What the vision trunk carried further than the border stays to be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.errors import NotSupported
from agevlm.scenes.language import ask_existence
from agevlm.vlm.contract import Vlm
from benchmarks.statistics.clusters import Interval
from benchmarks.statistics.paired import paired_gain
from benchmarks.statistics.scores import Floats
from reports.scenes.intervals import share
from train.scenes.store import SceneStore

Cells = NDArray[np.bool_]

LARGEST = 60
"""An object whose cells with their border are more is left out."""
SCENES_AT_ONCE, ROWS_AT_ONCE = 16, 96


@dataclass(frozen=True)
class CausalRow:
    """One object that is there and was answered "yes"."""

    image: int
    category: str
    hidden_cells: int
    without_object: bool
    """Still "yes" with the object's cells hidden."""
    without_others: bool
    """Still "yes" with as many others hidden."""


@dataclass(frozen=True)
class Hidden:
    """All objects, and what became of those that are no row."""

    rows: list[CausalRow]
    attention: str
    """What shows the image to the text: cross-attention, or self-attention."""
    counts: dict[str, int]
    """present; not_answered_yes; too_large, or too few other cells for the control."""


def bordered(region: Floats) -> Cells:
    """Cells that a region touches, and those beside them, corners too."""
    touched = np.pad(region > 0, 1)
    rows, columns = region.shape
    grown = np.zeros(region.shape, bool)
    for down in range(3):
        for right in range(3):
            grown |= touched[down : down + rows, right : right + columns]
    return grown


class Asker:
    """Asks yes or no with some visual tokens hidden. The first token of either answer decides.

    Args:
        vlm: an AGE-VLM.

    Raises:
        NotSupported: another model, or a tokenizer that begins both answers alike.
    """

    def __init__(self, vlm: Vlm) -> None:
        from agevlm.model import AgeVlmForConditionalGeneration

        model = getattr(vlm, "model", None)
        if not isinstance(model, AgeVlmForConditionalGeneration):
            raise NotSupported("visual tokens can be hidden from AGE-VLM alone")
        self.model, self.processor = model, vlm.processor  # type: ignore[attr-defined]
        self.crossing = model.config.fusion == "cross"
        self.image_token = -1 if self.crossing else int(model.config.image_token_id or 0)
        self.heeds_padding = bool(model.config.mask_padding)

    def yes(self, features: Any, prompts: Sequence[str], visible: Sequence[Cells]) -> list[bool]:
        """Whether "yes" is likelier than "no".

        Args:
            features: (rows, visual tokens, hidden size), of each row's image.
            prompts: of each row.
            visible: of each row (visual tokens,): those that can be seen.
        """
        answers: list[bool] = []
        for at in range(0, len(prompts), ROWS_AT_ONCE):
            part = slice(at, at + ROWS_AT_ONCE)
            scores = self.scores(features[part], prompts[part], visible[part])
            answers += [bool(row[0] > row[1]) for row in scores]
        return answers

    def scores(self, features: Any, prompts: Sequence[str], visible: Sequence[Cells]) -> NDArray[np.float32]:
        """(rows, 2): logits of "yes" and "no"."""
        import torch

        rows = [self._ids(prompt, features.shape[1]) for prompt in prompts]
        longest = max(len(ids) for ids, _, _ in rows)
        # Right padding, masked; any token but the image's.
        ids = torch.full((len(rows), longest), int(self.image_token == 0), dtype=torch.long)
        mask = torch.zeros_like(ids)
        shown = torch.from_numpy(np.stack(visible))
        for k, (own, _, _) in enumerate(rows):
            ids[k, : len(own)] = torch.tensor(own)
            mask[k, : len(own)] = 1
            if not self.crossing:
                places = torch.eq(ids[k], self.image_token).nonzero().squeeze(1)
                mask[k, places] = shown[k].long()
        config = self.model.config
        before, extra = config.mask_padding, {"vision_token_mask": shown} if self.crossing else {}
        # Without mask_padding the mask would not be heeded.
        config.mask_padding = self.crossing
        try:
            with torch.inference_mode():
                logits = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=torch.arange(longest).expand(len(rows), -1),
                    image_features=features,
                    use_cache=False,
                    **extra,
                ).logits
        finally:
            config.mask_padding = before
        last = logits[torch.arange(len(rows)), torch.tensor([len(own) - 1 for own, _, _ in rows])].float().numpy()
        return np.stack([last[k, [yes, no]] for k, (_, yes, no) in enumerate(rows)])

    def _ids(self, prompt: str, visual: int) -> tuple[list[int], int, int]:
        """Token ids of a prompt as the model is given it, and the first ones of "yes" and "no"."""
        from agevlm.vlm.hf import prompts

        tokenizer = self.processor.tokenizer
        text = prompts.render(self.processor, prompt, with_image=True)
        repeated = 0 if self.crossing else visual
        text = text.replace(self.processor.image_token, self.processor.image_token * repeated, 1)
        ids = prompts.token_ids(tokenizer, text)
        yes, no = (prompts.continuation_ids(tokenizer, text, ids, answer)[0] for answer in ("yes", "no"))
        if yes == no:
            raise NotSupported("the tokenizer begins yes and no with the same token")
        return ids, yes, no


def hide_and_ask(vlm: Vlm, store: SceneStore, count: int, seed: int = 0) -> Hidden:
    """For every object of the first scenes that the model says is there: hide it, and hide something else."""
    asker = Asker(vlm)
    rows: list[CausalRow] = []
    counts = dict.fromkeys(("present", "not_answered_yes", "too_large"), 0)
    for at in range(0, count, SCENES_AT_ONCE):
        rows += _hide_in(asker, store, range(at, min(at + SCENES_AT_ONCE, count)), seed, counts)
    return Hidden(rows, "cross-attention" if asker.crossing else "self-attention to visual tokens", counts)


def _hide_in(asker: Asker, store: SceneStore, images: range, seed: int, counts: dict[str, int]) -> list[CausalRow]:
    import torch
    from PIL import Image

    pictures = [Image.fromarray(store.image(i)) for i in images]
    inputs = asker.processor.image_processor(images=pictures, return_tensors="pt")
    with torch.inference_mode():
        features = asker.model.get_image_features(inputs["pixel_values"]).pooler_output
    held = [(i, name) for i in images for name in store.facts[i].present]
    counts["present"] += len(held)
    shown = inputs["vision_token_mask"].numpy().astype(bool)
    usual = shown if asker.heeds_padding else np.ones_like(shown)

    def ask(wanted: Sequence[tuple[int, str]], visible: Sequence[Cells]) -> list[bool]:
        own = features[[i - images.start for i, _ in wanted]]
        return asker.yes(own, [ask_existence(store.facts[i], name).question.text for i, name in wanted], visible)

    answered = ask(held, [usual[i - images.start] for i, _ in held])
    chosen, without_object, without_others = [], [], []
    for (i, name), yes in zip(held, answered, strict=True):
        if not yes:
            counts["not_answered_yes"] += 1
            continue
        geometry = asker.processor.image_processor.geometry(*pictures[i - images.start].size)
        # Padding can be what is hidden only where it can be seen.
        cells = bordered(geometry.mask_to_grid(store.mask(i, store.facts[i].having(name)))).ravel()
        cells &= usual[i - images.start]
        others = np.flatnonzero(shown[i - images.start] & ~cells)
        number = int(cells.sum())
        if number > min(LARGEST, len(others)):
            counts["too_large"] += 1
            continue
        control = Random(f"hide:{seed}:{i}:{name}").sample(list(others), number)
        other = usual[i - images.start].copy()
        other[control] = False
        chosen.append((i, name, number))
        without_object.append(usual[i - images.start] & ~cells)
        without_others.append(other)
    pairs = [(i, name) for i, name, _ in chosen]
    hidden, controls = ask(pairs, without_object), ask(pairs, without_others)
    return [CausalRow(*c, h, o) for c, h, o in zip(chosen, hidden, controls, strict=True)]


def causal_scores(rows: Sequence[CausalRow], weights: Floats) -> dict[str, Interval]:
    """Shares still answered "yes", and how much lower without the object than without as much else; over images."""
    if not rows:
        return {}
    images = [r.image for r in rows]
    without, others = ([float(getattr(r, name)) for r in rows] for name in ("without_object", "without_others"))
    return {
        "without_object": share(without, images, weights),
        "without_others": share(others, images, weights),
        "effect": paired_gain(others, without, images, weights),
    }
