"""Backgrounds: gradients above and below the horizon, what belongs to the place, and a grain. No objects."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from PIL import Image, ImageChops, ImageDraw

from agevlm.scenes.drawing import GLASS, PAPER, Point, Rgb, arc, mix
from agevlm.scenes.settings import Setting

SEA: Rgb = (104, 146, 168)
SHADE: Rgb = (40, 40, 48)


class Backdrop:
    """A canvas in shares: x from 0 to 1 across the picture, y from 0 to 1 down it."""

    def __init__(self, size: tuple[int, int], horizon: float, above: Rgb, below: Rgb) -> None:
        """`size`: width and height in pixels."""
        self.width, self.height = size
        self.horizon, self.above, self.below = horizon, above, below
        line = round(horizon * self.height)
        self.image = Image.new("RGB", size)
        self.image.paste(_gradient((self.width, line), mix(above, SHADE, 0.08), mix(above, PAPER, 0.3)), (0, 0))
        ground = _gradient((self.width, self.height - line), mix(below, PAPER, 0.18), mix(below, SHADE, 0.12))
        self.image.paste(ground, (0, line))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: list[Point], colour: Rgb) -> None:
        """A filled polygon."""
        w, h = self.width, self.height
        self.draw.polygon([(x * w - 0.5, y * h - 0.5) for x, y in points], fill=colour)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb) -> None:
        """A filled rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Rgb) -> None:
        """A line; `width` in hundredths of the picture's mean side."""
        w, h = self.width, self.height
        self.draw.line([(x0 * w, y0 * h), (x1 * w, y1 * h)], fill=colour, width=max(1, round(width * (w + h) / 200)))

    def depth(self, scale: float) -> float:
        """The height at which the ground lies at a scale: 1 at the lower edge, 0 at the horizon."""
        return self.horizon + (1 - self.horizon) * scale


def _gradient(size: tuple[int, int], top: Rgb, foot: Rgb) -> Image.Image:
    pixels = Image.new("RGB", (1, 2))
    pixels.putpixel((0, 0), top)
    pixels.putpixel((0, 1), foot)
    return pixels.resize((1, size[1]), Image.Resampling.BILINEAR).resize(size, Image.Resampling.NEAREST)


def paint_backdrop(rng: random.Random, setting: Setting, horizon: float, size: tuple[int, int]) -> Image.Image:
    """The picture before any object stands in it. What it draws from `rng` does not depend on `size`."""
    above, below = rng.choice(setting.above), rng.choice(setting.below)
    back = Backdrop(size, horizon, above, below)
    FEATURES[setting.name](back, rng)
    coarse, fine = rng.randbytes(8 * 8), rng.randbytes(40 * 40)
    grain = Image.blend(
        Image.frombytes("L", (8, 8), coarse).resize(size, Image.Resampling.BICUBIC),
        Image.frombytes("L", (40, 40), fine).resize(size, Image.Resampling.BILINEAR),
        0.45,
    ).point(_GROUND)
    line = round(horizon * size[1])
    grain.paste(grain.crop((0, 0, size[0], line)).point(_SKY), (0, 0))
    return ImageChops.add(back.image, Image.merge("RGB", (grain, grain, grain)), 1, -128)


_GROUND = [round(128 + (value - 128) * 0.24) for value in range(256)]
_SKY = [round(128 + (value - 128) * 0.45) for value in range(256)]
"""How grey levels of the grain are softened: everywhere, and once more above the horizon."""


def _clouds(back: Backdrop, rng: random.Random) -> None:
    colour = mix(back.above, PAPER, 0.55)
    for _ in range(rng.randrange(4)):
        x, y, r = rng.random(), rng.random() * back.horizon * 0.7, 0.06 + 0.1 * rng.random()
        back.polygon(arc(x, y, r, r * 0.3, 0, 1, 14), colour)
        back.polygon(arc(x + r * 0.7, y + r * 0.12, r * 0.8, r * 0.24, 0, 1, 14), colour)


def _hills(back: Backdrop, rng: random.Random, colour: Rgb) -> None:
    for _ in range(2 + rng.randrange(2)):
        x, r = rng.random() * 1.2 - 0.1, 0.25 + 0.3 * rng.random()
        tint = mix(colour, back.above, 0.25 + 0.35 * rng.random())
        back.polygon(arc(x, back.horizon + 0.002, r, 0.05 + 0.09 * rng.random(), 0.5, 1.0, 12), tint)


def _speckles(back: Backdrop, rng: random.Random, count: int, colours: tuple[Rgb, ...], top: float = 0.04) -> None:
    """Small marks on the ground, smaller with distance."""
    for _ in range(count):
        x, scale = rng.random(), top + (1 - top) * rng.random()
        y, r = back.depth(scale), 0.004 + 0.012 * scale
        colour = mix(rng.choice(colours), back.below, 0.4)
        back.polygon([(x - r, y), (x, y - r * 0.7), (x + r, y), (x, y + r * 0.7)], colour)


