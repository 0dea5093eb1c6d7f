"""The plain way: one full `generate` per question, nothing shared. What the session's answers are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from agevlm.vlm.contract import Ask, Reply
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.session import LOGIT_SETTINGS, HfVlm


@dataclass(frozen=True)
class Flip:
    """A question that the session and plain `generate` answer differently."""

    prompt: str
    ours: str
    plain: str
    margin: float
    """Difference of the two largest plain logits where the answers part: near zero means a coin toss."""


def greedy_arguments(vlm: HfVlm, max_new_tokens: int) -> dict[str, Any]:
    """Arguments that make the checkpoint's `generate` plainly greedy, whatever its generation_config says."""
    config = vlm.model.generation_config
    neutral = {k: n[-1] for k, n in LOGIT_SETTINGS.items() if getattr(config, k, None) not in n}
    greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    ends = {"eos_token_id": sorted(vlm.end_ids) or None, "pad_token_id": vlm.pad_id}
    return {**greedy, **ends, "max_new_tokens": max_new_tokens, **neutral}


@torch.inference_mode()
def plain_generate(vlm: HfVlm, image: Image | None, ask: Ask) -> tuple[tuple[int, ...], list[float]]:
    """Greedy answer of the checkpoint's own processor and `generate` to one question.

    Returns:
        Generated token ids (end token included), and at each step the margin between the two largest logits.
    """
    text = prompts.render(vlm.processor, ask.prompt, with_image=image is not None)
    inputs = vlm.processor(
        text=text,
        images=image,
        return_tensors="pt",
        add_special_tokens=prompts.add_special_tokens(vlm.tokenizer, text),
    ).to(vlm.model.device, vlm.model.dtype)
    limit = min(ask.max_new_tokens, vlm.family.context - inputs["input_ids"].shape[1])
    output = vlm.model.generate(
        **inputs, **greedy_arguments(vlm, limit), output_logits=True, return_dict_in_generate=True
    )
    ids = tuple(output.sequences[0, inputs["input_ids"].shape[1] :].tolist())
    margins = []
    for logits in output.logits:
        top = logits[0].float().topk(2).values
        margins.append(float(top[0] - top[1]))
    return ids, margins


def find_flips(vlm: HfVlm, image: Image | None, asks: Sequence[Ask], replies: Sequence[Reply]) -> list[Flip]:
    """Questions whose tokens differ from plain `generate`, with the margin at the first difference."""
    flips = []
    for ask, reply in zip(asks, replies, strict=True):
        if reply.text is None:
            continue
        ids, margins = plain_generate(vlm, image, ask)
        if ids == reply.token_ids:
            continue
        step = next(
            (i for i, (a, b) in enumerate(zip(ids, reply.token_ids, strict=False)) if a != b),
            min(len(ids), len(reply.token_ids)) - 1,
        )
        plain = vlm.tokenizer.decode(ids, skip_special_tokens=True)
        flips.append(Flip(ask.prompt, reply.text, plain, margins[step]))
    return flips
