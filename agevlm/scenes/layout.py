"""What stands where: a scene before it is painted. A function of the seed alone; no pixels."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agevlm.scenes.categories import CATEGORIES, COLOURS, LINKS, Category
from agevlm.scenes.settings import OUT_OF_PLACE, SETTINGS, UNFIT_INDOORS, Setting

RATIOS = (1.0, 1.0, 4 / 3, 3 / 4, 3 / 2, 16 / 10, 4 / 5)
"""Width over height."""
KINDS = (0.07, 0.16, 0.37, 0.28, 0.12)
"""Chance of 1, 2, ... different categories."""
COUNTS = (0.575, 0.225, 0.115, 0.06, 0.025)
"""Chance of 1, 2, ... objects of a category."""
MOST_OBJECTS = 9
SAME_COLOUR = 0.4
"""Chance that an object has the colour of the one of its kind before it."""

NEAREST = 2.0
"""Metres from the camera to the ground at the picture's lower edge."""
WALL = 5.0
"""Metres to the wall indoors."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in long sides of the picture."""


@dataclass(frozen=True)
class Placed:
    """One object of the plan. Lengths in long sides of the picture."""

    category: Category
    artist: str
    """Whose drawing it is, a name in `agevlm.scenes.objects.ARTISTS`."""
    width: float
    """Of the drawing, in heights of the object."""
    colour: str
    looks: tuple[float, float, float, float]
    flip: bool
    tilt: float
    x: float
    """Its middle."""
    foot: float
    height: float
    depth: float
    """Metres."""
    grounded: bool

    @property
    def box(self) -> Box:
        """Around it, before tilting."""
        half = self.width * self.height / 2
        return self.x - half, self.foot - self.height, self.x + half, self.foot


@dataclass(frozen=True)
class Layout:
    """A whole plan, its objects far to near."""

    setting: Setting
    ratio: float
    horizon: float
    """Share of the picture's height above it."""
    light: tuple[float, float, float]
    """What red, green and blue are multiplied with."""
    objects: tuple[Placed, ...]


def plan(rng: random.Random) -> Layout:
    """Invent a scene."""
    setting = rng.choices(list(SETTINGS.values()), [s.share for s in SETTINGS.values()])[0]
    ratio = rng.choice(RATIOS)
    horizon = setting.horizon[0] + (setting.horizon[1] - setting.horizon[0]) * rng.random()
    brightness, warmth = 0.9 + 0.16 * rng.random(), 0.06 * (rng.random() - 0.5)
    ground = _Ground(setting, min(1.0, ratio), min(1.0, 1 / ratio), horizon)
    objects: list[Placed] = []
    for name in _cast(rng, setting):
        number = rng.choices(range(1, len(COUNTS) + 1), COUNTS)[0]
        former: Placed | None = None
        for _ in range(min(number, MOST_OBJECTS - len(objects))):
            former = _place(rng, ground, CATEGORIES[name], former, objects)
            objects.append(former)
    # Sorting keeps the order of equal depths, so a plan has one order of painting.
    objects.sort(key=lambda thing: -thing.depth)
    light = (brightness * (1 + warmth), brightness, brightness * (1 - warmth))
    return Layout(setting, ratio, horizon, light, tuple(objects))


def _cast(rng: random.Random, setting: Setting) -> list[str]:
    """Which categories play, each once."""
    chosen: list[str] = []
    for _ in range(rng.choices(range(1, len(KINDS) + 1), KINDS)[0]):
        weights = _weights(setting, chosen, strange=rng.random() < OUT_OF_PLACE)
        chosen.append(rng.choices(list(weights), list(weights.values()))[0])
    return chosen


def _weights(setting: Setting, chosen: Sequence[str], strange: bool) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for name in CATEGORIES:
        fits = name in setting.weights
        if name in chosen or fits == strange or (setting.indoors and name in UNFIT_INDOORS):
            continue
        weight = 1.0 if strange else setting.weights[name]
        for other in chosen:
            weight *= LINKS.get((name, other), LINKS.get((other, name), 1.0))
        weights[name] = weight
    return weights