def _towards(back: Backdrop, rng: random.Random, count: int, colour: Rgb) -> None:
    """Lines on the ground that run to one point on the horizon."""
    middle, shift = 0.3 + 0.4 * rng.random(), rng.random()
    for i in range(count):
        x = (i + shift) / count * 3 - 1
        back.line(middle + (x - middle) * 0.12, back.depth(0.02), x, 1.0, 0.7, colour)


def _across(back: Backdrop, scales: tuple[float, ...], colour: Rgb) -> None:
    for scale in scales:
        back.line(0, back.depth(scale), 1, back.depth(scale), 0.7, colour)


def _street(back: Backdrop, rng: random.Random) -> None:
    _clouds(back, rng)
    x = -0.05
    while x < 1:
        wide, tall = 0.12 + 0.16 * rng.random(), back.horizon * (0.25 + 0.55 * rng.random())
        wall = mix(rng.choice(((150, 132, 122), (132, 138, 148), (168, 158, 142), (124, 116, 118))), back.above, 0.3)
        back.rect(x, back.horizon - tall, x + wide, back.horizon, wall)
        pane = mix(wall, rng.choice((GLASS, SHADE)), 0.35)
        for row in range(1, 4):
            for column in range(3):
                left, y = x + wide * (0.15 + 0.28 * column), back.horizon - tall + tall * 0.24 * row - tall * 0.12
                back.rect(left, y, left + wide * 0.14, y + tall * 0.12, pane)
        x += wide + 0.03 * rng.random()
    back.rect(0, back.horizon, 1, back.depth(0.12), mix(back.below, PAPER, 0.3))
    back.line(0, back.depth(0.13), 1, back.depth(0.13), 1.0, mix(back.below, SHADE, 0.35))
    y, shift = back.depth(0.42), rng.random() * 0.2
    for i in range(6):
        left = i * 0.2 - shift
        back.polygon(
            [(left, y), (left + 0.11, y), (left + 0.1, y + 0.02), (left - 0.01, y + 0.02)], mix(back.below, PAPER, 0.6)
        )
    _speckles(back, rng, 8, (SHADE, (150, 140, 120)), 0.5)


def _park(back: Backdrop, rng: random.Random) -> None:
    _clouds(back, rng)
    _hills(back, rng, (104, 128, 96))
    if rng.random() < 0.6:
        foot, far = rng.random(), 0.3 + 0.4 * rng.random()
        path = mix(back.below, (206, 186, 150), 0.6)
        back.polygon(
            [(far, back.depth(0.02)), (far + 0.04, back.depth(0.02)), (foot + 0.28, 1), (foot - 0.14, 1)], path
        )
    _speckles(back, rng, 22, ((84, 112, 62), (96, 122, 70), (170, 174, 120)))


def _garden(back: Backdrop, rng: random.Random) -> None:
    _clouds(back, rng)
    tall, board = back.horizon * (0.3 + 0.3 * rng.random()), mix((178, 152, 122), back.above, 0.3 * rng.random())
    back.rect(0, back.horizon - tall, 1, back.horizon, mix(board, SHADE, 0.25))
    number = 12 + rng.randrange(6)
    for i in range(number):
        x, step = i / number, 1 / number
        back.polygon(
            [(x, back.horizon), (x, back.horizon - tall), (x + step * 0.42, back.horizon - tall * 1.14),
             (x + step * 0.84, back.horizon - tall), (x + step * 0.84, back.horizon)], board
        )  # fmt: skip
    _speckles(back, rng, 14, ((84, 112, 62), (96, 122, 70)))
    _speckles(back, rng, 12, ((222, 200, 210), (226, 220, 170), (206, 176, 196)))


def _sea(back: Backdrop, rng: random.Random, share: float) -> None:
    water = mix(SEA, back.above, 0.3 * rng.random())
    back.rect(0, back.horizon, 1, back.depth(share), water)
    for _ in range(9):
        x, scale = rng.random(), share * (0.1 + 0.85 * rng.random())
        y, wide = back.depth(scale), 0.03 + 0.1 * scale
        back.line(x, y, x + wide, y, 0.6, mix(water, PAPER, 0.35 + 0.25 * rng.random()))


def _beach(back: Backdrop, rng: random.Random) -> None:
    _clouds(back, rng)
    if rng.random() < 0.4:
        _hills(back, rng, (112, 128, 120))
    _sea(back, rng, 0.3)
    edge = back.depth(0.3)
    foam = [(i / 10, edge + 0.02 * rng.random()) for i in range(11)]
    back.polygon([(0, edge - 0.012), *foam, (1, edge - 0.012)], mix(SEA, PAPER, 0.75))
    _speckles(back, rng, 20, ((170, 150, 118), (236, 226, 204), (150, 136, 120)), 0.36)


def _harbour(back: Backdrop, rng: random.Random) -> None:
    _clouds(back, rng)
    _hills(back, rng, (116, 124, 124))
    _towards(back, rng, 14, mix(back.below, SHADE, 0.2))
    _across(back, (0.7,), mix(back.below, SHADE, 0.2))
    _sea(back, rng, 0.45)
    edge = back.depth(0.45)
    back.rect(0, edge - 0.012, 1, edge + 0.015, mix(back.below, SHADE, 0.4))


