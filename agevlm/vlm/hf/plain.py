"""The plain way: the checkpoint's own processor and `generate`, one question at a time, nothing shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from transformers import LogitsProcessor, LogitsProcessorList

from agevlm.errors import DataError
from agevlm.vlm.batching import memory_message
from agevlm.vlm.contract import Ask, Reply
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.memory import is_out_of_memory

if TYPE_CHECKING:
    from agevlm.vlm.hf.images import HfImages
    from agevlm.vlm.hf.session import HfVlm

LOGIT_SETTINGS: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1.0),
    "exponential_decay_length_penalty": (None,),
    "watermarking_config": (None,),
}
"""generation_config entries that change greedy logits, with their neutral values. Greedy here is the plain argmax; a
checkpoint that sets one of them is told so in `describe` (and its plain `generate` would differ)."""


class Dictated(LogitsProcessor):
    """Makes `generate` say given tokens, whatever the logits; those it returns stay the model's own."""

    def __init__(self, tokens: Sequence[int], start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of which the next given token's is the highest."""
        wanted = torch.full_like(scores, float("-inf"))
        wanted[:, self.tokens[input_ids.shape[1] - self.start]] = 0.0
        return wanted


def greedy_arguments(vlm: HfVlm, max_new_tokens: int) -> dict[str, Any]:
    """Arguments that make the checkpoint's `generate` plainly greedy, whatever its generation_config says."""
    config = vlm.model.generation_config
    neutral = {k: n[-1] for k, n in LOGIT_SETTINGS.items() if getattr(config, k, None) not in n}
    greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    ends = {"eos_token_id": sorted(vlm.end_ids) or None, "pad_token_id": vlm.pad_id}
    return {**greedy, **ends, "max_new_tokens": max_new_tokens, **neutral}


def plain_inputs(vlm: HfVlm, image: Image | None, prompt: str) -> Any:
    """What the checkpoint's own processor makes of an image and a prompt, on the model's device."""
    text = prompts.render(vlm.processor, prompt, with_image=image is not None)
    return vlm.processor(
        text=text,
        images=image,
        return_tensors="pt",
        add_special_tokens=prompts.add_special_tokens(vlm.tokenizer, text),
    ).to(vlm.family.device, vlm.model.dtype)


@torch.inference_mode()
def generate(
    vlm: HfVlm, image: Image | None, prompt: str, limit: int, dictated: Sequence[int] = ()
) -> tuple[list[int], tuple[torch.Tensor, ...]]:
    """Greedy answer of the checkpoint's own processor and `generate`.

    Args:
        vlm: the model.
        image: shown before the prompt, or none.
        prompt: the user's text.
        limit: most new tokens; fewer where the model's context ends.
        dictated: tokens to say instead of the likeliest ones, for their logits.

    Returns:
        Generated token ids, end token included, and the logits of each step: (1, vocabulary), as the model gave them.

    Raises:
        DataError: the prompt fills the model's context.
    """
    inputs = plain_inputs(vlm, image, prompt)
    length = inputs["input_ids"].shape[1]
    if (room := vlm.family.context - length) < 1:
        raise DataError(
            f"a prompt of {length} tokens leaves no room for an answer in the model's context of {vlm.family.context}; "
            f"shorten it: {prompt[:60]!r}..."
        )
    settings = greedy_arguments(vlm, min(limit, room))
    if dictated:
        never = next(token for token in range(len(dictated) + 1) if token not in dictated)
        settings |= {"eos_token_id": never, "logits_processor": LogitsProcessorList([Dictated(dictated, length)])}
    output = vlm.model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
    return output.sequences[0, length:].tolist(), output.logits


def answer_plainly(vlm: HfVlm, images: HfImages, ask: Ask) -> Reply:
    """The reply to one ask, with nothing shared."""
    image = images.pictures[ask.image] if ask.image is not None else None
    vlm.vision_calls += image is not None
    try:
        ids, logits = generate(vlm, image, ask.prompt, max(1, ask.max_new_tokens))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Reply.failed(memory_message(error))
    undefined = any(bool(step.isnan().any()) for step in logits)
    return vlm.reply(logits[0][0].float(), None if undefined else ids[: ask.max_new_tokens], ask)


def rank_plainly(vlm: HfVlm, images: HfImages, ask: Ask, options: Sequence[str]) -> list[float]:
    """Log-probability of each option as the continuation of one ask's prompt, with nothing shared."""
    image = images.pictures[ask.image] if ask.image is not None else None
    text = prompts.render(vlm.processor, ask.prompt, with_image=image is not None)
    ids = prompts.token_ids(vlm.tokenizer, text)
    scores = []
    for option in options:
        tokens = prompts.continuation_ids(vlm.tokenizer, text, ids, option)
        if not tokens:
            raise ValueError(f"option {option!r} has no tokens")
        vlm.vision_calls += image is not None
        _, logits = generate(vlm, image, ask.prompt, len(tokens), tokens)
        if len(logits) < len(tokens):
            raise DataError(
                f"option {option[:60]!r} ends beyond the model's context of {vlm.family.context} tokens; shorten it or "
                "the prompt"
            )
        pairs = zip(tokens, logits, strict=True)
        scores.append(sum(float(step[0].float().log_softmax(-1)[token]) for token, step in pairs))
    return scores
