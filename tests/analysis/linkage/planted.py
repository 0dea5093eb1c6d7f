"""A model whose looks and answers follow a known rule, about rendered scenes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image as Images
from PIL.Image import Image

from agevlm.data.masks import rle_mask
from agevlm.geometry import Geometry
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import (
    POOLINGS,
    Ask,
    Compared,
    EncodedImages,
    Fingerprint,
    Probe,
    ProbedToken,
    ProbeSpec,
    Reply,
    Space,
    StateSpec,
    Vlm,
)
from analysis.linkage.annotated import scenes_annotated
from benchmarks.pope.scenes import pope_scenes

GRID = (12, 12)
STRONG = 4.0


@dataclass(frozen=True)
class Rule:
    """How the model works."""

    looks: bool = True
    """Whether its errors show in its attention (sharp where it hallucinates, off the object where it misses); if not,
    attention is as sharp, and as far off, at random."""
    uses_object: bool = True
    """Whether its margin falls as the object is hidden; if not, as anything is."""


class Pictures(EncodedImages):
    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = list(images)

    def __len__(self) -> int:
        return len(self.images)


def chance(*content: object) -> float:
    """0 to 1, by content."""
    return int.from_bytes(hashlib.sha256(repr(content).encode()).digest()[:8], "big") / 2**64


class Planted(Vlm):
    """Errs in a third of the questions, by a hash of image and object."""

    capabilities = frozenset({"logprobs", "rank", "probe"})

    def __init__(self, selector: str, rule: Rule) -> None:
        _, encoded = pope_scenes(selector)
        self.rule = rule
        self.fingerprint = Fingerprint(
            hashlib.sha256(repr((selector, rule)).encode()).hexdigest(), {"rule": repr(rule)}
        )

        self.pixels = {n: np.asarray(Images.open(io.BytesIO(b)).convert("RGB")) for n, b in encoded.items()}
        annotated = scenes_annotated(encoded, 96)
        self.masks = {
            name: {k: rle_mask(m, annotated.of(name).size) for k, m in annotated.of(name).masks.items() if m}
            for name in encoded
        }
        self.asked = 0
        self.encoded = 0
        self.hidden: list[tuple[str, np.ndarray]] = []

    def encode(self, images: Sequence[Image]) -> Pictures:
        self.encoded += len(images)
        return Pictures([np.asarray(i) for i in images])

    def scene(self, encoded: EncodedImages, image: int | None) -> tuple[str, np.ndarray]:
        """The scene that this is, and where its pixels are as they were."""
        assert isinstance(encoded, Pictures)
        assert image is not None
        shown = encoded.images[image]
        same = {n: (p == shown).all(-1) for n, p in self.pixels.items() if p.shape == shown.shape}
        name = max(same, key=lambda n: same[n].mean())
        return name, same[name]

    @staticmethod
    def word(ask: Ask) -> str:
        return ask.prompt.removeprefix("Is there an ").removeprefix("Is there a ").split(" in the image")[0]

    def errs(self, scene: str, word: str) -> bool:
        return chance("errs", scene, word) < 1 / 3

    def margin(self, scene: str, word: str, visible: np.ndarray) -> float:
        """visible: (height, width), which pixels can be seen."""
        mask = self.masks[scene].get(word)
        there = mask is not None
        says_yes = there != self.errs(scene, word)
        size = STRONG + chance("size", scene, word)
        if not says_yes:
            return -size
        if there and self.rule.uses_object:
            return size * (2 * float(visible[mask].mean()) - 1)
        return size * (2 * float(visible.mean()) - 1)

    @staticmethod
    def logprobs(margin: float) -> Mapping[str, float]:
        return {"yes": -float(np.logaddexp(0, -margin)), "no": -float(np.logaddexp(0, margin))}

    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        replies = []
        for ask in asks:
            self.asked += 1
            scene, same = self.scene(encoded, ask.image)
            margin = self.margin(scene, self.word(ask), same)
            replies.append(Reply("Yes" if margin > 0 else "No", "eos", self.logprobs(margin), (1,)))
        return replies

    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        raise NotImplementedError

    def tokens(
        self, encoded: EncodedImages, asks: Sequence[Ask], answers: Sequence[Sequence[int]]
    ) -> list[tuple[ProbedToken, ...]]:
        found = []
        for ask in asks:
            tokens, at = [ProbedToken("<s>", "template", 0, 3)], 0
            for piece in ask.prompt.replace("?", " ?").split():
                at = ask.prompt.index(piece, at)
                tokens.append(ProbedToken(piece, "prompt", at, at + len(piece)))
                at += len(piece)
            found.append((*tokens, ProbedToken("ASSISTANT:", "template", 3, 13)))
        return found

    def geometry(self, encoded: EncodedImages, image: int) -> Geometry:
        assert isinstance(encoded, Pictures)
        height, width = encoded.images[image].shape[:2]
        return Geometry.letterbox((width, height), (96, 96), GRID)

    def probe(
        self,
        encoded: EncodedImages,
        asks: Sequence[Ask],
        answers: Sequence[Sequence[int]],
        spec: ProbeSpec,
        wanted: Sequence[Sequence[int]] | None = None,
    ) -> list[Probe]:
        assert wanted is not None
        probes = []
        for ask, tokens, chosen in zip(asks, self.tokens(encoded, asks, answers), wanted, strict=True):
            scene, _ = self.scene(encoded, ask.image)
            geometry = self.geometry(encoded, ask.image or 0)
            one = self.attention(scene, self.word(ask), geometry)
            attention = np.zeros((2, len(chosen), *GRID), np.float32)
            for place, token in enumerate(chosen):
                names = [k for k, t in enumerate(tokens) if t.text in self.word(ask).split()]
                is_word_or_last = token in (names[-1], len(tokens) - 1)
                # Any other token looks at a corner of the padding, so that a wrong choice shows.
                attention[:, place] = one if is_word_or_last else np.eye(144)[0].reshape(GRID)
            elsewhere = np.zeros(attention.shape[:2], np.float32)
            probes.append(Probe(tuple(tokens[k] for k in chosen), (3, 7), attention, elsewhere, geometry))
        return probes

    def attention(self, scene: str, word: str, geometry: Geometry) -> np.ndarray:
        """Sums to 1 over the image's cells."""
        coverage = geometry.coverage()
        errs = self.errs(scene, word) if self.rule.looks else chance("looks", scene, word) < 1 / 3
        noise = coverage * (1 + 0.3 * np.random.default_rng(int(1e9 * chance("noise", scene, word))).random(GRID))
        noise /= noise.sum()
        mask = self.masks[scene].get(word)
        if mask is None:
            cells = np.flatnonzero(coverage == 1)
            spot = np.zeros(144)
            spot[cells[int(len(cells) * chance("spot", scene, word))]] = 1
            return (0.6 if errs else 0.1) * spot.reshape(GRID) + (0.4 if errs else 0.9) * noise
        on = geometry.mask_to_grid(mask)
        off = coverage - on
        share = 0.05 if errs else 0.9
        return share * on / on.sum() + (1 - share) * off / off.sum()

    def knock_out(
        self, encoded: EncodedImages, asks: Sequence[Ask], hidden: Sequence[np.ndarray]
    ) -> list[Mapping[str, float]]:
        found = []
        for ask, cells in zip(asks, hidden, strict=True):
            scene, _ = self.scene(encoded, ask.image)
            geometry = self.geometry(encoded, ask.image or 0)
            visible = np.nan_to_num(geometry.grid_to_image(cells.astype(float))) < 0.5
            self.hidden.append((scene, cells))
            found.append(self.logprobs(self.margin(scene, self.word(ask), visible)))
        return found

    def hidden_share(self, encoded: EncodedImages, image: int, hidden: Sequence[np.ndarray]) -> list[float]:
        return [float(cells.mean()) for cells in hidden]

    def similarities(
        self, encoded: EncodedImages, asks: Sequence[Ask], wanted: Sequence[Sequence[int]], spec: StateSpec
    ) -> list[Mapping[Space, Compared]]:
        found: list[Mapping[Space, Compared]] = []
        for ask, chosen in zip(asks, wanted, strict=True):
            assert len(chosen) > 0
            scene, _ = self.scene(encoded, ask.image)
            raw = np.zeros((4, len(POOLINGS)), np.float32)
            # Read from the last layer and the mean alone.
            raw[2, 0] = 0.1 + 0.5 * (self.word(ask) in self.masks[scene])
            nothing = np.zeros((4, 1, 1), np.float32)
            found.append({"hidden": Compared(("embeddings", "0", "1", "norm"), raw, None, nothing, nothing)})
        return found


@dataclass(frozen=True)
class PlantedChoice(ModelChoice):
    """A planted model where a checkpoint is asked for."""

    selector: str = "scenes:24"
    rule: Rule = Rule()

    def fingerprint(self) -> Fingerprint:
        return Planted(self.selector, self.rule).fingerprint

    def load(self) -> Vlm:
        made = Planted(self.selector, self.rule)
        LOADED.append(made)
        return made


LOADED: list[Planted] = []
"""Every model that was loaded, to see what it was asked."""


def choice(name: str, rule: Rule, selector: str = "scenes:24") -> PlantedChoice:
    return replace(PlantedChoice(name), selector=selector, rule=rule)
