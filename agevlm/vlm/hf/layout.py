"""Where a model's visual tokens lie in the image, and attention to tokens as attention to cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, kron

from agevlm.geometry import Geometry

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """One grid of visual tokens on the image: its mosaic of tiles, or the whole of it in one tile."""

    geometry: Geometry
    tokens: NDArray[np.int64]
    """(rows, columns): which visual token stands for each cell."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The visual tokens of one image, in the order of the sequence, and the cells of the finest grid they stand for."""

    geometry: Geometry
    """Of the finest grid: the image itself, or the mosaic of its tiles."""
    spread: csr_array
    """(cells, visual tokens): which share of a token's attention belongs to which cell, row by row; columns sum to 1,
    or to 0 for tokens that stand for no place (class tokens, row marks)."""

    @classmethod
    def plain(cls, geometry: Geometry, tokens: int, first: int = 0) -> Layout:
        """One token a cell, row by row, from the `first` token on; the rest has no place.

        Raises:
            ValueError: fewer tokens than that.
        """
        cells = geometry.rows * geometry.columns
        if tokens < first + cells:
            raise ValueError(
                f"{tokens} visual tokens, but a grid of {geometry.rows} x {geometry.columns} needs {first + cells}"
            )
        places = np.arange(cells)
        return cls(geometry, csr_array((np.ones(cells, np.float32), (places, first + places)), shape=(cells, tokens)))

    @classmethod
    def of(cls, finest: View, others: Sequence[View], tokens: int) -> Layout:
        """Several views of one image: a token of another view is spread over the cells of the finest by area.

        Args:
            finest: whose cells are those of the layout.
            others: further views of the same image.
            tokens: how many visual tokens there are; those in no view have no place.
        """
        spread = coo_array((finest.geometry.rows * finest.geometry.columns, tokens), dtype=np.float32)
        for view in (finest, *others):
            rows, columns = finest.geometry.holding(view.geometry)
            share = coo_array(kron(csr_array(rows), csr_array(columns)))
            row, column = share.coords
            spread += csr_array((share.data.astype(np.float32), (row, view.tokens.ravel()[column])), spread.shape)
        return cls(finest.geometry, csr_array(spread))

    @property
    def placed(self) -> NDArray[np.bool_]:
        """(visual tokens,): which stand for a place in the image."""
        return np.asarray(np.asarray(self.spread.sum(0)).ravel() > 0)

    def fold(self, attention: Floats) -> tuple[Floats, Floats]:
        """Attention to visual tokens as attention to cells.

        Args:
            attention: (..., visual tokens).

        Returns:
            (..., rows, columns), and (...) what lies on tokens without a place.
        """
        flat = attention.reshape(-1, attention.shape[-1])
        cells = np.asarray(self.spread @ flat.T).T.astype(np.float32, copy=False)
        shape = attention.shape[:-1]
        return (
            cells.reshape(*shape, self.geometry.rows, self.geometry.columns),
            flat[:, ~self.placed].sum(-1).reshape(shape).astype(np.float32, copy=False),
        )

    def tokens_of(self, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Visual tokens of which at least half lies on the given cells.

        Args:
            cells: (rows, columns).

        Returns:
            (visual tokens,); never True for tokens without a place.
        """
        share = np.asarray(cells.ravel().astype(np.float32) @ self.spread)
        return np.asarray(share >= 0.5)


def row_by_row(rows: int, columns: int, first: int = 0, stride: int | None = None) -> NDArray[np.int64]:
    """(rows, columns): numbers row by row from `first` on, `stride` from row to row (by default `columns`)."""
    step = columns if stride is None else stride
    return first + step * np.arange(rows)[:, None] + np.arange(columns)


def tile_by_tile(
    tiles: tuple[int, int], grid: tuple[int, int], first: int = 0, stride: int | None = None
) -> NDArray[np.int64]:
    """Tokens numbered tile by tile, inside each row by row, at their places in the mosaic.

    Args:
        tiles: (rows, columns) of tiles.
        grid: (rows, columns) of tokens in a tile.
        first: number of the first tile's first token.
        stride: tokens from one tile's first to the next one's; by default all of a tile.

    Returns:
        (rows of tiles x rows, columns of tiles x columns).
    """
    (down, across), (rows, columns) = tiles, grid
    starts = row_by_row(down, across, 0) * (rows * columns if stride is None else stride)
    inside = row_by_row(rows, columns, first)
    return (starts[:, None, :, None] + inside[:, None, :]).reshape(down * rows, across * columns)
