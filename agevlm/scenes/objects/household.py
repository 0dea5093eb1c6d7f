"""Things of living rooms and offices."""

from __future__ import annotations

from agevlm.scenes.drawing import INK, METAL, PAPER, WOOD, Paint, Pen, Rgb, arc, mix

PAGE: Rgb = (236, 231, 214)
SCREEN: Rgb = (150, 196, 222)


def book(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A book: closed and standing with its pages to the right, or open on its cover."""
    if looks[0] < 0.6:
        pen.polygon(((0.86, 0.04), (1.02, 0.12), (1.02, 0.94), (0.86, 1.0)), PAGE)
        pen.line(((0.94, 0.1), (0.94, 0.96)), 0.02, (170, 160, 140))
        pen.rect(0.14, 0.0, 0.86, 1.0, c.base)
        pen.rect(0.14, 0.0, 0.26, 1.0, c.dark)
        pen.rect(0.38, 0.2, 0.76, 0.32, c.contrast)
        pen.rect(0.38, 0.4, 0.66, 0.47, c.contrast)
        return
    pen.polygon(((0.0, 0.12), (0.6, 0.24), (1.2, 0.12), (1.2, 0.9), (0.6, 1.0), (0.0, 0.9)), c.base)
    pen.polygon(((0.13, 0.1), (0.6, 0.22), (0.6, 0.85), (0.13, 0.73)), PAGE)
    pen.polygon(((1.07, 0.1), (0.6, 0.22), (0.6, 0.85), (1.07, 0.73)), mix(PAGE, INK, 0.1))
    for y in (0.28, 0.42, 0.56):
        pen.line(((0.2, y), (0.52, y + 0.09)), 0.03, (150, 144, 130))
        pen.line(((1.0, y), (0.68, y + 0.09)), 0.03, (150, 144, 130))
    pen.line(((0.6, 0.22), (0.6, 0.96)), 0.04, c.dark)


def laptop(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A lit screen over a keyboard."""
    pen.block(0.14, 0.0, 1.26, 0.72, 0.04, c.base)
    pen.rect(0.23, 0.09, 1.17, 0.62, SCREEN)
    pen.polygon(((0.23, 0.62), (0.23, 0.4), (0.6, 0.62)), mix(SCREEN, PAPER, 0.5))
    if looks[0] > 0.5:
        pen.rect(0.66, 0.18, 1.07, 0.26, PAPER)
        pen.rect(0.66, 0.33, 0.94, 0.39, PAPER)
    pen.polygon(((0.14, 0.72), (1.26, 0.72), (1.4, 0.95), (0.0, 0.95)), c.light)
    pen.polygon(((0.22, 0.75), (1.18, 0.75), (1.24, 0.86), (0.16, 0.86)), mix(c.dark, INK, 0.5))
    pen.rect(0.0, 0.94, 1.4, 1.0, c.dark)


def clock(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A coloured rim, a white face, two hands."""
    _face(pen, c, looks, 0.5, 0.5, 0.49)


def street_clock(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A clock on a post."""
    pen.rect(0.25, 0.5, 0.33, 1.0, mix(METAL, INK, 0.4))
    pen.rect(0.18, 0.95, 0.4, 1.0, mix(METAL, INK, 0.4))
    _face(pen, c, looks, 0.29, 0.285, 0.285)


def _face(pen: Pen, c: Paint, looks: tuple[float, float, float, float], x: float, y: float, r: float) -> None:
    pen.disc(x, y, r, c.dark)
    pen.disc(x, y, r * 0.95, c.base)
    pen.disc(x, y, r * 0.7, c.dark if c.contrast == INK else PAPER)
    pen.disc(x, y, r * 0.66, PAPER)
    for turn in (0.0, 0.25, 0.5, 0.75):
        pen.line((arc(x, y, r * 0.52, r * 0.52, turn, turn, 1)[0], arc(x, y, r * 0.62, r * 0.62, turn, turn, 1)[0]),
                 r * 0.09, INK)  # fmt: skip
    pen.line(((x, y), arc(x, y, r * 0.54, r * 0.54, looks[0], looks[0], 1)[0]), r * 0.12, INK)
    pen.line(((x, y), arc(x, y, r * 0.36, r * 0.36, looks[1], looks[1], 1)[0]), r * 0.15, INK)


def lamp(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A straight-sided shade on a stand with a foot; light shows below the shade."""
    pen.rect(0.285, 0.36, 0.335, 0.95, mix(METAL, INK, 0.45))
    pen.oval(0.31, 0.965, 0.19, 0.035, mix(METAL, INK, 0.45))
    pen.oval(0.31, 0.41, 0.24, 0.05, (255, 236, 170))
    slope = 0.07 + 0.08 * looks[0]
    pen.polygon(((0.02 + slope, 0.02), (0.6 - slope, 0.02), (0.6, 0.4), (0.02, 0.4)), c.base)
    pen.polygon(((0.44 - slope * 0.4, 0.02), (0.6 - slope, 0.02), (0.6, 0.4), (0.44, 0.4)), c.dark)
    pen.line(((0.02, 0.385), (0.6, 0.385)), 0.035, c.light)


def sofa(pen: Pen, c: Paint, _: tuple[float, float, float, float]) -> None:
    """A back, two arms and seat cushions."""
    for x in (0.2, 1.62):
        pen.rect(x, 0.88, x + 0.12, 1.0, WOOD)
    pen.block(0.14, 0.02, 1.8, 0.7, 0.1, c.dark)
    pen.block(0.22, 0.1, 0.95, 0.62, 0.06, c.base)
    pen.block(0.99, 0.1, 1.72, 0.62, 0.06, c.base)
    pen.block(0.2, 0.5, 0.96, 0.72, 0.05, c.light)
    pen.block(0.98, 0.5, 1.74, 0.72, 0.05, c.light)
    pen.rect(0.14, 0.7, 1.8, 0.9, c.base)
    pen.block(0.02, 0.34, 0.26, 0.92, 0.07, c.base)
    pen.block(1.68, 0.34, 1.92, 0.92, 0.07, c.base)
    pen.rect(0.24, 0.71, 1.7, 0.75, c.dark)
