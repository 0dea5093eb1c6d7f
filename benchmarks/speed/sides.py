"""The ways of answering the questions of one image that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from agevlm.vlm.hf.session import HfVlm


@dataclass(frozen=True)
class Said:
    """One answer: the generated token ids, end token included, and their text."""

    ids: tuple[int, ...]
    text: str


Side = Callable[["HfVlm", bytes, Sequence[str], int], list[Said]]


def decode_jpeg(jpeg: bytes) -> Any:
    """The picture in a file, decoded as the suite decodes every image."""
    from agevlm.data.images import EncodedFile, decode

    return decode(EncodedFile("picture.jpg", jpeg))


def _said(vlm: HfVlm, ids: Sequence[int]) -> Said:
    return Said(tuple(ids), vlm.tokenizer.decode(ids, skip_special_tokens=True))


def plain(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """What harnesses do: decode, preprocess, encode and `generate` for each question, with nothing shared."""
    from agevlm.vlm.hf.prompts import add_special_tokens, render
    from agevlm.vlm.hf.reference import greedy_arguments

    answers = []
    for prompt in prompts:
        text = render(vlm.processor, prompt, with_image=True)
        inputs = vlm.processor(
            text=text,
            images=decode_jpeg(jpeg),
            return_tensors="pt",
            add_special_tokens=add_special_tokens(vlm.tokenizer, text),
        ).to(vlm.model.device, vlm.model.dtype)
        output = vlm.model.generate(**inputs, **greedy_arguments(vlm, limit))
        answers.append(_said(vlm, output[0, inputs["input_ids"].shape[1] :].tolist()))
    return answers


def image_reuse(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """The image is encoded once; each question's whole prompt runs through `generate` on what came of it."""
    import torch

    from agevlm.vlm.hf.prompts import render, token_ids
    from agevlm.vlm.hf.reference import greedy_arguments

    features = vlm.family.features(vlm.family.moved(vlm.family.preprocess(decode_jpeg(jpeg))))
    answers = []
    for prompt in prompts:
        text = render(vlm.processor, prompt, with_image=True)
        text = vlm.family.expand(text, vlm.family.placeholders(features))
        row = torch.tensor([token_ids(vlm.tokenizer, text)], device=vlm.model.device)
        output = vlm.model.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            **_encoded_image(vlm, row, features),
            **greedy_arguments(vlm, limit),
        )
        answers.append(_said(vlm, output[0, row.shape[1] :].tolist()))
    return answers


def _encoded_image(vlm: HfVlm, row: torch.Tensor, features: Any) -> dict[str, Any]:
    """How `generate` is given an image that is encoded already: each family's own way."""
    from agevlm.vlm.hf.age_vlm import AgeVlmCross
    from agevlm.vlm.hf.prefix import build_prefix

    if isinstance(vlm.family, AgeVlmCross):
        return {"past_key_values": build_prefix(vlm.family, (), features).cache(1)}
    return {"inputs_embeds": vlm.family.embed(row, features)}


def batched(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """The session with the questions' suffixes as rows of a batch, each with its own copy of the prefix."""
    packing, vlm.packing = vlm.packing, False
    try:
        return session(vlm, jpeg, prompts, limit)
    finally:
        vlm.packing = packing


def session(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """The suite's session: the image and the shared prompt prefix once, the questions' suffixes in one row."""
    from agevlm.vlm.contract import Ask

    replies = vlm.answer(vlm.encode([decode_jpeg(jpeg)]), [Ask(p, 0, limit) for p in prompts])
    return [Said(r.token_ids, r.text or "") for r in replies]


def distinct(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """The session, asked every distinct question once."""
    unique = list(dict.fromkeys(prompts))
    answers = dict(zip(unique, session(vlm, jpeg, unique, limit), strict=True))
    return [answers[p] for p in prompts]


SIDES: dict[str, Side] = {
    "plain generate": plain,
    "image reuse": image_reuse,
    "image and prefix reuse": batched,
    "suffixes in one row": session,
    "the same, distinct questions": distinct,
}
PLAIN = "plain generate"
ONE_BY_ONE = (PLAIN, "image reuse")
"""Sides that run question by question: two questions warm them up as well as eighteen do."""
