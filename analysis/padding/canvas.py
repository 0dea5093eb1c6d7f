"""An image made square before a model sees it: letterboxed, squashed or cropped, and where its pixels went.

A square passes every processor without further padding or cropping, so one image can be shown to any model in each way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from agevlm.geometry import ROUNDING, Geometry, check_size

if TYPE_CHECKING:
    from PIL.Image import Image

Rgb = tuple[int, int, int]
Mode = Literal["native", "letterbox", "squash", "crop"]
Colour = Literal["black", "mean", "grey", "edge"]
MODES: tuple[Mode, ...] = ("letterbox", "squash", "crop")
COLOURS: tuple[Colour, ...] = ("black", "mean", "grey", "edge")
GREY: Rgb = (128, 128, 128)


@dataclass(frozen=True)
class Condition:
    """One way to show an image."""

    mode: Mode
    colour: Colour | None = None
    """Of letterbox padding. mean: of the model's own normalisation, in 8 bits. edge: the image's outermost pixels."""

    @property
    def name(self) -> str:
        return self.mode if self.colour is None else f"{self.mode} {self.colour}"

    @property
    def pads(self) -> bool:
        """Whether it may show padding; squash and crop never do."""
        return self.mode in ("native", "letterbox")


NATIVE = Condition("native")
"""The image as it is, to the model's own processor: what the other conditions are compared with."""


def conditions(modes: tuple[Mode, ...], colours: tuple[Colour, ...]) -> tuple[Condition, ...]:
    """Native, then every mode; letterbox once in each colour."""
    made = [NATIVE]
    for mode in dict.fromkeys(modes):
        made += [Condition(mode, c) for c in dict.fromkeys(colours)] if mode == "letterbox" else [Condition(mode)]
    return tuple(made)


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture to show, and where the original image lies on it."""

    image: Image
    geometry: Geometry
    """From the original image to the canvas; its input is the canvas, its grid is one cell."""
    zone: Geometry
    """The geometry that says which part of the canvas counts as padding: its own; for a squashed image the
    letterbox's, so that attention to the very same places can be told where they hold image."""


def place(image: Image, condition: Condition, mean: Rgb | None = None) -> Canvas:
    """Show an image in one way.

    The canvas of letterbox and squash has the longer side, that of crop the shorter one. Nothing is resized but by
    squash (bicubic, enlarging the shorter side). A letterboxed image lies in the middle; of an odd number of rows (or
    columns) of padding the odd one lies below (right), as the processors of AGE-VLM and LLaVA have it.

    Args:
        image: RGB.
        condition: how.
        mean: red, green and blue of the padding colour "mean", 0 to 255.

    Raises:
        DataError: the image is too thin (see `agevlm.geometry.check_size`).
        ValueError: the mean is wanted and was not given.
    """
    from PIL import Image as Pil

    check_size(*image.size)
    width, height = image.size
    long, short = max(width, height), min(width, height)
    boxed = Geometry.letterbox(image.size, (long, long), (1, 1))
    if condition.mode == "native":
        itself = Geometry.squash(image.size, image.size, (1, 1))
        return Canvas(image, itself, itself)
    if condition.mode == "squash":
        squashed = Geometry.squash(image.size, (long, long), (1, 1))
        shown = image if width == height else image.resize((long, long), Pil.Resampling.BICUBIC)
        return Canvas(shown, squashed, boxed)
    if condition.mode == "crop":
        left, top = (width - short) // 2, (height - short) // 2
        cut = replace(Geometry.crop(image.size, (short, short), (1, 1)), offset_x=-left, offset_y=-top)
        return Canvas(image.crop((left, top, left + short, top + short)), cut, cut)
    left, top = int(boxed.offset_x), int(boxed.offset_y)
    if condition.colour == "edge":
        sides = ((top, long - height - top), (left, long - width - left), (0, 0))
        return Canvas(Pil.fromarray(np.pad(np.asarray(image), sides, mode="edge")), boxed, boxed)
    if condition.colour == "mean" and mean is None:
        raise ValueError("padding of the mean colour: give the mean")
    colour = {"black": (0, 0, 0), "mean": mean, "grey": GREY}[str(condition.colour)]
    canvas = Pil.new("RGB", (long, long), colour)
    canvas.paste(image, (left, top))
    return Canvas(canvas, boxed, boxed)


def compose(first: Geometry, then: Geometry) -> Geometry:
    """From an image to a canvas, and from the canvas to a model's input: one geometry.

    Raises:
        ValueError: the second is of another picture than the first one's input.
    """
    canvas, shown = (first.input_width, first.input_height), (then.image_width, then.image_height)
    if canvas != shown:
        raise ValueError(f"a geometry of {shown} pixels cannot follow one that gives {canvas}")
    return Geometry(
        first.image_width,
        first.image_height,
        then.input_width,
        then.input_height,
        first.scale_x * then.scale_x,
        first.scale_y * then.scale_y,
        then.offset_x + first.offset_x * then.scale_x,
        then.offset_y + first.offset_y * then.scale_y,
        then.rows,
        then.columns,
    )


def covered(geometry: Geometry) -> NDArray[np.float64]:
    """(rows, columns): which share of each cell is image, 0 to 1, by exact areas.

    `Geometry.coverage` counts whole input pixels; an image on a canvas may end within one.
    """
    # The whole image as one pixel: the same area, whatever its size.
    whole = replace(
        geometry,
        image_width=1,
        image_height=1,
        scale_x=geometry.scale_x * geometry.image_width,
        scale_y=geometry.scale_y * geometry.image_height,
    )
    share = whole.mask_to_grid(np.ones((1, 1)))
    share[share < ROUNDING] = 0.0
    share[share > 1 - ROUNDING] = 1.0
    return share


def padding_needed(width: int, height: int) -> float:
    """Which share of a square around the image is padding, 0 to 1."""
    return 1.0 - min(width, height) / max(width, height)
