"""The rendered world: a seed becomes a picture of which everything is known.

Objects are painted far to near at twice the size, each with its exact mask, and the whole is made smaller: colours by
averaging, masks by majority. What is hardly seen is taken out and the scene painted again, so that every object in the
picture is in its list and the other way round.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from agevlm.scenes.backdrops import paint_backdrop
from agevlm.scenes.categories import COLOURS
from agevlm.scenes.drawing import Pen, Rgb, paint
from agevlm.scenes.layout import Layout, Placed, plan
from agevlm.scenes.objects import ARTISTS
from agevlm.scenes.types import Instance, Scene

WORLD_VERSION = "2"
"""Changes whenever any seed's picture, masks or objects do."""

CANONICAL = 96
"""Long side in pixels at which it is decided what is seen, whatever size is painted."""
LEAST_VISIBLE = 0.3
"""Share of an object that must be seen."""
LEAST_PIXELS = 14
"""Pixels of an object that must be seen at the canonical size."""
FINER = 2
"""Painted so many times larger than shown."""
SHADOW = 64
"""How much of the light a shadow takes, of 255."""
CONTOUR = 130
"""How strong the contour is that sets an object off from what is behind it, of 255. It lies outside its mask."""
DARK: Rgb = (24, 22, 34)
PALE: Rgb = (168, 168, 172)


def render(seed: int, size: int = CANONICAL) -> Scene:
    """Paint a scene.

    Args:
        seed: which scene, from 0 on; see `agevlm.scenes.types.split_seeds`.
        size: long side of the picture in pixels, at least 96. It changes the resolution alone.

    Raises:
        ValueError: a negative seed or a size under 96 pixels.
    """
    if seed < 0:
        raise ValueError(f"scene {seed}: seeds start at 0")
    if size < CANONICAL:
        raise ValueError(f"a scene of {size} pixels: objects would vanish; give at least {CANONICAL}")
    layout = plan(random.Random(2 * seed))
    shape = _shape(layout, CANONICAL)
    shown, sprites = _seen(layout.objects, shape)
    if size != CANONICAL:
        shape = _shape(layout, size)
        sprites = [_sprite(thing, shape) for thing in shown]
    ids = _stack(sprites, shape)
    counts = ids.histogram()
    small = _majority(np.asarray(ids))
    things = [
        _instance(thing, small == i, min(1.0, counts[i] / sprite.pixels))
        for i, (thing, sprite) in enumerate(zip(shown, sprites, strict=True), start=1)
    ]
    image = _picture(random.Random(2 * seed + 1), layout, sprites, shape)
    return Scene(seed, layout.setting.name, image, small, tuple(things))


@dataclass(frozen=True)
class _Sprite:
    """One object painted by itself, at the finer size."""

    image: Image.Image
    mask: Image.Image
    left: int
    top: int
    pixels: int
    """Of its mask: what it covers where nothing is in the way."""
    contour: Rgb
    shadow: tuple[int, int, int, int] | None
    """x, y, width and height of the shadow at its foot."""


def _shape(layout: Layout, size: int) -> tuple[int, int]:
    """(width, height) of the picture in pixels."""
    return (size, round(size / layout.ratio)) if layout.ratio >= 1 else (round(size * layout.ratio), size)


def _sprite(thing: Placed, shape: tuple[int, int]) -> _Sprite:
    unit = max(shape) * FINER
    pen = Pen(thing.width, thing.height * unit, thing.flip, thing.tilt)
    ARTISTS[thing.artist](pen, paint(COLOURS[thing.colour]), thing.looks)
    mask = pen.image.getchannel("A")
    x, foot = thing.x * unit, thing.foot * unit
    left, top = round(x - pen.image.width / 2), round(foot - thing.height * unit / 2 - pen.image.height / 2)
    shadow = None
    if thing.grounded:
        half = thing.width * thing.height * unit * 0.5 * thing.category.stands_on
        deep = max(2, round(half * 0.28))
        shadow = (round(x - half), round(foot - deep * 0.6), max(2, round(2 * half)), deep)
    contour = PALE if max(COLOURS[thing.colour]) < 70 else DARK
    return _Sprite(pen.image, mask, left, top, mask.histogram()[255], contour, shadow)


