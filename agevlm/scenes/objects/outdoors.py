"""Things of streets, parks and beaches."""

from __future__ import annotations

from agevlm.scenes.drawing import INK, METAL, PAPER, WOOD, Paint, Pen, arc, mix


def kite(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A diamond with crossed spars and a tail with bows."""
    pen.line(((0.37, 0.66), (0.3, 0.76), (0.42, 0.86), (0.34, 0.99)), 0.03, INK)
    for x, y in ((0.33, 0.77), (0.4, 0.9)):
        pen.polygon(
            ((x - 0.08, y - 0.045), (x - 0.08, y + 0.045), (x + 0.08, y - 0.045), (x + 0.08, y + 0.045)), c.base
        )
    pen.polygon(((0.37, 0.0), (0.72, 0.27), (0.37, 0.7), (0.02, 0.27)), c.base)
    pen.polygon(((0.37, 0.0), (0.72, 0.27), (0.37, 0.27)), c.light)
    pen.polygon(((0.37, 0.27), (0.02, 0.27), (0.37, 0.7)), c.dark if looks[0] > 0.5 else c.light)
    pen.line(((0.37, 0.0), (0.37, 0.7)), 0.022, c.contrast)
    pen.line(((0.02, 0.27), (0.72, 0.27)), 0.022, c.contrast)


def ball(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A ball with a light band and stripes; no stem."""
    mark = mix(c.dark, INK, 0.4) if c.contrast == INK else PAPER
    pen.disc(0.5, 0.5, 0.49, c.dark)
    pen.disc(0.48, 0.47, 0.45, c.base)
    if looks[0] < 0.5:
        pen.polygon([*arc(0.5, 0.5, 0.47, 0.2, 0.0, 0.5), *arc(0.5, 0.5, 0.47, 0.04, 0.5, 0.0)], mark)
        pen.polygon([*arc(0.5, 0.5, 0.2, 0.47, 0.75, 1.25), *arc(0.5, 0.5, 0.04, 0.47, 1.25, 0.75)], mark)
    else:
        for start in (0.05, 0.383, 0.717):
            pen.polygon([(0.5, 0.5), *arc(0.5, 0.5, 0.48, 0.48, start, start + 0.11, 4)], mark)
        pen.disc(0.5, 0.5, 0.1, c.dark)


def tree(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A trunk and a crown, round or a fir's; the crown has the colour."""
    pen.polygon(((0.37, 0.5), (0.46, 0.5), (0.5, 1.0), (0.33, 1.0)), WOOD)
    pen.polygon(((0.43, 0.5), (0.46, 0.5), (0.5, 1.0), (0.43, 1.0)), mix(WOOD, INK, 0.35))
    if looks[0] < 0.28:
        for top, foot, half in ((0.32, 0.74, 0.4), (0.16, 0.54, 0.32), (0.0, 0.34, 0.23)):
            pen.polygon(((0.415, top), (0.415 + half, foot), (0.415 - half, foot)), c.base)
            pen.polygon(((0.415, top), (0.415 + half, foot), (0.415 + half * 0.3, foot)), c.dark)
        return
    for x, y, r in ((0.24, 0.42, 0.22), (0.6, 0.42, 0.22), (0.42, 0.24, 0.25), (0.42, 0.46, 0.22)):
        pen.disc(x, y, r, c.base)
    for x, y, r in ((0.56, 0.5, 0.14), (0.3, 0.53, 0.1), (0.6, 0.28, 0.07)):
        pen.disc(x, y, r, c.dark)
    for x, y, r in ((0.3, 0.2, 0.1), (0.16, 0.37, 0.06), (0.46, 0.36, 0.06 + 0.03 * looks[1])):
        pen.disc(x, y, r, mix(c.base, c.light, 0.55))


def sign(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """A traffic sign on a pole: a coloured plate with a bar."""
    pen.rect(0.26, 0.4, 0.32, 1.0, METAL)
    pen.rect(0.2, 0.965, 0.38, 1.0, mix(METAL, INK, 0.4))
    steps = 8 if looks[0] < 0.55 else 24
    pen.polygon(arc(0.29, 0.285, 0.285, 0.285, 0.0625, 1.0625, steps), c.light if c.contrast == PAPER else c.dark)
    pen.polygon(arc(0.29, 0.285, 0.245, 0.245, 0.0625, 1.0625, steps), c.base)
    pen.rect(0.12, 0.225, 0.46, 0.345, c.contrast)


def umbrella(pen: Pen, c: Paint, looks: tuple[float, float, float, float]) -> None:
    """An open umbrella: a scalloped dome in segments over a thin stick with a hook."""
    pen.line(((0.65, 0.3), (0.65, 0.96)), 0.04, WOOD)
    if looks[0] > 0.5:
        pen.line(((0.65, 0.92), (0.62, 0.985), (0.54, 0.985), (0.51, 0.92)), 0.04, WOOD)
    pen.line(((0.65, 0.0), (0.65, 0.08)), 0.04, WOOD)
    dome = arc(0.65, 0.5, 0.63, 0.45, 0.5, 1.0, 12)
    scallops = [(1.07, 0.43), (0.86, 0.5), (0.65, 0.43), (0.44, 0.5), (0.23, 0.43)]
    pen.polygon([*dome, *scallops], c.base)
    pen.polygon([*arc(0.65, 0.5, 0.22, 0.45, 0.5, 1.0, 6), (0.65, 0.43)], c.light)
    pen.polygon(
        [(0.02, 0.5), *arc(0.65, 0.5, 0.63, 0.45, 0.5, 0.7, 4), (0.42, 0.2), (0.28, 0.43), (0.23, 0.43)], c.dark
    )
