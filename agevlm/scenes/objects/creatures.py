"""People and animals."""

from __future__ import annotations

from agevlm.scenes.drawing import INK, PAPER, Paint, Pen, Rgb, arc

SKIN: tuple[Rgb, ...] = ((240, 200, 170), (222, 172, 134), (176, 122, 86), (120, 80, 56))
HAIR: tuple[Rgb, ...] = ((52, 38, 30), (110, 72, 40), (190, 150, 90), (70, 66, 70))
TROUSERS: tuple[Rgb, ...] = ((58, 64, 92), (92, 88, 86), (140, 124, 98), (50, 58, 56))
BEAK: Rgb = (226, 150, 40)


def person(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A standing person; the shirt has the colour."""
    skin, hair, trousers = SKIN[int(looks[0] * 4)], HAIR[int(looks[1] * 4)], TROUSERS[int(looks[2] * 4)]
    stride = 0.05 * looks[3]
    pen.polygon(((0.12, 0.55), (0.22, 0.55), (0.2 - stride, 0.97), (0.1 - stride, 0.97)), trousers)
    pen.polygon(((0.2, 0.55), (0.3, 0.55), (0.32 + stride, 0.97), (0.22 + stride, 0.97)), trousers)
    pen.rect(0.1 - stride, 0.955, 0.22 - stride, 1.0, INK)
    pen.rect(0.22 + stride, 0.955, 0.34 + stride, 1.0, INK)
    raised = looks[3] > 0.7
    hand = (0.42, 0.14) if raised else (0.395, 0.53)
    pen.line(((0.1, 0.26), (0.045, 0.4), (0.035, 0.51)), 0.075, c.dark)
    pen.disc(0.035, 0.535, 0.035, skin)
    pen.line(((0.32, 0.26), (0.4, 0.33) if raised else (0.375, 0.4), hand), 0.075, c.dark)
    pen.disc(hand[0], hand[1], 0.035, skin)
    pen.rect(0.18, 0.18, 0.24, 0.24, skin)
    pen.polygon(
        ((0.08, 0.24), (0.15, 0.205), (0.27, 0.205), (0.34, 0.24), (0.33, 0.42), (0.32, 0.59), (0.1, 0.59)), c.base
    )
    pen.disc(0.21, 0.105, 0.09, skin)
    pen.polygon([*arc(0.21, 0.1, 0.1, 0.1, 0.5, 1.0), (0.31, 0.13), (0.28, 0.075), (0.14, 0.075), (0.11, 0.13)], hair)


def dog(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A dog from the side: long snout, hanging ear, tail up."""
    step = 0.06 * (looks[0] - 0.5)
    for x, shift in ((0.3, -step), (0.86, step)):
        pen.polygon(((x, 0.6), (x + 0.11, 0.6), (x + 0.1 + shift, 1), (x + shift, 1)), c.dark)
    for x, shift in ((0.2, step), (0.76, -step)):
        pen.polygon(((x, 0.6), (x + 0.12, 0.6), (x + 0.11 + shift, 1), (x + shift, 1)), c.base)
    pen.line(((0.2, 0.5), (0.1, 0.36), (0.06, 0.16)), 0.085, c.base)
    pen.block(0.16, 0.42, 0.98, 0.75, 0.11, c.base)
    pen.polygon(((0.72, 0.5), (0.86, 0.16), (1.1, 0.2), (0.98, 0.62)), c.base)
    pen.oval(0.99, 0.2, 0.18, 0.16, c.base)
    pen.block(1.04, 0.17, 1.36, 0.36, 0.06, c.base)
    pen.oval(0.87, 0.27, 0.075, 0.2, c.dark)
    pen.oval(1.335, 0.195, 0.05, 0.045, INK if max(c.base) > 70 else PAPER)
    pen.disc(1.05, 0.165, 0.035, c.contrast)
    if looks[1] > 0.4:
        pen.line(((0.86, 0.47), (1.01, 0.52)), 0.07, c.contrast)


def cat(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A cat, sitting or walking: round head, two pointed ears, whiskers, a long tail."""
    if looks[0] < 0.5:
        pen.line(((0.72, 0.94), (1.0, 0.9), (1.06, 0.68), (0.96, 0.52)), 0.085, c.dark)
        pen.oval(0.5, 0.76, 0.3, 0.24, c.base)
        pen.polygon(((0.3, 0.4), (0.7, 0.4), (0.8, 0.98), (0.2, 0.98)), c.base)
        pen.rect(0.485, 0.72, 0.515, 1.0, c.dark)
        pen.oval(0.37, 0.96, 0.13, 0.045, c.light)
        pen.oval(0.63, 0.96, 0.13, 0.045, c.light)
        _cat_head(pen, c, 0.5, 0.31)
        return
    for x in (0.24, 0.74):
        pen.polygon(((x + 0.06, 0.6), (x + 0.16, 0.6), (x + 0.19, 1), (x + 0.1, 1)), c.dark)
        pen.polygon(((x - 0.06, 0.6), (x + 0.05, 0.6), (x + 0.02, 1), (x - 0.07, 1)), c.base)
    pen.line(((0.2, 0.56), (0.05, 0.44), (0.05, 0.2), (0.15, 0.06)), 0.08, c.base)
    pen.oval(0.53, 0.6, 0.4, 0.18, c.base)
    for x in (0.38, 0.52, 0.66):
        pen.line(((x, 0.44), (x - 0.02, 0.62)), 0.045, c.dark)
    _cat_head(pen, c, 0.86, 0.35)


def _cat_head(pen: Pen, c: Paint, x: float, y: float) -> None:
    pen.polygon(((x - 0.25, y - 0.03), (x - 0.23, y - 0.33), (x - 0.02, y - 0.14)), c.base)
    pen.polygon(((x + 0.25, y - 0.03), (x + 0.23, y - 0.33), (x + 0.02, y - 0.14)), c.base)
    pen.polygon(((x - 0.2, y - 0.1), (x - 0.195, y - 0.22), (x - 0.1, y - 0.14)), c.dark)
    pen.polygon(((x + 0.2, y - 0.1), (x + 0.195, y - 0.22), (x + 0.1, y - 0.14)), c.dark)
    pen.oval(x, y, 0.255, 0.2, c.base)
    pen.disc(x - 0.1, y - 0.03, 0.045, c.contrast)
    pen.disc(x + 0.1, y - 0.03, 0.045, c.contrast)
    pen.polygon(((x - 0.04, y + 0.05), (x + 0.04, y + 0.05), (x, y + 0.1)), c.contrast)
    for side in (-1, 1):
        pen.line(((x + 0.08 * side, y + 0.08), (x + 0.3 * side, y + 0.06)), 0.015, c.contrast)
        pen.line(((x + 0.08 * side, y + 0.11), (x + 0.28 * side, y + 0.15)), 0.015, c.contrast)


def bird(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A bird with a beak, wings up in flight."""
    lift = 0.16 * looks[0]
    pen.polygon(((0.62, 0.5), (0.94, 0.5), (0.66, 0.06 + lift), (0.5, 0.0 + lift)), c.dark)
    pen.polygon(((0.02, 0.4), (0.4, 0.52), (0.36, 0.72), (0.1, 0.62)), c.dark)
    pen.polygon(
        ((0.22, 0.58), (0.55, 0.42), (0.95, 0.38), (1.12, 0.46), (1.08, 0.66), (0.85, 0.8), (0.5, 0.78)), c.base
    )
    pen.disc(1.06, 0.45, 0.16, c.base)
    pen.polygon(((1.17, 0.36), (1.42, 0.48), (1.18, 0.55)), BEAK)
    pen.polygon(((0.42, 0.58), (0.86, 0.56), (0.42, 0.06 + lift), (0.22, 0.1 + lift)), c.light)
    pen.polygon(((0.42, 0.3 + lift / 2), (0.5, 0.2 + lift), (0.42, 0.06 + lift), (0.22, 0.1 + lift)), c.base)
    pen.disc(1.1, 0.41, 0.038, c.contrast)
    if looks[1] > 0.6:
        pen.line(((0.72, 0.78), (0.7, 0.95)), 0.04, BEAK)
        pen.line(((0.84, 0.78), (0.84, 0.95)), 0.04, BEAK)
