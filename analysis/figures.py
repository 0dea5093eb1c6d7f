"""One look for all figures of the analyses, and how they are written. matplotlib is imported when needed."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from agevlm.appearing import file_appears
from agevlm.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = "colorblind"
"""seaborn's: told apart with any kind of colour vision."""
FORMATS = ("png", "svg")
DPI = 160
# Text stays text, and names of shapes are not drawn anew each time.
SVG = {"svg.fonttype": "none", "svg.hashsalt": "agevlm"}
COLUMN = 4.2
"""Inches of a figure for a column of 3.3: drawn larger, as the style's type is large. What is `small` in it has 7.9
points there; nothing may be smaller."""
WIDEST = 40
"""Characters of a title line; longer names are cut in the middle."""


@contextlib.contextmanager
def style() -> Iterator[Any]:
    """Draw within this: gives seaborn, with one style for all figures; settings outside are left alone."""
    import matplotlib as mpl

    # Before pyplot is first imported (seaborn does): figures go to files, also where there is no display.
    mpl.use("agg")
    import seaborn

    given = {
        "figure.constrained_layout.use": True,
        "axes.titlesize": "medium",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        # Names of models are text, whatever is in them.
        "text.parse_math": False,
    }
    with mpl.rc_context():
        seaborn.set_theme(context="notebook", style="whitegrid", palette=PALETTE, rc=given)
        yield seaborn


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, which pyplot does not keep."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and as SVG, each whole or not at all; the same figure gives the same bytes.

    Args:
        figure: to write.
        path: without a suffix, or with one of the two; the folder is there.

    Returns:
        The two files.

    Raises:
        DataError: one cannot be written.
    """
    stem = path.with_suffix("") if path.suffix.lstrip(".").lower() in FORMATS else path
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in FORMATS]
    for file, kind in zip(files, FORMATS, strict=True):
        try:
            with file_appears(file) as unfinished:
                _write(figure, kind, unfinished)
        except OSError as error:
            raise DataError(f"{file}: cannot write: {error.strerror or error}") from None
    return files


def encoded(figure: Figure) -> tuple[bytes, bytes]:
    """The same two, PNG and SVG, as bytes."""
    held = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        _write(figure, kind, buffer)
        held.append(buffer.getvalue())
    return held[0], held[1]


def _write(figure: Figure, kind: str, target: Path | IO[bytes]) -> None:
    import matplotlib as mpl

    # No date and no version of matplotlib.
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    # Ticks are made, and take their style, when a figure is written.
    with style(), warnings.catch_warnings(), mpl.rc_context(SVG):
        # What the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(target, format=kind, metadata=metadata)
    # Laid out once: that is half of the time, and both forms are to be alike.
    figure.set_layout_engine("none")


def shortened(name: str, most: int = WIDEST) -> str:
    """A name that fits a title: the middle of a long one is left out."""
    kept = most - 1
    return name if len(name) <= most else f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"
