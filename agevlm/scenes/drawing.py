"""Painting one object: flat shapes in the object's own coordinates, onto a small picture with a hard mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

CLEAR = (0, 0, 0, 0)
INK: Rgb = (34, 33, 38)
PAPER: Rgb = (243, 241, 234)
GLASS: Rgb = (168, 206, 226)
METAL: Rgb = (126, 130, 138)
WOOD: Rgb = (120, 82, 52)

_CIRCLE = tuple((math.cos(2 * math.pi * i / 24), math.sin(2 * math.pi * i / 24)) for i in range(24))


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`share` of the way from colour a to colour b."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


@dataclass(frozen=True)
class Paint:
    """An object's colour and its relatives."""

    base: Rgb
    dark: Rgb
    light: Rgb
    contrast: Rgb
    """What shows up on it: paper white on most colours, ink on light ones."""


@cache
def paint(base: Rgb) -> Paint:
    """The relatives of a colour (0 to 255 each)."""
    brightness = 0.3 * base[0] + 0.59 * base[1] + 0.11 * base[2]
    if brightness < 70:
        # Black has no darker relative that shows: its "dark" parts are a little lighter.
        return Paint(base, mix(base, PAPER, 0.13), mix(base, PAPER, 0.27), PAPER)
    return Paint(base, mix(base, (15, 10, 25), 0.3), mix(base, PAPER, 0.4), INK if brightness > 175 else PAPER)


class Pen:
    """Draws in an object's coordinates: y from 0 (top) to 1 (foot), x from 0 to its width in heights.

    Everything drawn is opaque or, with CLEAR, a hole, so the picture's alpha channel is the exact mask.
    """

    def __init__(self, width: float, pixels: float, flip: bool = False, tilt: float = 0.0) -> None:
        """`pixels`: height of the object in pixels of the picture; `tilt`: radians, turned about its middle."""
        cos, sin = math.cos(tilt), math.sin(tilt)
        reach_x = (abs(width * cos) + abs(sin)) * 0.5 + 0.06
        reach_y = (abs(width * sin) + abs(cos)) * 0.5 + 0.06
        sign = -1.0 if flip else 1.0
        self.scale = pixels
        # x' = a x + b y + c and y' = d x + e y + f put the object's middle into the picture's middle.
        size = (math.ceil(2 * reach_x * pixels), math.ceil(2 * reach_y * pixels))
        self.a, self.b = sign * cos * pixels, -sin * pixels
        self.d, self.e = sign * sin * pixels, cos * pixels
        self.c = size[0] / 2 - self.a * width / 2 - self.b / 2 - 0.5
        self.f = size[1] / 2 - self.d * width / 2 - self.e / 2 - 0.5
        self.image = Image.new("RGBA", size, CLEAR)
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Sequence[Point], colour: tuple[int, ...]) -> None:
        """A filled polygon."""
        a, b, c, d, e, f = self.a, self.b, self.c, self.d, self.e, self.f
        self.draw.polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in points], fill=colour)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: tuple[int, ...]) -> None:
        """A filled rectangle."""
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour)

    def block(self, x0: float, y0: float, x1: float, y1: float, corner: float, colour: tuple[int, ...]) -> None:
        """A filled rectangle whose corners are cut off."""
        a, b, c, d = x0 + corner, x1 - corner, y0 + corner, y1 - corner
        points = ((a, y0), (b, y0), (x1, c), (x1, d), (b, y1), (a, y1), (x0, d), (x0, c))
        self.polygon(points, colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: tuple[int, ...]) -> None:
        """A filled ellipse around (x, y)."""
        self.polygon([(x + rx * u, y + ry * v) for u, v in _CIRCLE], colour)

    def disc(self, x: float, y: float, r: float, colour: tuple[int, ...]) -> None:
        """A filled circle around (x, y)."""
        self.oval(x, y, r, r, colour)

    def line(self, points: Sequence[Point], width: float, colour: tuple[int, ...]) -> None:
        """A line through points; `width` in the object's units, at least a pixel of the picture."""
        a, b, c, d, e, f = self.a, self.b, self.c, self.d, self.e, self.f
        way = [(a * x + b * y + c, d * x + e * y + f) for x, y in points]
        self.draw.line(way, fill=colour, width=max(1, round(width * self.scale)), joint="curve")


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 8) -> list[Point]:
    """Points on an ellipse around (x, y) from one angle to another, in turns; 0 is right, 0.25 is down."""
    angles = [2 * math.pi * (start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in angles]
