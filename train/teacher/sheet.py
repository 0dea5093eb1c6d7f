"""A picture of images with the regions that were found in them, to see whether they are any good."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from agevlm.errors import DataError
from train.data.masked import MaskedSource
from train.data.samples import Sample
from train.overlays import save_figure, thumbnail

SHOWN, COLUMNS = 16, 4
INCHES = 3.2
FILL = 0.42
"""Opacity of regions."""
MOST_NAMED = 6


def write_sheet(source: MaskedSource, out: Path, title: str, count: int = SHOWN) -> None:
    """Draw samples at even distances among those with regions: each image, its regions in colours, their words below.

    Args:
        source: with its regions.
        out: PNG file.
        title: above it.
        count: of samples.

    Raises:
        DataError: no sample has a region, one cannot be read, or the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    guided = source.guided
    if not len(guided):
        raise DataError(f"{out}: there is nothing to draw, as no sample has a region")
    places = sorted({round(p) for p in np.linspace(0, len(guided) - 1, min(count, len(guided)))})
    samples = [source.read(int(guided[place]), 0) for place in places]
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(columns * INCHES, rows * (INCHES + 0.5) + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, parse_math=False)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, sample in zip(axes, samples, strict=False):
        _draw(axis, sample, colormaps["tab10"])
    save_figure(figure, out)


def _draw(axis: Any, sample: Sample, colours: Any) -> None:
    image = thumbnail(sample.image)
    pixels = np.asarray(image, np.float64) / 255
    words = [sample.messages[p.message].text[p.start : p.end] for p in sample.phrases]
    names = list(dict.fromkeys(word.lower() for word in words))
    for phrase, word in zip(sample.phrases, words, strict=True):
        colour = np.asarray(colours(names.index(word.lower()) % 10)[:3])
        height, width = phrase.mask.shape
        rows, across = (np.arange(n) * old // n for n, old in ((image.height, height), (image.width, width)))
        inside = phrase.mask[np.ix_(rows, across)]
        pixels[inside] = (1 - FILL) * pixels[inside] + FILL * colour
        edge = inside & ~(_shift(inside, 0) & _shift(inside, 1))
        pixels[edge] = colour
    axis.imshow(pixels.clip(0, 1))
    for number, name in enumerate(names[:MOST_NAMED]):
        axis.text(
            (number % 3) / 3,
            -0.02 - 0.075 * (number // 3),
            textwrap.shorten(name, 20, placeholder=" …"),
            color=colours(number % 10),
            fontsize=8,
            weight="bold",
            va="top",
            transform=axis.transAxes,
            parse_math=False,
        )


def _shift(mask: np.ndarray[Any, np.dtype[np.bool_]], axis: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where both neighbours along an axis are inside as well."""
    padded = np.pad(mask, 1)
    before, after = np.roll(padded, 1, axis), np.roll(padded, -1, axis)
    inner: np.ndarray[Any, np.dtype[np.bool_]] = (before & after)[1:-1, 1:-1]
    return inner
