"""One picture: the image, the answer, and where each word's attention lies, layer by layer."""

from __future__ import annotations

import warnings
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from agevlm.appearing import file_appears
from agevlm.errors import DataError
from agevlm.geometry import Box, Geometry
from analysis.look import Panel

PANEL_INCHES = 1.8
GAP_INCHES = 0.1
CAPTION_INCHES = 0.5
"""Under each panel: its numbers, and a little air."""
LEFT_INCHES = 4.4
LABEL_INCHES = 1.3
MARGIN = 0.2
TALLEST, FLATTEST = 1.6, 0.25
"""Height of a panel over its width, at most and at least; a picture beyond that is drawn smaller, never distorted."""
WIDEST_VIEW = 2.2
"""How many times wider than high (or the reverse) a panel may become to show what a crop cut off."""
LINES = 8
"""Of the question and of the answer, at most; the rest is left out after an ellipsis."""
LONGEST_LINE = 1000
"""More characters than any line holds."""
COLOURS = "inferno"
FAINTEST, STRONGEST = 0.2, 0.85
"""Opacity of cells without and with the most attention: the picture must stay visible under them."""
SMOOTHING = 12
DPI = 130
DRAWN_SIDE = 1000
"""Pixels of the image that are drawn at most, along its longer side."""


def draw(
    image: Image,
    geometry: Geometry,
    rows: Sequence[Sequence[Panel]],
    *,
    question: str,
    answer: str,
    footer: str,
    smooth: bool,
    out: Path,
) -> None:
    """Write the picture, whole or not at all.

    Every panel shows the whole of what the model was given: padding appears as grey around the image, what a crop cut
    off lies outside the colours, as far as there is room for it. Each panel has its own colour scale, from 0 to its
    largest cell.

    Args:
        image: as given to the model.
        geometry: where the grid lies in it.
        rows: for each word its panels.
        question: as asked.
        answer: as given.
        footer: what the picture shows, in small letters.
        smooth: interpolate between cells; else each cell is a square of one colour.
        out: file to write; its suffix names the format.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image = image.copy()
    image.thumbnail((DRAWN_SIDE, DRAWN_SIDE))
    view = _view(geometry)
    panel_height = PANEL_INCHES * min(TALLEST, max(FLATTEST, (view[3] - view[1]) / (view[2] - view[0])))
    first = LEFT_INCHES + LABEL_INCHES
    width = first + len(rows[0]) * (PANEL_INCHES + GAP_INCHES) + MARGIN - GAP_INCHES
    asked, said = _wrap(question, LEFT_INCHES - 0.5, 10.5, LINES), _wrap(answer, LEFT_INCHES - 0.5, 12, LINES, True)
    said = said or ["(nothing)"]
    small = _wrap(footer, width - 2 * MARGIN, 6.5)
    pitch, bottom, top = panel_height + CAPTION_INCHES, MARGIN + 0.12 * len(small) + 0.1, 0.5
    text_height = 0.21 * len(asked) + 0.24 * len(said) + 0.5
    side = LEFT_INCHES - 0.5
    shown_width, shown_height = _fit(image.width, image.height, side, side)
    height = max(top + len(rows) * pitch, 0.3 + shown_height + text_height) + bottom
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, down: float, lines: list[str], size: float, **style: Any) -> None:
        given = {"va": "top", "linespacing": 1.2, "parse_math": False, **style}
        figure.text(x / width, 1 - down / height, "\n".join(lines), fontsize=size, **given)

    def place(x: float, down: float, wide: float, high: float) -> Any:
        return figure.add_axes((x / width, 1 - (down + high) / height, wide / width, high / height))

    axes = place(MARGIN, 0.3, shown_width, shown_height)
    axes.imshow(image, aspect="auto")
    axes.axis("off")
    write(MARGIN, 0.3 + shown_height + 0.18, asked, 10.5)
    write(MARGIN, 0.3 + shown_height + 0.18 + 0.21 * len(asked) + 0.12, said, 12, weight="bold")
    grey = image.convert("L")
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            axes = place(first + c * (PANEL_INCHES + GAP_INCHES), top + r * pitch, PANEL_INCHES, panel_height)
            _panel(axes, grey, geometry, view, panel, smooth)
            if r == 0:
                axes.set_title("all layers" if panel.layer is None else f"layer {panel.layer}", fontsize=9)
        label = _wrap(row[0].label, LABEL_INCHES + 0.1, 10, 4)
        write(first - 0.1, top + r * pitch + panel_height / 2, label, 10, ha="right", va="center")
    write(MARGIN, height - bottom + 0.1, small, 6.5, color="0.35")
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    try:
        with file_appears(out) as unfinished, warnings.catch_warnings():
            # What the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(unfinished, format=out.suffix[1:].lower())
    except OSError as error:
        raise DataError(f"--out {out}: cannot write: {error.strerror or error}") from None


def _fit(width: float, height: float, most_wide: float, most_high: float) -> tuple[float, float]:
    """The largest size of the same shape within limits."""
    scale = min(most_wide / width, most_high / height)
    return width * scale, height * scale


def _wrap(text: str, inches: float, size: float, most: int | None = None, bold: bool = False) -> list[str]:
    """Lines of text as wide as fits, measured; what cannot be drawn becomes a space, words too long are cut."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer, font = RendererAgg(1, 1, DPI), FontProperties(size=size, weight="bold" if bold else "normal")

    def fits(line: str) -> bool:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            wide: float = renderer.get_text_width_height_descent(line, font, ismath=False)[0]
        return wide <= inches * DPI

    lines: list[str] = []
    line = ""
    for piece in _pieces(text, fits):
        if line and not fits(f"{line} {piece}"):
            lines.append(line)
            line = ""
            if len(lines) == most:
                break
        line = f"{line} {piece}" if line else piece
    else:
        return [*lines, line] if line else []
    last = lines.pop()
    while last and not fits(f"{last} …"):
        last = last[:-1].rstrip()
    return [*lines, f"{last} …"]


