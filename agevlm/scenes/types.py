"""What a rendered scene is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPLIT_STARTS = {"train": 0, "validation": 400_000_000, "test": 500_000_000}
"""First seed of each split. A scene is its seed, so splits that share no seed share no scene."""
SPLIT_SIZE = 100_000_000
"""Scenes of a split; every first seed is a multiple of it."""


def split_seeds(split: str, count: int, start: int = 0) -> range:
    """Seeds of `count` scenes of a split, from its scene number `start` on.

    Raises:
        ValueError: unknown split, or more scenes than lie between two splits' first seeds.
    """
    if split not in SPLIT_STARTS:
        raise ValueError(f"split {split!r} is unknown; give one of {', '.join(SPLIT_STARTS)}")
    if start < 0 or count < 0 or start + count > SPLIT_SIZE:
        raise ValueError(f"scenes {start} to {start + count} of a split: it has {SPLIT_SIZE:,}, from 0 on")
    first = SPLIT_STARTS[split] + start
    return range(first, first + count)


@dataclass(frozen=True)
class Instance:
    """One visible object."""

    category: str
    colour: str
    box: tuple[int, int, int, int]
    """x, y, width, height in whole pixels: the tight box around its visible pixels."""
    area: int
    """Visible pixels, at least 1."""
    visible: float
    """Visible share of what it would cover without occlusion and the picture's edge, above 0 to 1."""
    centre: tuple[float, float]
    """x, y of the mean of its visible pixels (pixel centres at + 0.5)."""
    depth: float
    """Distance from the camera on the ground plane in metres; larger is farther."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture with everything that is true of it."""

    seed: int
    setting: str
    """Where it plays: a name of `agevlm.scenes.settings`."""
    image: NDArray[np.uint8]
    """(height, width, 3) RGB."""
    ids: NDArray[np.uint8]
    """(height, width): 0 where no object is seen, i + 1 where `instances[i]` is."""
    instances: tuple[Instance, ...]
    """In the order of painting, far to near."""

    def mask(self, *numbers: int) -> NDArray[np.bool_]:
        """(height, width): where any of these instances is seen, by their places in `instances`."""
        wanted: NDArray[np.bool_] = np.isin(self.ids, [n + 1 for n in numbers])
        return wanted

    def of(self, category: str) -> tuple[int, ...]:
        """Places in `instances` of a category's objects."""
        return tuple(i for i, thing in enumerate(self.instances) if thing.category == category)
