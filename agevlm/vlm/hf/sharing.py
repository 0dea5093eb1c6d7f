"""How much the questions of an image may share: known for the families of the table, tried out for all others.

A type that nobody vouches for is checked when its first question comes: two prompts of different length, as one padded
batch on a shared prefix, against the checkpoint's own processor and `generate`, first and second step. Where they
differ (or the model cannot be run so at all) less is shared, down to nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from agevlm.errors import CheckpointError, DataError
from agevlm.vlm.batching import memory_message
from agevlm.vlm.contract import Ask
from agevlm.vlm.hf.general import QUESTION
from agevlm.vlm.hf.memory import is_out_of_memory, release_memory
from agevlm.vlm.hf.plain import generate, plain_inputs
from agevlm.vlm.hf.prefix import prefill, step
from agevlm.vlm.reuse import Reuse

if TYPE_CHECKING:
    from agevlm.vlm.hf.families import Family
    from agevlm.vlm.hf.images import HfImages
    from agevlm.vlm.hf.session import HfVlm

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest distance of logits that are the same but for rounding, relative to their spread (Euclidean norms)."""


class Sharing:
    """What asks with an image, and asks without one, share; settled once each."""

    def __init__(self, family: Family, proven: bool) -> None:
        self._proven = proven
        self._last: dict[bool, Reuse] = {}
        """What was last found for some asks alone, where that says nothing of others."""
        self._most = Reuse(prefix=family.shares_prefix, why=family.why_not)
        self._settled: dict[bool, Reuse] = {True: self._most, False: self._most} if proven else {}

    def refuse(self, error: Exception) -> bool:
        """Whether an image that cannot be encoded ahead is to be asked about the plain way; if not, the error stands.

        A prompt that cannot be written as the processor does is a reason for any family, and for all images to come; of
        a type that nobody vouches for any other error is one, for this image.
        """
        self._last[True] = Reuse(False, False, _one_line(error))
        if isinstance(error, CheckpointError):
            self._settled[True] = self._last[True]
        return isinstance(error, CheckpointError) or not self._proven

    @property
    def encodes(self) -> bool:
        """Whether images are worth encoding ahead of their questions."""
        return self._settled.get(True, self._most).image

    def settled(self, shown: bool) -> Reuse:
        """What asks with an image, or without one, share, once one of them was asked."""
        return self._settled.get(shown, self._most)

    def of(self, vlm: HfVlm, images: HfImages, ask: Ask) -> Reuse:
        """What an ask may share; the first one of its kind is asked in more than one way to find out."""
        shown = ask.image is not None
        if ask.image is not None and images.features[ask.image] is None:
            return self._last[True]
        if _stretches(vlm, images, ask):
            self._last[shown] = Reuse(False, False, "the length of the longest row decides the positions of all")
            return self._last[shown]
        if shown not in self._settled:
            found, final = _tried(vlm, images, ask)
            if not final:
                self._last[shown] = found
                return found
            self._settled[shown] = found
        return self._settled[shown]

    def facts(self) -> dict[str, object]:
        """For `describe`; of asks without an image where there were no others, or they share something else."""
        shown, blind = (self._settled.get(key) or self._last.get(key) for key in (True, False))
        untried = replace(self._most, why="not tried yet: settled by the first question")
        found = (shown or blind or untried).facts()
        return found | ({"without_image": blind.facts()} if shown and blind and blind != shown else {})


