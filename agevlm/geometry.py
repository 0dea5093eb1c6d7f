"""Pixels <-> model input <-> token grid, padding included; the one place for it.

Coordinates are continuous: pixel i covers [i, i + 1), x runs to the right, y downwards. Three frames:

* image: pixels of the original image, before any resizing;
* input: pixels of what the vision tower is given;
* grid: rows and columns of visual tokens, equal cells that tile the input.

A `Geometry` holds the very integers the resizer uses, so what it says about a cell is what the pixels did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agevlm.errors import DataError

Floats = NDArray[np.float64]
Coordinate = TypeVar("Coordinate", float, NDArray[np.float64])
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1."""

SMALLEST_SIDE = 2
LARGEST_ASPECT = 200
ROUNDING = 1e-6
"""Pixels by which a quotient of floats may miss the edge of an image."""


def check_size(width: int, height: int) -> None:
    """Refuse images too thin to be shown to a model. Sizes in pixels.

    Raises:
        DataError: a side under 2 pixels, or one side over 200 times the other.
    """
    if min(width, height) < SMALLEST_SIDE:
        raise DataError(
            f"image of {width} x {height} pixels (width x height): a side is under {SMALLEST_SIDE} pixels; "
            "leave the image out or repair the file"
        )
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise DataError(
            f"image of {width} x {height} pixels (width x height): one side is over {LARGEST_ASPECT} times the other; "
            "cut it into pieces or leave it out"
        )


