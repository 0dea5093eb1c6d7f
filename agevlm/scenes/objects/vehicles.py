"""What carries people: car, bus and truck share wheels and glass, and differ in windows, height and load."""

from __future__ import annotations

from agevlm.scenes.drawing import CLEAR, GLASS, INK, METAL, PAPER, WOOD, Paint, Pen, Rgb, mix

LIGHT: Rgb = (250, 226, 130)
TYRE: Rgb = (38, 37, 41)


def _wheel(pen: Pen, x: float, r: float) -> None:
    pen.disc(x, 1 - r, r, TYRE)
    pen.disc(x, 1 - r, r * 0.48, (190, 192, 198))


def car(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A low car with a rounded cabin and two windows."""
    back = 0.3 + 0.18 * looks[0]
    pen.polygon(((back, 0.46), (back + 0.26, 0.08), (1.28, 0.08), (1.62, 0.46)), c.base)
    pen.polygon(((back + 0.16, 0.44), (back + 0.32, 0.17), (0.9, 0.17), (0.9, 0.44)), GLASS)
    pen.polygon(((0.98, 0.44), (0.98, 0.17), (1.22, 0.17), (1.46, 0.44)), GLASS)
    pen.polygon(
        ((0.04, 0.52), (0.16, 0.43), (1.62, 0.43), (2.02, 0.52), (2.08, 0.62), (2.08, 0.82), (0.02, 0.82)), c.base
    )
    pen.polygon(((0.02, 0.7), (2.08, 0.7), (2.06, 0.84), (0.04, 0.84)), c.dark)
    pen.oval(2.0, 0.59, 0.06, 0.06, LIGHT)
    pen.rect(0.02, 0.53, 0.1, 0.63, (190, 50, 46))
    pen.line(((0.94, 0.45), (0.94, 0.7)), 0.025, c.dark)
    _wheel(pen, 0.46, 0.2)
    _wheel(pen, 1.62, 0.2)


def bus(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A tall box with a row of windows and a door."""
    pen.block(0.02, 0.05, 2.18, 0.9, 0.06, c.base)
    pen.rect(0.1, 0.0, 2.1, 0.07, c.dark)
    number = 4 + int(looks[0] * 2)
    step = 1.62 / number
    for i in range(number):
        pen.rect(0.1 + i * step, 0.18, 0.1 + (i + 0.8) * step, 0.46, GLASS)
    pen.rect(1.76, 0.18, 1.94, 0.84, mix(GLASS, INK, 0.25))
    pen.line(((1.85, 0.18), (1.85, 0.84)), 0.03, c.base)
    pen.rect(2.02, 0.16, 2.18, 0.5, GLASS)
    pen.rect(0.02, 0.6, 1.72, 0.68, c.light if looks[1] > 0.5 else c.dark)
    pen.rect(2.1, 0.68, 2.18, 0.78, LIGHT)
    _wheel(pen, 0.48, 0.16)
    _wheel(pen, 1.56, 0.16)


def truck(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A closed cargo box and a lower cab with one window."""
    pen.rect(0.05, 0.76, 2.0, 0.86, METAL)
    pen.rect(0.02, 0.04, 1.36, 0.78, c.base)
    pen.rect(0.02, 0.04, 1.36, 0.11, c.dark)
    if looks[0] > 0.5:
        for i in range(1, 5):
            pen.line(((0.02 + 0.268 * i, 0.13), (0.02 + 0.268 * i, 0.76)), 0.025, c.dark)
    else:
        pen.rect(0.3, 0.3, 1.08, 0.52, c.contrast)
        pen.rect(0.36, 0.36, 1.02, 0.46, c.base)
    pen.polygon(((1.46, 0.24), (1.8, 0.24), (1.94, 0.52), (2.06, 0.57), (2.06, 0.86), (1.46, 0.86)), c.dark)
    pen.polygon(((1.6, 0.31), (1.76, 0.31), (1.87, 0.53), (1.6, 0.53)), GLASS)
    pen.rect(1.99, 0.64, 2.06, 0.73, LIGHT)
    _wheel(pen, 0.34, 0.18)
    _wheel(pen, 0.78, 0.18)
    _wheel(pen, 1.74, 0.18)


def bicycle(pen: Pen, c: Paint, _: tuple[float, float, float, float]) -> None:
    """Two thin wheels and a coloured frame; one sees through it."""
    for x in (0.34, 1.26):
        pen.disc(x, 0.67, 0.33, TYRE)
        pen.disc(x, 0.67, 0.275, c.base)
        pen.disc(x, 0.67, 0.215, CLEAR)
    hub, crank, seat, head = (0.34, 0.67), (0.74, 0.7), (0.6, 0.22), (1.1, 0.26)
    pen.line((hub, crank, head), 0.085, c.base)
    pen.line((hub, (0.63, 0.3), (1.1, 0.3)), 0.075, c.base)
    pen.line((crank, seat), 0.08, c.base)
    pen.line(((1.26, 0.67), (1.06, 0.1)), 0.085, c.base)
    pen.line(((0.94, 0.06), (1.08, 0.09), (1.22, 0.03)), 0.06, TYRE)
    pen.line(((0.47, 0.19), (0.72, 0.19)), 0.08, TYRE)
    pen.disc(0.74, 0.7, 0.075, TYRE)


def boat(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A sailing boat: the hull and the sail's mark have the colour."""
    pen.line(((0.66, 0.0), (0.66, 0.76)), 0.035, WOOD)
    pen.polygon(((0.7, 0.03), (0.7, 0.66), (1.14, 0.66)), PAPER)
    pen.polygon(((0.7, 0.32), (0.7, 0.5), (1.03, 0.5), (0.9, 0.32)), c.base)
    if looks[0] > 0.35:
        pen.polygon(((0.61, 0.12), (0.61, 0.66), (0.2, 0.66)), c.light)
    pen.polygon(((0.02, 0.7), (1.3, 0.7), (1.1, 1.0), (0.24, 1.0)), c.base)
    pen.polygon(((0.02, 0.7), (1.3, 0.7), (1.26, 0.77), (0.08, 0.77)), c.dark)