def falling_back(plainly: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a method of the session take asks that may share nothing one by one, the plain way; results in order."""

    def decorate(together: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(together)
        def method(self: HfVlm, encoded: Any, asks: Sequence[Ask], *more: Sequence[Any]) -> list[Any]:
            images = self.own(encoded)
            for ask in asks:
                self.check(images, ask)
            alone = [i for i, ask in enumerate(asks) if not self.sharing.of(self, images, ask).image]
            if not alone:
                return list(together(self, encoded, asks, *more))
            results = {i: plainly(self, images, asks[i], *(m[i] for m in more)) for i in alone}
            rest = [i for i in range(len(asks)) if i not in results]
            found = together(self, encoded, [asks[i] for i in rest], *([m[i] for i in rest] for m in more))
            results.update(zip(rest, found, strict=True))
            return [results[i] for i in range(len(asks))]

        return method

    return decorate


Step = tuple[list[int], list[int], list[torch.Tensor]]
"""Token ids of a prompt, the first generated one or two, and the logits that gave them."""


def _stretches(vlm: HfVlm, images: HfImages, ask: Ask) -> bool:
    if vlm.family.stretch is None:
        return False
    row = vlm.row(images, ask)[1]
    return len(row.ids) + row.limit > vlm.family.stretch


def _tried(vlm: HfVlm, images: HfImages, ask: Ask) -> tuple[Reuse, bool]:
    """What an ask may share, and whether that is known for others of its kind as well."""
    asks = [replace(ask, prompt=prompt) for prompt in (ask.prompt, f"{ask.prompt} {QUESTION}")]
    problem = ""
    while asks:
        try:
            found, numbers = _try(vlm, images, asks)
        except DataError:
            if len(asks) == 1:
                raise
            # The longer one is too long for the model's context.
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = memory_message(error)
            vlm.batcher.size = 1
        else:
            # One row shows nothing of padding, and logits that are no numbers show nothing at all.
            return found, len(asks) > 1 and numbers
        images.prefixes.clear()
        release_memory()
        asks.pop()
    return Reuse(False, False, problem), False


def _try(vlm: HfVlm, images: HfImages, asks: list[Ask]) -> tuple[Reuse, bool]:
    """What leaves the answers to asks alone: all shared, the image, or nothing; and whether they are numbers."""
    picture = None if asks[0].image is None else images.pictures[asks[0].image]
    # Not guarded: a model whose own generate fails cannot be asked at all.
    expected = [_plain(vlm, picture, ask) for ask in asks]
    if any(bool(logits.isnan().any()) for _, _, steps in expected for logits in steps):
        return Reuse(False, False, "logits that are no numbers"), False
    problems: list[str] = []
    for prefix in (True, False):
        try:
            found = _shared(vlm, images, asks, [tokens for _, tokens, _ in expected], Reuse(prefix=prefix))
            problem = _difference(vlm, expected, found)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            problem = _one_line(error)
        if not problem:
            return Reuse(prefix=prefix, why="".join(problems)), True
        problems.append(problem)
    return Reuse(False, False, problems[-1]), True


def _plain(vlm: HfVlm, picture: Any, ask: Ask) -> Step:
    ids = plain_inputs(vlm, picture, ask.prompt)["input_ids"][0].tolist()
    tokens, logits = generate(vlm, picture, ask.prompt, 2)
    return ids, tokens, [found[0].float() for found in logits]


def _shared(vlm: HfVlm, images: HfImages, asks: list[Ask], tokens: list[list[int]], reuse: Reuse) -> list[Step]:
    """The same by prefix and batch, the second step after the token that plain generation said."""
    rows = [vlm.row(images, ask)[1].ids for ask in asks]
    prefix = vlm._prefix(images, asks[0].image, rows, reuse)
    images.prefixes.clear()
    suffixes = [ids[len(prefix.ids) :] for ids in rows]
    features = None if prefix.ids else vlm._features(images, asks[0].image)
    state = prefill(vlm.family, prefix, suffixes, [[len(s) - 1] for s in suffixes], features, vlm.pad_id)
    first = torch.cat(state.logits).float()
    mask = torch.cat([state.mask, state.mask.new_ones((len(rows), 1))], dim=1)
    places = len(prefix.ids) + state.lengths + vlm.family.shift(state.features)
    second = step(vlm.family, state, [said[0] for said in tokens], mask, places)
    return [(ids, said, [a, b]) for ids, said, a, b in zip(rows, tokens, first, second, strict=True)]


def _difference(vlm: HfVlm, expected: list[Step], found: list[Step]) -> str:
    """How the shared way differs from the plain one; empty where it does not."""
    for (ids, _, logits), (our_ids, _, our_logits) in zip(expected, found, strict=True):
        if ids != our_ids:
            return "its processor makes other token ids of a prompt than its tokenizer with the image written out"
        for name, plain, ours in zip(("first", "second"), logits, our_logits, strict=False):
            distance = float((ours - plain.to(ours.device)).norm() / (plain - plain.mean()).norm().clamp_min(1e-9))
            if not distance <= CLOSE[vlm.model.dtype]:
                return (
                    f"logits of the {name} answer token are {distance:.2g} of their spread away from plain generate's"
                )
    return ""


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"