def _pieces(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """Words, and parts of those that are wider than a line."""
    for word in "".join(c if c.isprintable() else " " for c in text).split():
        rest = word
        while rest:
            lengths = range(2, min(len(rest), LONGEST_LINE) + 1)
            length = 1 + bisect(lengths, False, key=lambda n: not fits(rest[:n]))
            yield rest[:length]
            rest = rest[length:]


def _grid_box(geometry: Geometry) -> Box:
    x0, y0, _, _ = geometry.cell_box(0, 0)
    _, _, x1, y1 = geometry.cell_box(geometry.rows - 1, geometry.columns - 1)
    return x0, y0, x1, y1


def _view(geometry: Geometry) -> Box:
    """What a panel shows, in image coordinates: the grid and the image, of what a crop cut off as much as has room."""
    x0, y0, x1, y1 = _grid_box(geometry)
    left, right = _widen(x0, x1, geometry.image_width, WIDEST_VIEW * (y1 - y0))
    top, bottom = _widen(y0, y1, geometry.image_height, WIDEST_VIEW * (x1 - x0))
    return left, top, right, bottom


def _widen(low: float, high: float, end: float, most: float) -> tuple[float, float]:
    """The interval together with 0 to `end`, but not longer than `most` (or than it was)."""
    room = max(0.0, most - (high - low))
    before, after = max(0.0, low), max(0.0, end - high)
    share = min(1.0, room / (before + after)) if before + after else 0.0
    return low - before * share, high + after * share


def _heat(panel: Panel, smooth: bool) -> Any:
    """Colours of the cells, the clearer the more attention: (rows, columns, RGBA), finer where smooth."""
    from matplotlib import colormaps
    from scipy.ndimage import zoom

    heat = panel.map / (float(panel.map.max()) or 1.0)
    if smooth:
        heat = zoom(heat, SMOOTHING, order=1, mode="nearest", grid_mode=True).clip(0.0, 1.0)
    colours = colormaps[COLOURS](heat)
    colours[..., 3] = FAINTEST + (STRONGEST - FAINTEST) * heat
    return colours


def _panel(axes: Any, grey: Image, geometry: Geometry, view: Box, panel: Panel, smooth: bool) -> None:
    left, top, right, bottom = view
    axes.set_facecolor("0.8")
    whole = (0, geometry.image_width, geometry.image_height, 0)
    axes.imshow(grey, extent=whole, cmap="gray", vmin=-90, vmax=255)
    x0, y0, x1, y1 = _grid_box(geometry)
    axes.imshow(_heat(panel, smooth), extent=(x0, x1, y1, y0), interpolation="nearest")
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    like = "" if panel.like_all is None else f" · r {panel.like_all:.2f}"
    pad = f" · pad {panel.on_padding:.0%}" if geometry.coverage().min() < 1 else ""
    rest = f" · elsewhere {panel.elsewhere:.0%}" if panel.elsewhere > 0 else ""
    axes.set_xlabel(f"image {panel.on_image:.0%}{pad}{rest}\npeak {panel.peak:.1f}×{like}", fontsize=6.5, labelpad=2)