def _frames(back: Backdrop, rng: random.Random) -> None:
    """Pictures without anything in them on the wall."""
    for _ in range(rng.randrange(3)):
        x, y = rng.random() * 0.85, back.horizon * (0.1 + 0.35 * rng.random())
        w, h = 0.1 + 0.1 * rng.random(), back.horizon * (0.2 + 0.2 * rng.random())
        back.rect(x, y, x + w, y + h, mix(back.above, SHADE, 0.4))
        back.rect(x + 0.012, y + 0.012, x + w - 0.012, y + h - 0.012, mix(back.above, PAPER, 0.5))
        tint = mix(rng.choice(((150, 166, 150), (160, 160, 186), (190, 166, 150))), back.above, 0.3)
        back.polygon(
            [(x + 0.02, y + h - 0.016), (x + w * rng.random(), y + h * 0.4), (x + w - 0.02, y + h - 0.016)], tint
        )


def _window(back: Backdrop, rng: random.Random) -> None:
    x, w = 0.05 + 0.6 * rng.random(), 0.2 + 0.12 * rng.random()
    y, h = back.horizon * 0.1, back.horizon * 0.62
    back.rect(x - 0.015, y - 0.015, x + w + 0.015, y + h + 0.015, mix(back.above, PAPER, 0.6))
    back.rect(x, y, x + w, y + h, (176, 198, 210))
    back.polygon(
        [(x, y + h), (x, y + h * 0.7), (x + w * 0.5, y + h * 0.55), (x + w, y + h * 0.75), (x + w, y + h)],
        (150, 170, 146),
    )
    back.line(x + w / 2, y, x + w / 2, y + h, 1.2, mix(back.above, PAPER, 0.6))
    back.line(x, y + h / 2, x + w, y + h / 2, 1.2, mix(back.above, PAPER, 0.6))


def _kitchen(back: Backdrop, rng: random.Random) -> None:
    grout = mix(back.above, PAPER, 0.5) if rng.random() < 0.5 else mix(back.above, SHADE, 0.16)
    step = 0.09 + 0.05 * rng.random()
    rows = int(back.horizon / step) + 1
    for i in range(rows):
        back.line(0, back.horizon - i * step, 1, back.horizon - i * step, 0.6, grout)
    for i in range(int(1 / step) + 1):
        back.line(i * step, 0, i * step, back.horizon, 0.6, grout)
    if rng.random() < 0.4:
        _window(back, rng)
    back.rect(0, back.horizon, 1, back.horizon + 0.016, mix(back.below, SHADE, 0.35))
    if rng.random() < 0.5:
        _towards(back, rng, 9, mix(back.below, SHADE, 0.1))
    _speckles(back, rng, 12, (PAPER, SHADE), 0.1)


def _living_room(back: Backdrop, rng: random.Random) -> None:
    if rng.random() < 0.5:
        number = 8 + rng.randrange(8)
        for i in range(number):
            back.rect(i / number, 0, (i + 0.5) / number, back.horizon, mix(back.above, SHADE, 0.07))
    if rng.random() < 0.5:
        _window(back, rng)
    else:
        _frames(back, rng)
    _towards(back, rng, 13, mix(back.below, SHADE, 0.2))
    if rng.random() < 0.6:
        rug = mix(rng.choice(((160, 110, 104), (108, 118, 140), (132, 138, 112))), back.below, 0.35)
        x = 0.35 + 0.3 * rng.random()
        back.polygon(arc(x, back.depth(0.6), 0.42, (1 - back.horizon) * 0.25, 0, 1, 20), rug)
        back.polygon(arc(x, back.depth(0.6), 0.35, (1 - back.horizon) * 0.2, 0, 1, 20), mix(rug, PAPER, 0.2))
    back.rect(0, back.horizon - 0.02, 1, back.horizon + 0.005, mix(back.above, PAPER, 0.6))


def _office(back: Backdrop, rng: random.Random) -> None:
    if rng.random() < 0.5:
        number = 10 + rng.randrange(6)
        blind = mix(back.above, PAPER, 0.35)
        for i in range(number):
            y = back.horizon * 0.85 * i / number
            back.rect(0, y, 1, y + back.horizon * 0.4 / number, blind)
    else:
        _frames(back, rng)
    if rng.random() < 0.5:
        for scale in (0.3, 0.62):
            _across(back, (scale,), mix(back.below, SHADE, 0.14))
        _towards(back, rng, 8, mix(back.below, SHADE, 0.14))
    else:
        _speckles(back, rng, 30, (PAPER, SHADE), 0.05)
    back.rect(0, back.horizon - 0.016, 1, back.horizon + 0.01, mix(back.above, SHADE, 0.3))


FEATURES: Mapping[str, Callable[[Backdrop, random.Random], None]] = {
    "street": _street,
    "park": _park,
    "beach": _beach,
    "harbour": _harbour,
    "garden": _garden,
    "kitchen": _kitchen,
    "living room": _living_room,
    "office": _office,
}
