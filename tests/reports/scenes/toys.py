"""A model that looks and says what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL.Image import Image

from agevlm.geometry import Geometry
from agevlm.vlm.contract import Ask, EncodedImages, Fingerprint, Probe, ProbedToken, ProbeSpec, Reply, Vlm
from train.scenes.store import SceneStore

GRID = (12, 12)
Attend = Callable[[int, str, Geometry], np.ndarray]
"""Scene, category and geometry to attention (rows, columns)."""


class Pictures(EncodedImages):
    def __init__(self, images: Sequence[Image]) -> None:
        self.images = list(images)

    def __len__(self) -> int:
        return len(self.images)


class Planted(Vlm):
    """Knows the scenes of a store by their pixels; counts what it is asked."""

    capabilities = frozenset({"rank", "blind", "probe"})

    def __init__(self, store: SceneStore, attend: Attend, scale: float = 1.0) -> None:
        self.store, self.attend, self.scale = store, attend, scale
        self.fingerprint = Fingerprint("planted", {})
        self.numbers = {store.image(i).tobytes(): i for i in range(len(store))}
        self.ranked: list[tuple[str, int | None]] = []

    def encode(self, images: Sequence[Image]) -> Pictures:
        return Pictures(images)

    def scene(self, encoded: EncodedImages, image: int) -> int:
        assert isinstance(encoded, Pictures)
        return self.numbers[np.asarray(encoded.images[image]).tobytes()]

    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        raise NotImplementedError

    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        """Right about existence where it sees; blind, always "no"; of anything else the last option."""
        scores = []
        for ask, offered in zip(asks, options, strict=True):
            self.ranked.append((ask.prompt, ask.image))
            best = offered[-1]
            if "yes" in offered:
                word = ask.prompt.split()[3]
                seen = ask.image is not None and word in self.store.facts[self.scene(encoded, ask.image)].present
                best = "yes" if seen else "no"
            scores.append([float(option == best) for option in offered])
        return scores

    def probe(
        self, encoded: EncodedImages, asks: Sequence[Ask], answers: Sequence[Sequence[int]], spec: ProbeSpec
    ) -> list[Probe]:
        probes = []
        for ask in asks:
            assert ask.image is not None
            scene = self.scene(encoded, ask.image)
            facts = self.store.facts[scene]
            geometry = Geometry.letterbox((facts.width, facts.height), (96, 96), GRID)
            tokens, at = [], 0
            for word in ask.prompt.replace("?", " ?").split():
                at = ask.prompt.index(word, at)
                tokens.append(ProbedToken(word, "prompt", at, at + len(word)))
                at += len(word)
            tokens.append(ProbedToken("ASSISTANT:", "template", 0, 10))
            attention = np.zeros((2, len(tokens), *GRID), np.float32)
            # Everything but the word and the last token looks at one corner.
            attention[:, :, 0, 0] = 1
            for place in (3, len(tokens) - 1):
                attention[:, place] = self.attend(scene, tokens[3].text, geometry) * self.scale
            probes.append(Probe(tuple(tokens), (0, 1), attention, np.zeros(attention.shape[:2], np.float32), geometry))
        return probes


def planted_on_object(store: SceneStore) -> Attend:
    """All attention on the cells that an object covers by more than a half, or on the best covered one."""

    def attend(scene: int, name: str, geometry: Geometry) -> np.ndarray:
        region = geometry.mask_to_grid(store.mask(scene, store.facts[scene].having(name)))
        chosen = region >= min(0.5, region.max())
        return chosen / chosen.sum()

    return attend
