"""Where scenes play: places with a horizon, their colours, and what belongs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agevlm.scenes.drawing import Rgb


@dataclass(frozen=True)
class Setting:
    """One kind of place."""

    name: str
    share: float
    """Share of all scenes."""
    indoors: bool
    horizon: tuple[float, float]
    """Between which shares of the picture's height the horizon lies, from the top."""
    above: tuple[Rgb, ...]
    """Colours of sky or wall."""
    below: tuple[Rgb, ...]
    """Colours of ground, floor or table."""
    water: float
    """Share of the ground, from the horizon down, that is water."""
    weights: Mapping[str, float]
    """How often its categories are picked; any other is out of place."""


_SKY: tuple[Rgb, ...] = ((158, 198, 226), (180, 206, 222), (138, 186, 222), (206, 210, 214), (222, 204, 190))
_GRASS: tuple[Rgb, ...] = ((128, 164, 92), (142, 168, 98), (112, 150, 92), (160, 168, 106))
_WALL: tuple[Rgb, ...] = ((206, 200, 186), (190, 200, 196), (202, 192, 196), (184, 192, 206), (212, 204, 172))
_BOARDS: tuple[Rgb, ...] = ((166, 136, 104), (148, 120, 92), (180, 156, 124))

SETTINGS: Mapping[str, Setting] = {
    s.name: s
    for s in (
        Setting(
            "street", 0.13, False, (0.36, 0.5), _SKY, ((128, 128, 132), (116, 118, 124), (140, 136, 132)), 0.0,
            {"car": 9, "person": 5, "sign": 5, "bus": 4, "truck": 4, "bicycle": 4, "bird": 3, "tree": 2, "umbrella": 2,
             "bottle": 2, "ball": 2, "dog": 1.5, "clock": 1.5, "cup": 1.5},
        ),
        Setting(
            "park", 0.13, False, (0.32, 0.46), _SKY, _GRASS, 0.0,
            {"ball": 6, "tree": 5, "dog": 5, "bird": 5, "person": 5, "kite": 3.5, "book": 3, "bicycle": 3, "bottle": 2,
             "umbrella": 1.5, "cup": 1.5, "clock": 1, "sign": 1},
        ),
        Setting(
            "beach", 0.12, False, (0.3, 0.42), _SKY, ((216, 198, 160), (206, 188, 156), (222, 206, 176)), 0.3,
            {"ball": 6, "umbrella": 6, "bird": 5, "person": 4, "kite": 4, "boat": 4, "bottle": 4, "book": 3, "cup": 2,
             "dog": 2, "apple": 1},
        ),
        Setting(
            "harbour", 0.1, False, (0.26, 0.38), _SKY, ((158, 150, 142), (146, 144, 146), (168, 156, 138)), 0.45,
            {"boat": 9, "bird": 7, "person": 4, "truck": 3, "bottle": 2.5, "sign": 2.5, "bicycle": 2, "car": 2,
             "cup": 2, "clock": 1.5, "dog": 1.5, "cat": 1.5, "book": 1},
        ),
        Setting(
            "garden", 0.11, False, (0.3, 0.44), _SKY, _GRASS, 0.0,
            {"bird": 6, "tree": 5, "apple": 5, "cat": 4, "ball": 4, "dog": 3, "person": 3, "vase": 3, "cup": 2.5,
             "book": 2.5, "umbrella": 2, "bottle": 2, "bicycle": 1, "lamp": 1},
        ),
        Setting(
            "kitchen", 0.15, True, (0.4, 0.52), _WALL, ((176, 160, 138), (160, 160, 158), (188, 178, 162)), 0.0,
            {"cup": 8, "bowl": 6, "bottle": 6, "apple": 5, "fork": 5, "spoon": 5, "vase": 2, "clock": 2, "book": 2,
             "cat": 1.5, "person": 1, "lamp": 1},
        ),
        Setting(
            "living room", 0.13, True, (0.42, 0.55), _WALL, _BOARDS, 0.0,
            {"book": 7, "sofa": 6, "lamp": 6, "cat": 4, "cup": 4, "vase": 4, "clock": 3, "dog": 2, "ball": 2,
             "laptop": 2, "person": 2, "bottle": 2, "bird": 1},
        ),
        Setting(
            "office", 0.13, True, (0.42, 0.54), _WALL, ((150, 146, 142), (168, 150, 126), (138, 140, 148)), 0.0,
            {"laptop": 8, "book": 7, "cup": 6, "clock": 4, "lamp": 4, "bottle": 4, "person": 3, "vase": 2, "apple": 2,
             "sofa": 1, "umbrella": 1},
        ),
    )
}  # fmt: skip
"""Every setting by its name."""

OUT_OF_PLACE = 0.13
"""Chance that a category is picked from those that do not belong."""
UNFIT_INDOORS = frozenset({"car", "bus", "truck", "boat", "tree"})
"""Never indoors: there they would be all one sees."""