@dataclass(frozen=True)
class _Ground:
    """The room there is. Lengths in long sides of the picture."""

    setting: Setting
    width: float
    height: float
    horizon: float

    @property
    def mean_side(self) -> float:
        return (self.width + self.height) / 2

    def foot(self, scale: float) -> float:
        """Where something of this scale stands."""
        above = self.horizon * self.height
        return above + (self.height - above) * scale * 0.97

    def reach(self, category: Category) -> tuple[float, float]:
        """Between which scales it may stand."""
        low, high = category.reach
        if category.place == "water" and self.setting.water:
            return min(low, self.setting.water - 0.1), self.setting.water - 0.03
        if self.setting.indoors:
            low = max(low, NEAREST / WALL + 0.03)
        return max(low, self.setting.water + 0.02), high


def _place(
    rng: random.Random, ground: _Ground, category: Category, former: Placed | None, others: Sequence[Placed]
) -> Placed:
    """Find room for one more object; some overlap is welcome."""
    tolerance = 0.05 if rng.random() < 0.5 else 0.6 * rng.random()
    colour = _colour(rng, category)
    if former is not None and rng.random() < SAME_COLOUR:
        colour = former.colour
    looks = (rng.random(), rng.random(), rng.random(), rng.random())
    flip, tilt = rng.random() < 0.5, (2 * rng.random() - 1) * category.tilt
    setting = ground.setting
    aloft = category.place in ("sky", "wall") or (category.place == "air" and rng.random() < 0.62)
    artist, width, size, tilt = category.name, category.width, category.height, tilt
    if category.place == "wall" and not setting.indoors:
        artist, width, size, aloft = f"street {category.name}", 0.58, 0.55, False
    best: Placed | None = None
    least = float("inf")
    for _ in range(10):
        low, high = ground.reach(category)
        scale = low + (high - low) * rng.random()
        if former is not None:
            # Things of a kind keep together.
            scale = min(high, max(low, NEAREST / former.depth * (0.8 + 0.4 * rng.random())))
            if category.place == "wall":
                scale = low + (high - low) * rng.random()
        height = size * scale * ground.mean_side
        x = _across(rng, ground, width * height, former)
        foot, depth = ground.foot(scale), NEAREST / scale
        if aloft:
            above = ground.horizon * ground.height
            room = max(above * 0.95 - height, 0.02 * ground.height)
            foot = 0.02 * ground.height + height + room * rng.random()
            depth = WALL if category.place == "wall" else depth
        thing = Placed(category, artist, width, colour, looks, flip, tilt, x, foot, height, depth, not aloft)
        crowding = max((_covered(thing, other) for other in others), default=0.0)
        if crowding < least:
            best, least = thing, crowding
        if crowding <= tolerance:
            break
    assert best is not None
    return best


def _colour(rng: random.Random, category: Category) -> str:
    return rng.choices(list(COLOURS), [category.favours.get(name, 1.0) for name in COLOURS])[0]


def _across(rng: random.Random, ground: _Ground, width: float, former: Placed | None) -> float:
    """Where its middle comes to stand: up to a third of it may be cut off at the picture's edge."""
    low, high = width * 0.22, ground.width - width * 0.22
    if rng.random() < 0.7:
        low, high = width * 0.5, ground.width - width * 0.5
    if low >= high:
        return ground.width / 2
    if former is not None:
        x = former.x + (rng.random() - 0.5) * 0.7 * ground.width
        if low <= x <= high:
            return x
    return low + (high - low) * rng.random()


def _covered(a: Placed, b: Placed) -> float:
    """Which share of the farther one's box the nearer one's takes."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    wide, tall = min(ax1, bx1) - max(ax0, bx0), min(ay1, by1) - max(ay0, by0)
    if wide <= 0 or tall <= 0:
        return 0.0
    farther = a if a.depth >= b.depth else b
    return wide * tall / (farther.width * farther.height**2)
