"""A transformers VLM behind the contract: each image and the shared prompt prefix run once, suffixes in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from agevlm.errors import CheckpointError, DataError, NotSupported
from agevlm.geometry import Geometry
from agevlm.vlm.batching import AUTOMATIC, Batcher, memory_message
from agevlm.vlm.contract import (
    Ask,
    Capability,
    Compared,
    EncodedImages,
    Fingerprint,
    Prepared,
    Probe,
    ProbedToken,
    ProbeSpec,
    Reply,
    Space,
    StateSpec,
    Vlm,
    pictures,
)
from agevlm.vlm.hf import looking, prompts
from agevlm.vlm.hf.candidates import candidate_logprobs, candidate_token_ids
from agevlm.vlm.hf.checkpoint import Checkpoint, find_checkpoint, load
from agevlm.vlm.hf.images import HfImages, Row
from agevlm.vlm.hf.memory import is_out_of_memory, release_memory, with_room
from agevlm.vlm.hf.packed import Decoded, Pack, can_pack, decode_packed, prefill_packed, worth_packing
from agevlm.vlm.hf.plain import LOGIT_SETTINGS, answer_plainly, rank_plainly
from agevlm.vlm.hf.prefix import Prefilled, Prefix, build_prefix, decode_greedily, prefill
from agevlm.vlm.hf.sharing import Sharing, falling_back
from agevlm.vlm.hf.states import similarities
from agevlm.vlm.hf.table import find_family
from agevlm.vlm.reuse import Reuse

R = TypeVar("R")


class HfVlm(Vlm):
    """A transformers image-text-to-text checkpoint.

    Counters (`vision_calls`, `language_positions`) say how much work was done; tests and benchmarks read them.
    """

    def __init__(self, model: Any, processor: Any, fingerprint: Fingerprint, *, batch_size: int | None = None) -> None:
        self.model, self.processor, self.fingerprint = model, processor, fingerprint
        self.tokenizer = processor.tokenizer
        prompts.check_template(processor)
        self.family, self._proven = find_family(model, processor)
        able: dict[Capability, bool] = {"blind": self.family.blind, "probe": self.family.probes}
        always: frozenset[Capability] = frozenset({"logprobs", "rank"})
        self.capabilities = always | {name for name, has in able.items() if has}
        self.sharing = Sharing(self.family, self._proven)
        begin = AUTOMATIC.get(self.family.device.type, AUTOMATIC["cpu"]) if batch_size is None else batch_size
        self.batcher = Batcher(begin, is_out_of_memory, release_memory)
        self._batch_size = {"given": batch_size, "first": begin}
        self.packing = self._proven and can_pack(self.family)
        """Whether questions may share a row (`packed`); off, they always run as a batch."""
        self._candidates: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self.vision_calls = 0
        self.language_positions = 0
        end = model.generation_config.eos_token_id
        if end is None:
            end = self.tokenizer.eos_token_id
        self.end_ids = frozenset([end] if isinstance(end, int) else end or [])
        # Not the tokenizer's: some name none, and some one beyond the embedding table. Padding is masked anyway.
        self.pad_id = int(self.family.image_token_id == 0)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | Checkpoint,
        *,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int | None = None,
        chat_template: str | None = None,
        device_map: str | None = None,
    ) -> HfVlm:
        """Load a checkpoint folder or hub id.

        Args:
            checkpoint: a folder, a hub id, or an already checked checkpoint.
            dtype: float32, bfloat16 or float16.
            device: cpu, cuda, cuda:N, or auto (cuda where there is one).
            batch_size: most question suffixes in one forward pass, by default many; halved when memory runs out.
            chat_template: jinja text to use in place of the checkpoint's own.
            device_map: how to spread the model over devices, as transformers takes it ("auto"); then `device` is auto.

        Raises:
            CheckpointError: see `find_checkpoint` and `load`.
        """
        found = checkpoint if isinstance(checkpoint, Checkpoint) else find_checkpoint(str(checkpoint))
        fingerprint = found.fingerprint(dtype, chat_template)
        model, processor = load(found, dtype=dtype, device=device, chat_template=chat_template, device_map=device_map)
        try:
            return cls(model, processor, fingerprint, batch_size=batch_size)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {found.name}: {error}") from error

    def describe(self) -> Mapping[str, object]:
        config, device = self.model.generation_config, self.family.device
        spread = getattr(self.model, "hf_device_map", None)
        ignored = {k: v for k, n in LOGIT_SETTINGS.items() if (v := getattr(config, k, None)) not in n}
        return {
            "adapter": self.family.adapter,
            "model_type": self.model.config.model_type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            **({"device_map": sorted(set(map(str, spread.values())))} if spread else {}),
            "batch_size": {**self._batch_size, "fitted": self.batcher.size},
            "attention": self.model.config._attn_implementation,
            "candidate_token_ids": self.candidate_ids(("yes", "no")),
            "packing": self.packing and self.sharing.settled(True).prefix,
            "end_token_ids": sorted(self.end_ids),
            "generation_settings_ignored": ignored,
            "reuse": self.sharing.facts(),
        }

    @torch.inference_mode()
    def prepare(self, image: Image) -> Image | Prepared:
        # Of a type that nobody vouches for it is not known that its processor bears two threads.
        if not (self._proven and self.sharing.encodes):
            return image
        try:
            return Prepared(image, self.family.preprocess(image))
        except Exception:
            return image  # `encode` meets the same error, where it can be told from an image that cannot be opened

    def mean_colour(self) -> tuple[float, float, float] | None:
        images = getattr(self.processor, "image_processor", None)
        mean = getattr(images, "image_mean", None) if getattr(images, "do_normalize", True) else None
        if not isinstance(mean, (list, tuple)) or len(mean) != 3:
            return None
        red, green, blue = (float(value) for value in mean)
        return red, green, blue

    @torch.inference_mode()
    def encode(self, images: Sequence[Image | Prepared]) -> HfImages:
        given = pictures(images)
        return HfImages(self, [self._seen(one) for one in images], [p.size for p in given], pictures=given)

    def _seen(self, image: Image | Prepared) -> Any | None:
        """An image's features; None where the model is to be asked about the image itself."""
        if not self.sharing.encodes:
            return None
        self.vision_calls += 1
        try:
            inputs = image.inputs if isinstance(image, Prepared) else self.family.preprocess(image)
            return with_room(lambda: self.family.features(self.family.moved(inputs)))
        except Exception as error:
            if is_out_of_memory(error) or not self.sharing.refuse(error):
                raise
        return None

    @torch.inference_mode()
    @falling_back(answer_plainly)
    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        images = self.own(encoded)
        rows = [self.row(images, ask)[1] for ask in asks]

        def run(image: int | None, prefix: Prefix, batch: Sequence[int]) -> list[Reply]:
            suffixes = [rows[i].ids[len(prefix.ids) :] for i in batch]
            limits = [rows[i].limit for i in batch]
            if (packed := self._answer_packed(image, prefix, suffixes, limits)) is not None:
                said = zip(batch, packed.first, packed.answers, strict=True)
                return [self.reply(first, ids, asks[i]) for i, first, ids in said]
            state = self._prefill(images, image, prefix, suffixes, [[len(s) - 1] for s in suffixes])
            first, generated = decode_greedily(self.family, state, len(prefix.ids), limits, self.end_ids, self.pad_id)
            self.language_positions += len(batch) * max([0, *(len(ids) - 1 for ids in generated if ids)])
            return [self.reply(first[n], ids, asks[i]) for n, (i, ids) in enumerate(zip(batch, generated, strict=True))]

        replies = self.over_images(images, rows, run, lambda _, message: Reply.failed(message))
        if any(reply.error is not None for reply in replies):
            images.prefixes.clear()  # what is no number in a prefix would spoil every question to come
        return replies

    @torch.inference_mode()
    @falling_back(rank_plainly)
    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        images = self.own(encoded)
        rows: list[Row] = []
        # Options that differ in their last token alone, as one-word answers do, are one row.
        at: dict[tuple[int, ...], int] = {}
        lasts: list[list[int]] = []
        places: list[list[tuple[int, int]]] = []
        for index, (ask, texts) in enumerate(zip(asks, options, strict=True)):
            text, row = self.row(images, ask)
            places.append([])
            for option in texts:
                continuation = prompts.continuation_ids(self.tokenizer, text, row.ids, option)
                if not continuation:
                    raise ValueError(f"option {option!r} of ask {index} has no tokens")
                if len(row.ids) + len(continuation) > self.family.context:
                    raise DataError(
                        f"option {option[:60]!r} of ask {index} ends beyond the model's context of "
                        f"{self.family.context} tokens; shorten it or the prompt"
                    )
                begin = (index, *continuation[:-1])
                if begin not in at:
                    at[begin] = len(rows)
                    rows.append(Row(row.image, row.ids, continuation[:-1]))
                    lasts.append([])
                places[index].append((at[begin], len(lasts[at[begin]])))
                lasts[at[begin]].append(continuation[-1])

        def run(image: int | None, prefix: Prefix, batch: Sequence[int]) -> list[list[float]]:
            past = len(prefix.ids)
            # The last tokens of continuations are predicted, never an input.
            inputs = [(rows[i].ids + rows[i].continuation)[past:] for i in batch]
            wanted = [range(len(s) - len(rows[i].continuation) - 1, len(s)) for s, i in zip(inputs, batch, strict=True)]
            scores = []
            found: Pack | Prefilled | None = self._packed(image, prefix, inputs, wanted)
            if found is None or any(logits.isnan().any() for logits in found.logits):
                found = self._prefill(images, image, prefix, inputs, wanted)
            for i, logits in zip(batch, found.logits, strict=True):
                logprobs = torch.log_softmax(logits.float(), dim=-1)
                first = sum(float(logprobs[n, token]) for n, token in enumerate(rows[i].continuation))
                scores.append([first + value for value in logprobs[-1, lasts[i]].tolist()])
            return scores

        def failed(_: int, message: str) -> list[float]:
            raise MemoryError(message)

        scored = self.over_images(images, rows, run, failed)
        return [[scored[row][last] for row, last in own] for own in places]

    def tokens(
        self, encoded: EncodedImages, asks: Sequence[Ask], answers: Sequence[Sequence[int]]
    ) -> list[tuple[ProbedToken, ...]]:
        looking.require_probes(self)
        return [one.tokens for one in looking.sequences(self, self.own(encoded), asks, answers)]

    @torch.inference_mode()
    def probe(
        self,
        encoded: EncodedImages,
        asks: Sequence[Ask],
        answers: Sequence[Sequence[int]],
        spec: ProbeSpec,
        wanted: Sequence[Sequence[int]] | None = None,
    ) -> list[Probe]:
        return looking.probe(self, self.own(encoded), asks, answers, spec, wanted)

    @torch.inference_mode()
    def answer_and_probe(
        self, encoded: EncodedImages, asks: Sequence[Ask], spec: ProbeSpec, wanted: Sequence[Sequence[int]]
    ) -> tuple[list[Reply], list[Probe | None]]:
        found = looking.answer_and_probe(self, self.own(encoded), asks, spec, wanted) if self.packing else None
        return super().answer_and_probe(encoded, asks, spec, wanted) if found is None else found

    def geometry(self, encoded: EncodedImages, image: int) -> Geometry:
        return looking.layout(self, self.own(encoded), image).geometry

    @torch.inference_mode()
    def knock_out(
        self, encoded: EncodedImages, asks: Sequence[Ask], hidden: Sequence[NDArray[np.bool_]]
    ) -> list[Mapping[str, float]]:
        return looking.knock_out(self, self.own(encoded), asks, hidden)

    def hidden_share(self, encoded: EncodedImages, image: int, hidden: Sequence[NDArray[np.bool_]]) -> list[float]:
        return looking.hidden_share(self, self.own(encoded), image, hidden)

    @torch.inference_mode()
    def similarities(
        self, encoded: EncodedImages, asks: Sequence[Ask], wanted: Sequence[Sequence[int]], spec: StateSpec
    ) -> list[Mapping[Space, Compared]]:
        return similarities(self, self.own(encoded), asks, wanted, spec)

    def close(self) -> None:
        del self.model, self.family
        release_memory()

    def over_images(
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
            prefix, problem = self._prefix_or_problem(images, image, [rows[i].ids for i in members])
            if prefix is None:
                results.update({i: failed(i, problem) for i in members})
                continue
            for group in self.paddable(rows, members):
                done = self.batcher.map(
                    group, partial(self._with_room, images, image, partial(run, image, prefix)), failed
                )
                results.update(zip(group, done, strict=True))
        return [results[i] for i in range(len(rows))]

    @staticmethod
    def _with_room(
        images: HfImages, image: int | None, run: Callable[[Sequence[int]], list[R]], batch: Sequence[int]
    ) -> list[R]:
        """A batch; where memory runs out, once more without the prefixes of other images, kept only for speed."""

        def spare() -> bool:
            others = [other for other in images.prefixes if other != image]
            for other in others:
                del images.prefixes[other]
            return bool(others)

        return with_room(lambda: run(batch), spare)

    def paddable(self, rows: Sequence[Row], members: list[int]) -> list[list[int]]:
        """Members whose rows may be padded to one length.

        A sliding window counts padded slots too: where it is shorter than a row, only rows of one length may meet.
        """
        lengths = {i: len(rows[i].ids) + len(rows[i].continuation) for i in members}
        longest = max(lengths.values()) + max(rows[i].limit for i in members)
        if self.family.window is None or longest <= self.family.window:
            return [members]
        return [[i for i in members if lengths[i] == n] for n in sorted(set(lengths.values()))]

    def _prefix_or_problem(
        self, images: HfImages, image: int | None, rows: list[list[int]]
    ) -> tuple[Prefix | None, str]:
        """The prefix; where memory runs out twice, None and why. (Smaller batches of questions would not help.)"""
        problem = ""
        for _ in range(2):
            try:
                return self._prefix(images, image, rows, self.sharing.settled(image is not None)), ""
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = memory_message(error)
            # Other images' prefixes are kept only for speed.
            images.prefixes.clear()
            release_memory()
        return None, problem

    def _prefix(self, images: HfImages, image: int | None, rows: list[list[int]], reuse: Reuse) -> Prefix:
        """The shared prefix of an image's rows: what they share with the one at hand if that is most of it."""
        length = prompts.common_prefix(rows) if reuse.prefix else 0
        if not length or self.family.image_token_id in rows[0][length:]:
            # Where the template puts text that differs before the image nothing can be shared: rows run whole.
            return build_prefix(self.family, (), self._features(images, image))
        if image in images.prefixes:
            known = images.prefixes[image]
            shared = min(length, prompts.common_prefix([known.ids, rows[0]], leave=0))
            if 2 * shared >= length and self.family.image_token_id not in rows[0][shared:]:
                return known.first(shared)
        prefix = build_prefix(self.family, rows[0][:length], self._features(images, image))
        self.language_positions += length
        images.prefixes[image] = prefix
        return prefix

    def _prefill(
        self,
        images: HfImages,
        image: int | None,
        prefix: Prefix,
        suffixes: list[list[int]],
        wanted: Sequence[Sequence[int]],
    ) -> Prefilled:
        self.language_positions += len(suffixes) * max(map(len, suffixes))
        features = None if prefix.ids else self._features(images, image)
        return prefill(self.family, prefix, suffixes, wanted, features, self.pad_id)

    def _packed(
        self,
        image: int | None,
        prefix: Prefix,
        suffixes: list[list[int]],
        wanted: Sequence[Sequence[int]],
        steps: int = 0,
    ) -> Pack | None:
        """The suffixes in one row; None where they had better run as a batch, or hold the image themselves."""
        if not self.packs(image, prefix, suffixes, steps):
            return None
        self.language_positions += sum(map(len, suffixes))
        return prefill_packed(self.family, prefix, suffixes, wanted)

    def packs(self, image: int | None, prefix: Prefix, suffixes: Sequence[Sequence[int]], steps: int = 0) -> bool:
        """Whether suffixes are better off in one row; never where they hold the image themselves."""
        whole = image is not None and not prefix.ids
        return self.packing and not whole and worth_packing(self.family, len(prefix.ids), suffixes, steps)

    def _answer_packed(
        self, image: int | None, prefix: Prefix, suffixes: list[list[int]], limits: list[int]
    ) -> Decoded | None:
        pack = self._packed(image, prefix, suffixes, [[len(s) - 1] for s in suffixes], max(limits))
        decoded = None if pack is None else decode_packed(self.family, pack, limits, self.end_ids, self.pad_id)
        self.language_positions += 0 if decoded is None else decoded.positions
        return decoded

    def row(self, images: HfImages, ask: Ask) -> tuple[str, Row]:
        """An ask's rendered text (placeholders expanded) and its token ids."""
        self.check(images, ask)
        key = ask.prompt, ask.image
        if key not in images.rendered:
            images.rendered[key] = self._rendered(images, ask)
        text, ids, visual = images.rendered[key]
        room = self.family.context - len(ids)
        if room < 1:
            raise DataError(
                f"a prompt of {len(ids)} tokens ({visual} of them visual) leaves no room for an answer in the model's "
                f"context of {self.family.context}; shorten it: {ask.prompt[:60]!r}..."
            )
        return text, Row(ask.image, ids, limit=min(ask.max_new_tokens, room))

    def _rendered(self, images: HfImages, ask: Ask) -> tuple[str, list[int], int]:
        """An ask's text, its token ids, and how many of them stand for the image; checked."""
        text = prompts.render(self.processor, ask.prompt, with_image=ask.image is not None)
        found = text.count(self.family.image_token)
        if found != (ask.image is not None):
            raise CheckpointError(
                f"the chat template (or the prompt) puts {found} image placeholders {self.family.image_token!r} into a "
                f"prompt that should hold {int(ask.image is not None)}"
            )
        visual = 0
        if ask.image is not None:
            visual = self.family.placeholders(images.features[ask.image])
            text = self.family.prompt(text, images.features[ask.image])
        ids = prompts.token_ids(self.tokenizer, text)
        placeholders = ids.count(self.family.image_token_id)
        if placeholders != visual:
            raise CheckpointError(
                f"the prompt's tokens hold {placeholders} image placeholders (token {self.family.image_token_id}, "
                f"{self.family.image_token!r}) for {visual} visual tokens: tokenizer and config.json do not agree"
            )
        return text, ids, visual

    def check(self, images: HfImages, ask: Ask) -> None:
        """Refuse an ask about an image that is not there, or about none where the model needs one."""
        if ask.image is not None and not 0 <= ask.image < len(images):
            raise IndexError(f"the ask names image {ask.image} of {len(images)}")
        if ask.image is None and not self.family.blind:
            raise NotSupported(f"a model of type {self.model.config.model_type!r} cannot be asked without an image")

    def reply(self, first: torch.Tensor, ids: list[int] | None, ask: Ask) -> Reply:
        """A reply from the first step's logits and the generated ids (None if the logits were no numbers)."""
        if ids is None:
            return Reply.failed(f"the model's logits are not numbers; {self.model.dtype} may be too narrow for it")
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        ended = bool(ids) and ids[-1] in self.end_ids
        logprobs = candidate_logprobs(first[None], self.candidate_ids(ask.candidates))[0]
        return Reply(text, "eos" if ended else "length", logprobs, tuple(ids))

    def candidate_ids(self, candidates: tuple[str, ...]) -> dict[str, list[int]]:
        if candidates not in self._candidates:
            self._candidates[candidates] = candidate_token_ids(self.tokenizer, candidates)
        return self._candidates[candidates]

    @staticmethod
    def _features(images: HfImages, image: int | None) -> Any | None:
        return None if image is None else images.features[image]

    def own(self, encoded: EncodedImages) -> HfImages:
        if not isinstance(encoded, HfImages):
            raise TypeError(f"these images were encoded by another adapter: {type(encoded).__name__}")
        if encoded.owner is not self:
            raise ValueError("these images were encoded by another model")
        return encoded