@dataclass(frozen=True)
class _Axis:
    """One direction of a geometry."""

    pixels: int
    length: int
    cells: int
    scale: float
    offset: float

    def seen(self) -> tuple[float, float]:
        """From where to where the image is seen, in image coordinates."""
        low, high = -self.offset / self.scale, (self.length - self.offset) / self.scale
        return low if low > ROUNDING else 0.0, high if high < self.pixels - ROUNDING else float(self.pixels)

    def placed(self) -> tuple[int, int]:
        """From where to where the image lies, in whole input pixels."""
        return max(0, round(self.offset)), min(self.length, round(self.offset + self.pixels * self.scale))

    def cell(self, at: Floats) -> NDArray[np.int64]:
        """The cells that hold image coordinates; -1 where they are not seen."""
        low, high = self.seen()
        index = np.floor((self.offset + at * self.scale) * self.cells / self.length).astype(np.int64)
        # Inside, rounding may still name the cell beyond the edge.
        return np.where((at >= low) & (at < high), index.clip(0, self.cells - 1), -1)

    def centres(self) -> Floats:
        """The pixels' centres, in image coordinates."""
        return np.arange(self.pixels, dtype=np.float64) + 0.5

    def cell_edges(self) -> Floats:
        """The cells' borders, in input coordinates."""
        return np.arange(self.cells + 1, dtype=np.float64) * self.length / self.cells

    def share_covered(self) -> Floats:
        """Which share of each cell the image covers."""
        edges, (low, high) = self.cell_edges(), self.placed()
        share: Floats = np.diff(edges.clip(low, high)) / np.diff(edges)
        return share

    def overlap(self) -> Floats:
        """(cells, pixels): which share of each cell each pixel takes."""
        cells = self.cell_edges()
        pixels = self.offset + np.arange(self.pixels + 1) * self.scale
        shared = np.minimum(cells[1:, None], pixels[None, 1:]) - np.maximum(cells[:-1, None], pixels[None, :-1])
        share: Floats = shared.clip(min=0.0) / np.diff(cells)[:, None]
        return share

    def holding(self, other: _Axis) -> Floats:
        """(cells, other's cells): which share of each cell of another view of this image each cell takes."""
        cells = self.cell_edges()
        others = self.offset + (other.cell_edges() - other.offset) / other.scale * self.scale
        shared = np.minimum(cells[1:, None], others[None, 1:]) - np.maximum(cells[:-1, None], others[None, :-1])
        # Edges that two views share differ by rounding: no sliver of a cell beyond them.
        shared = np.where(shared > ROUNDING, shared, 0.0)
        whole = shared.sum(0)
        share: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
        return share

    def between(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """For each pixel the two cells its centre lies between, and how far it is towards the second, 0 to 1."""
        at = (self.offset + self.centres() * self.scale) * self.cells / self.length - 0.5
        at = at.clip(0, self.cells - 1)
        first = np.floor(at).astype(np.int64)
        return first, np.minimum(first + 1, self.cells - 1), at - first


@dataclass(frozen=True)
class Geometry:
    """An axis-aligned affine map of one image to the model's input, and the token grid on that input."""

    image_width: int
    image_height: int
    input_width: int
    input_height: int
    scale_x: float
    """Input pixels per image pixel."""
    scale_y: float
    offset_x: float
    """Input coordinate of the image's left edge; negative if a crop cut it off."""
    offset_y: float
    rows: int
    columns: int

    @classmethod
    def letterbox(cls, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int]) -> Geometry:
        """The whole image, aspect ratio kept up to whole pixels, centred, padding around it.

        Args:
            size: (width, height) of the image in pixels.
            input_size: (width, height) of the model's input in pixels.
            grid: (rows, columns) of tokens.

        Raises:
            DataError: see `check_size`.
        """
        check_size(*size)
        (width, height), (input_width, input_height) = size, input_size
        scale = min(input_width / width, input_height / height)
        new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (input_width - new_width) // 2, (input_height - new_height) // 2
        return cls(*size, *input_size, new_width / width, new_height / height, left, top, *grid)

    @classmethod
    def squash(cls, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int]) -> Geometry:
        """The whole image stretched over the whole input. Arguments and errors as `letterbox`."""
        check_size(*size)
        return cls(*size, *input_size, input_size[0] / size[0], input_size[1] / size[1], 0.0, 0.0, *grid)

    @classmethod
    def onto(cls, size: tuple[int, int], box: Box, input_size: tuple[int, int], grid: tuple[int, int]) -> Geometry:
        """The whole image stretched over a box of the input, padding around it; what lies beyond the input is cut off.

        Args:
            size: (width, height) of the image in pixels.
            box: where its edges lie, in input coordinates.
            input_size: (width, height) of the model's input in pixels.
            grid: (rows, columns) of tokens.

        Raises:
            DataError: see `check_size`.
        """
        check_size(*size)
        x0, y0, x1, y1 = box
        return cls(*size, *input_size, (x1 - x0) / size[0], (y1 - y0) / size[1], x0, y0, *grid)

    @classmethod
    def crop(cls, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int]) -> Geometry:
        """The centre of the image, as large as fills the input; the rest is cut off. Arguments as `letterbox`."""
        check_size(*size)
        (width, height), (input_width, input_height) = size, input_size
        scale = max(input_width / width, input_height / height)
        left, top = min(0.0, (input_width - width * scale) / 2), min(0.0, (input_height - height * scale) / 2)
        return cls(*size, *input_size, scale, scale, left, top, *grid)

    def resized(self, width: int, height: int) -> Geometry:
        """The same view of a copy of the image at another size, in pixels."""
        return replace(
            self,
            image_width=width,
            image_height=height,
            scale_x=self.scale_x * self.image_width / width,
            scale_y=self.scale_y * self.image_height / height,
        )

    @property
    def _x(self) -> _Axis:
        return _Axis(self.image_width, self.input_width, self.columns, self.scale_x, self.offset_x)

    @property
    def _y(self) -> _Axis:
        return _Axis(self.image_height, self.input_height, self.rows, self.scale_y, self.offset_y)

    @property
    def seen_box(self) -> Box:
        """The part of the image that the model is shown, in image coordinates: the whole of it unless cropped."""
        (x0, x1), (y0, y1) = self._x.seen(), self._y.seen()
        return x0, y0, x1, y1

    @property
    def input_box(self) -> tuple[int, int, int, int]:
        """Where `seen_box` lies on the input, in whole input pixels; the rest of the input is padding."""
        (x0, x1), (y0, y1) = self._x.placed(), self._y.placed()
        return x0, y0, x1, y1

    def to_input(self, x: Coordinate, y: Coordinate) -> tuple[Coordinate, Coordinate]:
        """Image to input coordinates, numbers or arrays; not clipped."""
        return self.offset_x + x * self.scale_x, self.offset_y + y * self.scale_y

    def to_image(self, x: Coordinate, y: Coordinate) -> tuple[Coordinate, Coordinate]:
        """Input to image coordinates, numbers or arrays; not clipped, so padding lies outside the image."""
        return (x - self.offset_x) / self.scale_x, (y - self.offset_y) / self.scale_y

    def cell_of(self, x: float, y: float) -> tuple[int, int] | None:
        """(row, column) of the cell that holds this point of the image; None where the model does not see it.

        The centre of pixel (i, j) is x = i + 0.5, y = j + 0.5.
        """
        row, column = int(self._y.cell(np.asarray(y, float))), int(self._x.cell(np.asarray(x, float)))
        return None if min(row, column) < 0 else (row, column)

    def cell_box(self, row: int, column: int) -> Box:
        """The area of a cell in image coordinates; not clipped, so it reaches beyond the image into padding.

        Raises:
            IndexError: no such cell (negative numbers do not count from the end).
        """
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise IndexError(f"no cell ({row}, {column}) in a grid of {self.rows} rows and {self.columns} columns")
        height, width = self.input_height / self.rows, self.input_width / self.columns
        return *self.to_image(column * width, row * height), *self.to_image((column + 1) * width, (row + 1) * height)

    def coverage(self) -> Floats:
        """(rows, columns): which share of each cell is image and not padding, 0 to 1."""
        return np.outer(self._y.share_covered(), self._x.share_covered())

    def holding(self, other: Geometry) -> tuple[Floats, Floats]:
        """Where the cells of another view of the same image lie among these, by exact areas.

        Of a cell that reaches beyond this view only the part inside counts.

        Args:
            other: of an image of the same size.

        Returns:
            (rows, other's rows) and (columns, other's columns): which share of each of the other's rows or columns
            lies in each of these; columns of both arrays sum to 1, or to 0 where nothing lies in this view. The share
            of a cell is the product.

        Raises:
            ValueError: a view of an image of another size.
        """
        size, others = (self.image_width, self.image_height), (other.image_width, other.image_height)
        if size != others:
            raise ValueError(f"views of images of {size} and {others} pixels (width, height)")
        return self._y.holding(other._y), self._x.holding(other._x)

    def mask_to_grid(self, mask: ArrayLike) -> Floats:
        """Mean of a mask over each cell, by exact areas; padding counts as 0.

        Divide by `coverage()` for the mean over the image's part of each cell.

        Args:
            mask: (image_height, image_width), truth values or numbers.

        Returns:
            (rows, columns); shares of the cell, 0 to 1, for truth values.

        Raises:
            DataError: a mask of another size; it is never resized.
        """
        values = np.asarray(mask)
        if values.shape != (self.image_height, self.image_width):
            raise DataError(
                f"the mask has shape {values.shape}, the image ({self.image_height}, {self.image_width}) "
                "(height, width): give the mask that belongs to this image, at its original size"
            )
        pooled: Floats = self._y.overlap() @ values.astype(np.float64) @ self._x.overlap().T
        return pooled

    def grid_to_image(self, values: ArrayLike, smooth: bool = False) -> Floats:
        """Spread values of the cells over the image's pixels.

        Args:
            values: (rows, columns).
            smooth: bilinear between the cells' centres, constant beyond the outermost; else each pixel gets the value
                of the cell that holds its centre.

        Returns:
            (image_height, image_width); NaN for pixels whose centre a crop cut off.

        Raises:
            DataError: values of another shape than the grid.
        """
        grid = np.asarray(values, np.float64)
        if grid.shape != (self.rows, self.columns):
            raise DataError(f"values of shape {grid.shape} do not fit a grid of {(self.rows, self.columns)} cells")
        row, column = self._y.cell(self._y.centres()), self._x.cell(self._x.centres())
        spread: Floats = _interpolate(grid, self._y, self._x) if smooth else grid[np.ix_(row, column)]
        spread[row < 0, :] = np.nan
        spread[:, column < 0] = np.nan
        return spread


def _interpolate(grid: Floats, y: _Axis, x: _Axis) -> Any:
    above, below, down = y.between()
    left, right, along = x.between()
    lines = grid[above] * (1 - down)[:, None] + grid[below] * down[:, None]
    return lines[:, left] * (1 - along) + lines[:, right] * along
