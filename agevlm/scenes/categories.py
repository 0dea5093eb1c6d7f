"""What there is in the world: categories, colours, and which categories like each other's company."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agevlm.scenes.drawing import Rgb

COLOURS: Mapping[str, Rgb] = {
    "red": (208, 44, 46),
    "orange": (240, 134, 32),
    "yellow": (246, 212, 58),
    "green": (52, 150, 66),
    "blue": (46, 98, 204),
    "purple": (134, 62, 172),
    "white": (240, 240, 238),
    "black": (42, 41, 48),
}
"""Every object has one of these as its main colour."""


@dataclass(frozen=True)
class Category:
    """One kind of object. Lengths are heights of the object, or shares of the picture's mean side."""

    name: str
    group: str
    """COCO's supercategory."""
    width: float
    """Width of its drawing in heights."""
    height: float
    """Height at the nearest place, in mean sides of the picture."""
    reach: tuple[float, float]
    """Farthest and nearest place it takes, as scales: 1 at the nearest, 0.5 at twice that distance."""
    place: str = "ground"
    """ground, air (and at times the ground), sky, wall (on a post outdoors) or water (ground where there is none)."""
    tilt: float = 0.06
    """Radians it may lean to either side."""
    stands_on: float = 1.0
    """Share of its width that meets the ground."""
    favours: Mapping[str, float] = field(default_factory=dict)
    """How much likelier than the others some colours are."""


_NEAR = (0.62, 1.0)
_MIDDLE = (0.45, 1.0)
_FAR = (0.32, 0.82)

CATEGORIES: Mapping[str, Category] = {
    c.name: c
    for c in (
        Category("person", "person", 0.42, 0.62, (0.4, 1.0), tilt=0.02),
        Category("bicycle", "vehicle", 1.6, 0.36, (0.45, 0.95), tilt=0.02),
        Category("car", "vehicle", 2.1, 0.29, _FAR, tilt=0.0),
        Category("bus", "vehicle", 2.2, 0.42, (0.32, 0.7), tilt=0.0),
        Category("truck", "vehicle", 2.08, 0.41, (0.32, 0.7), tilt=0.0),
        Category("boat", "vehicle", 1.32, 0.66, (0.28, 0.6), "water", 0.06),
        Category("sign", "outdoor", 0.58, 0.58, _MIDDLE, tilt=0.03, stands_on=0.4),
        Category(
            "tree", "outdoor", 0.83, 0.88, (0.35, 0.85), tilt=0.02, stands_on=0.5, favours={"green": 7.0, "orange": 2.0}
        ),
        Category("bird", "animal", 1.42, 0.21, _MIDDLE, "air", 0.2),
        Category("cat", "animal", 1.12, 0.31, _MIDDLE, tilt=0.0, favours={"black": 2.5, "white": 2.5, "orange": 2.5}),
        Category("dog", "animal", 1.38, 0.32, _MIDDLE, tilt=0.0, favours={"black": 2.5, "white": 2.5, "orange": 2.0}),
        Category("kite", "sports", 0.74, 0.38, _MIDDLE, "sky", 0.5),
        Category("ball", "sports", 1.0, 0.19, _NEAR, tilt=0.5),
        Category("umbrella", "accessory", 1.3, 0.48, _MIDDLE, tilt=0.2, stands_on=0.4),
        Category("bottle", "kitchen", 0.36, 0.36, _NEAR, tilt=0.05),
        Category("cup", "kitchen", 1.17, 0.2, _NEAR, tilt=0.03),
        Category("bowl", "kitchen", 1.7, 0.18, _NEAR, tilt=0.02),
        Category("vase", "kitchen", 0.66, 0.33, _NEAR, tilt=0.02),
        Category("fork", "kitchen", 0.28, 0.38, (0.68, 1.0), tilt=0.6),
        Category("spoon", "kitchen", 0.29, 0.38, (0.68, 1.0), tilt=0.6),
        Category("apple", "food", 1.0, 0.19, _NEAR, tilt=0.15, favours={"red": 5.0, "green": 4.0, "yellow": 2.5}),
        Category("book", "indoor", 1.2, 0.23, _NEAR, tilt=0.1),
        Category("clock", "indoor", 1.0, 0.25, (0.6, 1.0), "wall", 0.0),
        Category("laptop", "electronic", 1.4, 0.29, _NEAR, tilt=0.0),
        Category("lamp", "furniture", 0.62, 0.5, _MIDDLE, tilt=0.02, stands_on=0.7),
        Category("sofa", "furniture", 1.94, 0.38, (0.45, 0.85), tilt=0.0),
    )
}
"""Every category by its name; their order gives COCO's category ids, from 1 on."""

LINKS: Mapping[tuple[str, str], float] = {
    ("fork", "bowl"): 5.0,
    ("fork", "spoon"): 2.5,
    ("spoon", "cup"): 3.5,
    ("apple", "bowl"): 3.0,
    ("bottle", "cup"): 2.0,
    ("laptop", "cup"): 3.0,
    ("laptop", "lamp"): 2.0,
    ("book", "lamp"): 3.0,
    ("book", "cup"): 2.0,
    ("sofa", "lamp"): 5.0,
    ("sofa", "cat"): 3.0,
    ("vase", "clock"): 3.0,
    ("dog", "ball"): 5.0,
    ("dog", "person"): 2.0,
    ("cat", "bird"): 3.0,
    ("tree", "bird"): 3.0,
    ("boat", "bird"): 3.0,
    ("person", "kite"): 3.5,
    ("person", "bicycle"): 3.0,
    ("umbrella", "ball"): 3.0,
    ("umbrella", "book"): 2.0,
    ("car", "sign"): 5.0,
    ("car", "truck"): 2.0,
    ("bus", "sign"): 3.0,
    ("bus", "person"): 2.0,
}
"""How much likelier one becomes beside the other, in whichever order they come."""
