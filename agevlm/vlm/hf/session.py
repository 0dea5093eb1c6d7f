"""A transformers VLM behind the contract: each image and the shared prompt prefix run once, suffixes in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL.Image import Image

from agevlm.errors import CheckpointError
from agevlm.vlm.batching import Batcher
from agevlm.vlm.contract import Ask, Capability, EncodedImages, Fingerprint, Reply, Vlm
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.candidates import candidate_logprobs, candidate_token_ids
from agevlm.vlm.hf.checkpoint import Checkpoint, find_checkpoint, load
from agevlm.vlm.hf.families import Family, family_class
from agevlm.vlm.hf.prefix import EMPTY, Prefix, build_prefix, decode_greedily, prefill

R = TypeVar("R")

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
}
"""generation_config entries that change greedy logits, with their neutral values. Greedy here is the plain argmax; a
checkpoint that sets one of them is told so in `describe` (and its plain `generate` would differ)."""


@dataclass
class HfImages(EncodedImages):
    """Vision features per image and, once a question was asked, the keys and values of its prompt prefix."""

    features: list[torch.Tensor]
    """Per image (visual tokens, hidden size), on the model's device."""
    prefixes: dict[int | None, Prefix] = field(default_factory=dict)
    """The prefix last used for each image; None for asks without an image."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Row:
    """One ask (or one option of an ask) as token ids."""

    image: int | None
    ids: list[int]
    continuation: list[int] = field(default_factory=list)
    limit: int = 0


class HfVlm(Vlm):
    """A transformers image-text-to-text checkpoint.

    Counters (`vision_calls`, `language_positions`) say how much work was done; tests and benchmarks read them.
    """

    capabilities: frozenset[Capability] = frozenset({"logprobs", "rank", "blind"})

    def __init__(self, model: Any, processor: Any, fingerprint: Fingerprint, *, batch_size: int = 32) -> None:
        self.model, self.processor, self.fingerprint = model, processor, fingerprint
        self.tokenizer = processor.tokenizer
        self.family: Family = family_class(model.config.model_type)(model, processor)
        self.batcher = Batcher(batch_size, is_out_of_memory, release_memory)
        self._candidates: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self.vision_calls = 0
        self.language_positions = 0
        end = model.generation_config.eos_token_id
        if end is None:
            end = self.tokenizer.eos_token_id
        self.end_ids = frozenset([end] if isinstance(end, int) else end or [])
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else min(self.end_ids, default=0)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | Checkpoint,
        *,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 32,
        chat_template: str | None = None,
    ) -> HfVlm:
        """Load a checkpoint folder or hub id.

        Args:
            checkpoint: a folder, a hub id, or an already checked checkpoint.
            dtype: float32, bfloat16 or float16.
            device: cpu, cuda, cuda:N, or auto (cuda where there is one).
            batch_size: most question suffixes in one forward pass; halved by itself when memory runs out.
            chat_template: jinja text to use in place of the checkpoint's own.

        Raises:
            CheckpointError: see `find_checkpoint` and `load`.
        """
        found = checkpoint if isinstance(checkpoint, Checkpoint) else find_checkpoint(str(checkpoint))
        family_class(found.model_type)
        fingerprint = found.fingerprint(dtype, chat_template)
        model, processor = load(found, dtype=dtype, device=device, chat_template=chat_template)
        return cls(model, processor, fingerprint, batch_size=batch_size)

    def describe(self) -> Mapping[str, object]:
        config = self.model.generation_config
        ignored = {k: v for k, n in LOGIT_SETTINGS.items() if (v := getattr(config, k, None)) not in n}
        return {
            "adapter": "hf",
            "model_type": self.model.config.model_type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "attention": self.model.config._attn_implementation,
            "candidate_token_ids": self._candidate_ids(("yes", "no")),
            "end_token_ids": sorted(self.end_ids),
            "generation_settings_ignored": ignored,
        }

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> HfImages:
        features = []
        for image in images:
            self.vision_calls += 1
            features.append(self.family.features(self.family.preprocess(image)))
        return HfImages(features)

    @torch.inference_mode()
    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        images = self._own(encoded)
        rows = [self._row(images, ask)[1] for ask in asks]

        def run(image: int | None, prefix: Prefix, batch: Sequence[int]) -> list[Reply]:
            suffixes = [rows[i].ids[len(prefix.ids) :] for i in batch]
            state = self._prefill(images, image, prefix, suffixes)
            limits = [rows[i].limit for i in batch]
            first, generated = decode_greedily(self.family, state, len(prefix.ids), limits, self.end_ids, self.pad_id)
            self.language_positions += len(batch) * (max(map(len, generated), default=0) - 1)
            return [
                self._reply(first[n], ids, asks[i]) for n, (i, ids) in enumerate(zip(batch, generated, strict=True))
            ]

        return self._over_images(images, rows, run, lambda _, message: Reply.failed(message))

    @torch.inference_mode()
    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        images = self._own(encoded)
        rows, owner = [], []
        for index, (ask, texts) in enumerate(zip(asks, options, strict=True)):
            text, row = self._row(images, ask)
            for option in texts:
                continuation = prompts.continuation_ids(self.tokenizer, text, row.ids, option)
                if not continuation:
                    raise ValueError(f"option {option!r} of ask {index} has no tokens")
                rows.append(Row(row.image, row.ids, continuation))
                owner.append(index)

        def run(image: int | None, prefix: Prefix, batch: Sequence[int]) -> list[float]:
            past = len(prefix.ids)
            # The last token of the continuation is predicted, never an input.
            inputs = [(rows[i].ids + rows[i].continuation[:-1])[past:] for i in batch]
            logits = self._prefill(images, image, prefix, inputs).logits
            scores = []
            for n, i in enumerate(batch):
                end = len(inputs[n])
                start = end - len(rows[i].continuation)
                logprobs = torch.log_softmax(logits[n, start:end].float(), dim=-1)
                target = torch.tensor(rows[i].continuation, device=logits.device)
                scores.append(float(logprobs.gather(-1, target[:, None]).sum()))
            return scores

        def failed(_: int, message: str) -> float:
            raise MemoryError(message)

        ranked: list[list[float]] = [[] for _ in asks]
        for index, score in zip(owner, self._over_images(images, rows, run, failed), strict=True):
            ranked[index].append(score)
        return ranked

    def close(self) -> None:
        del self.model, self.family
        release_memory()

    def _over_images(
        self,
        images: HfImages,
        rows: Sequence[Row],
        run: Callable[[int | None, Prefix, Sequence[int]], list[R]],
        failed: Callable[[int, str], R],
    ) -> list[R]:
        """Run row indices image by image over each image's prefix, in memory-safe batches; results in row order."""
        by_image: dict[int | None, list[int]] = {}
        for i, row in enumerate(rows):
            by_image.setdefault(row.image, []).append(i)
        results: dict[int, R] = {}
        for image, members in by_image.items():

            def batch(items: Sequence[int], image: int | None = image, members: list[int] = members) -> list[R]:
                return run(image, self._prefix(images, image, [rows[i].ids for i in members]), items)

            results.update(zip(members, self.batcher.map(members, batch, failed), strict=True))
        return [results[i] for i in range(len(rows))]

    def _prefix(self, images: HfImages, image: int | None, rows: list[list[int]]) -> Prefix:
        """The shared prefix of an image's rows: the one at hand if all rows begin with it, else a new one."""
        known = images.prefixes.get(image)
        if known is not None and all(len(r) > len(known.ids) and tuple(r[: len(known.ids)]) == known.ids for r in rows):
            return known
        length = prompts.common_prefix(rows)
        if self.family.image_token_id in rows[0][length:]:
            # The template puts text that differs before the image: nothing can be shared, rows run whole.
            length = 0
        self.language_positions += length
        prefix = build_prefix(self.family, rows[0][:length], self._features(images, image)) if length else EMPTY
        images.prefixes[image] = prefix
        return prefix

    def _prefill(self, images: HfImages, image: int | None, prefix: Prefix, suffixes: list[list[int]]) -> Any:
        self.language_positions += len(suffixes) * max(map(len, suffixes))
        features = None if prefix.ids else self._features(images, image)
        return prefill(self.family, prefix, suffixes, features, self.pad_id)

    def _row(self, images: HfImages, ask: Ask) -> tuple[str, Row]:
        """An ask's rendered text (placeholders expanded) and its token ids."""
        if ask.image is not None and not 0 <= ask.image < len(images):
            raise IndexError(f"the ask names image {ask.image} of {len(images)}")
        text = prompts.render(self.processor, ask.prompt, with_image=ask.image is not None)
        found = text.count(self.family.image_token)
        if found != (ask.image is not None):
            raise CheckpointError(
                f"the chat template (or the prompt) puts {found} image placeholders {self.family.image_token!r} into a "
                f"prompt that should hold {int(ask.image is not None)}"
            )
        if ask.image is not None:
            text = self.family.expand(text, len(images.features[ask.image]))
        ids = prompts.token_ids(self.tokenizer, text)
        return text, Row(ask.image, ids, limit=ask.max_new_tokens)

    def _reply(self, first: torch.Tensor, ids: list[int], ask: Ask) -> Reply:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        ended = bool(ids) and ids[-1] in self.end_ids
        logprobs = candidate_logprobs(first[None], self._candidate_ids(ask.candidates))[0]
        return Reply(text, "eos" if ended else "length", logprobs, tuple(ids))

    def _candidate_ids(self, candidates: tuple[str, ...]) -> dict[str, list[int]]:
        if candidates not in self._candidates:
            self._candidates[candidates] = candidate_token_ids(self.tokenizer, candidates)
        return self._candidates[candidates]

    @staticmethod
    def _features(images: HfImages, image: int | None) -> torch.Tensor | None:
        return None if image is None else images.features[image]

    @staticmethod
    def _own(encoded: EncodedImages) -> HfImages:
        if not isinstance(encoded, HfImages):
            raise TypeError(f"these images were encoded by another adapter: {type(encoded).__name__}")
        return encoded


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that device or host memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def release_memory() -> None:
    """Give cached device memory back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
