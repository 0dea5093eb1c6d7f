"""What stands on a table. The look-alikes differ in a handle, a foot, a neck, a label, a stem."""

from __future__ import annotations

from agevlm.scenes.drawing import CLEAR, INK, PAPER, WOOD, Paint, Pen, Rgb, arc, mix

LEAF: Rgb = (78, 150, 62)


def apple(pen: Pen, c: Paint, _: tuple[float, float, float, float]) -> None:
    """Two lobes, a stem and a leaf."""
    pen.oval(0.35, 0.62, 0.33, 0.36, c.base)
    pen.oval(0.65, 0.62, 0.33, 0.36, c.base)
    pen.polygon(((0.25, 0.8), (0.75, 0.8), (0.64, 0.99), (0.36, 0.99)), c.base)
    pen.polygon([*arc(0.65, 0.62, 0.33, 0.36, -0.05, 0.22), *arc(0.55, 0.6, 0.32, 0.3, 0.22, -0.02)], c.dark)
    pen.polygon(((0.36, 0.28), (0.64, 0.28), (0.5, 0.42)), c.dark)
    pen.oval(0.25, 0.52, 0.07, 0.11, c.light)
    pen.line(((0.5, 0.38), (0.47, 0.2), (0.42, 0.04)), 0.08, WOOD)
    pen.polygon(((0.5, 0.24), (0.58, 0.06), (0.9, 0.02), (0.82, 0.2)), LEAF)


def cup(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A mug: straight sides and a handle."""
    pen.oval(0.9, 0.5, 0.26, 0.28, c.dark)
    pen.oval(0.9, 0.5, 0.14, 0.16, CLEAR)
    pen.polygon(((0.04, 0.1), (0.88, 0.1), (0.82, 0.93), (0.7, 1.0), (0.22, 1.0), (0.1, 0.93)), c.base)
    pen.polygon(((0.68, 0.1), (0.88, 0.1), (0.82, 0.93), (0.7, 1.0), (0.62, 1.0)), c.dark)
    if looks[0] > 0.5:
        pen.polygon(((0.07, 0.5), (0.85, 0.5), (0.84, 0.64), (0.08, 0.64)), c.contrast)
    pen.oval(0.46, 0.1, 0.42, 0.1, c.light)
    pen.oval(0.46, 0.115, 0.34, 0.07, (96, 66, 46) if looks[1] > 0.5 else mix(c.dark, INK, 0.3))


def bowl(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """Wide and round below, on a small foot; no handle."""
    pen.polygon(((0.56, 0.86), (1.14, 0.86), (1.2, 1.0), (0.5, 1.0)), c.dark)
    pen.polygon([*arc(0.85, 0.2, 0.82, 0.73, 0.0, 0.5, 14)], c.base)
    pen.polygon([*arc(0.85, 0.2, 0.82, 0.73, 0.0, 0.2, 6), *arc(0.75, 0.2, 0.66, 0.62, 0.2, 0.0, 6)], c.dark)
    pen.oval(0.85, 0.2, 0.82, 0.19, c.light)
    pen.oval(0.85, 0.22, 0.71, 0.14, mix(c.dark, INK, 0.25))
    if looks[0] > 0.6:
        pen.line(arc(0.85, 0.3, 0.72, 0.34, 0.04, 0.46, 8), 0.06, c.contrast)


def vase(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A belly under a thin neck that opens again, with a pattern; no handle, cap or label."""
    belly = 0.62 + 0.06 * looks[0]
    pen.polygon(((0.18, 0.03), (0.48, 0.03), (0.42, 0.2), (0.42, 0.36), (0.24, 0.36), (0.24, 0.2)), c.base)
    pen.oval(0.33, belly, 0.31, 0.29, c.base)
    pen.polygon(((0.12, 0.78), (0.54, 0.78), (0.46, 1.0), (0.2, 1.0)), c.base)
    pen.polygon([*arc(0.33, belly, 0.31, 0.29, -0.14, 0.14), *arc(0.33, belly, 0.17, 0.27, 0.14, -0.14)], c.dark)
    points = [
        (0.05, belly),
        (0.15, belly - 0.09),
        (0.24, belly),
        (0.33, belly - 0.09),
        (0.42, belly),
        (0.51, belly - 0.09),
    ]
    pen.line([*points, (0.61, belly)], 0.045, c.contrast)
    pen.oval(0.33, 0.04, 0.18, 0.04, mix(c.dark, INK, 0.3))
    pen.rect(0.19, 0.33, 0.47, 0.375, c.dark)


def bottle(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A straight body, a thin neck with a cap, a label."""
    pen.polygon(
        ((0.13, 0.06), (0.23, 0.06), (0.23, 0.26), (0.34, 0.4), (0.34, 0.97), (0.31, 1.0), (0.05, 1.0), (0.02, 0.97),
         (0.02, 0.4), (0.13, 0.26)), c.base
    )  # fmt: skip
    pen.polygon(((0.26, 0.31), (0.34, 0.4), (0.34, 0.97), (0.31, 1.0), (0.26, 1.0)), c.dark)
    pen.rect(0.06, 0.4, 0.1, 0.52, c.light)
    pen.rect(0.11, 0.0, 0.25, 0.09, INK if looks[0] > 0.5 else (200, 176, 110))
    label = PAPER if c.contrast == PAPER else (142, 132, 120)
    pen.rect(0.02, 0.56, 0.34, 0.8, label)
    pen.line(((0.07, 0.68), (0.29, 0.68)), 0.03, c.base)


def fork(pen: Pen, c: Paint, _: tuple[float, float, float, float]) -> None:
    """Three tines with gaps between them."""
    pen.rect(0.105, 0.4, 0.175, 1.0, c.base)
    pen.rect(0.095, 0.68, 0.185, 1.0, c.dark)
    pen.polygon(((0.0, 0.26), (0.28, 0.26), (0.26, 0.36), (0.19, 0.46), (0.09, 0.46), (0.02, 0.36)), c.base)
    for x in (0.0, 0.108, 0.216):
        pen.rect(x, 0.0, x + 0.064, 0.3, c.base)


def spoon(pen: Pen, c: Paint, _: tuple[float, float, float, float]) -> None:
    """An oval on a handle."""
    pen.rect(0.105, 0.35, 0.175, 1.0, c.base)
    pen.rect(0.095, 0.68, 0.185, 1.0, c.dark)
    pen.oval(0.14, 0.21, 0.145, 0.21, c.base)
    pen.oval(0.14, 0.2, 0.095, 0.155, c.light)