def _seen(objects: Sequence[Placed], shape: tuple[int, int]) -> tuple[list[Placed], list[_Sprite]]:
    """Those that are seen well enough at the canonical size, without the others in their way."""
    shown = [(thing, _sprite(thing, shape)) for thing in objects]
    while True:
        ids = _stack([sprite for _, sprite in shown], shape)
        counts, small = ids.histogram(), np.bincount(_majority(np.asarray(ids)).ravel(), minlength=len(shown) + 1)
        shares = [counts[i] / sprite.pixels for i, (_, sprite) in enumerate(shown, start=1)]
        hidden = [i for i, share in enumerate(shares) if share < LEAST_VISIBLE or small[i + 1] < LEAST_PIXELS]
        if not hidden:
            return [thing for thing, _ in shown], [sprite for _, sprite in shown]
        # One at a time: without it, others may be seen.
        del shown[min(hidden, key=lambda i: (shares[i], i))]


def _stack(sprites: Sequence[_Sprite], shape: tuple[int, int]) -> Image.Image:
    """Which object is seen in each fine pixel, from 1 on; 0 for none."""
    ids = Image.new("L", (shape[0] * FINER, shape[1] * FINER))
    for i, sprite in enumerate(sprites, start=1):
        ids.paste(i, (sprite.left, sprite.top), sprite.mask)
    return ids


def _majority(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of each two by two pixels the most frequent number; of equally frequent ones the highest, which is nearest."""
    a, b, c, d = ids[::2, ::2], ids[::2, 1::2], ids[1::2, ::2], ids[1::2, 1::2]
    a, b = np.minimum(a, b), np.maximum(a, b)
    c, d = np.minimum(c, d), np.maximum(c, d)
    lowest, b, c, highest = np.minimum(a, c), np.maximum(a, c), np.minimum(b, d), np.maximum(b, d)
    b, c = np.minimum(b, c), np.maximum(b, c)
    most = np.where(b == c, b, np.where(lowest == b, lowest, highest))
    result: NDArray[np.uint8] = np.where(c == highest, highest, most)
    return result


def _picture(
    rng: random.Random, layout: Layout, sprites: Sequence[_Sprite], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    canvas = paint_backdrop(rng, layout.setting, layout.horizon, (shape[0] * FINER, shape[1] * FINER))
    edge = round(max(shape) / CANONICAL)
    for sprite in sprites:
        if sprite.shadow is not None:
            x, y, width, height = sprite.shadow
            shade = Image.new("L", (width, height))
            ImageDraw.Draw(shade).ellipse((0, 0, width - 1, height - 1), fill=SHADOW)
            canvas.paste(DARK, (x, y), shade)
        canvas.paste(sprite.contour, (sprite.left - edge, sprite.top - edge), _grown(sprite.mask, edge))
        canvas.paste(sprite.image, (sprite.left, sprite.top), sprite.mask)
    # Boxes of two by two pixels, averaged.
    small = canvas.reduce(FINER)
    return np.array(small.point([min(255, round(value * gain)) for gain in layout.light for value in range(256)]))


def _grown(mask: Image.Image, edge: int) -> Image.Image:
    """The mask grown to all four sides by `edge` fine pixels, as weak as a contour is."""
    grown = Image.new("L", (mask.width + 2 * edge, mask.height + 2 * edge))
    for corner in ((0, edge), (2 * edge, edge), (edge, 0), (edge, 2 * edge)):
        grown.paste(CONTOUR, corner, mask)
    return grown


def _instance(thing: Placed, mask: NDArray[np.bool_], visible: float) -> Instance:
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return Instance(
        category=thing.category.name,
        colour=thing.colour,
        box=(x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1),
        area=len(rows),
        visible=visible,
        centre=(float(columns.mean()) + 0.5, float(rows.mean()) + 0.5),
        depth=thing.depth,
    )
