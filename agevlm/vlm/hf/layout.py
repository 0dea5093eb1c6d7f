"""Where a model's visual tokens lie in the image, and attention to tokens as attention to cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from agevlm.geometry import Geometry

Floats = NDArray[np.float32]


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

    def fold(self, attention: Floats) -> tuple[Floats, Floats]:
        """Attention to visual tokens as attention to cells.

        Args:
            attention: (..., visual tokens).

        Returns:
            (..., rows, columns), and (...) what lies on tokens without a place.
        """
        flat = attention.reshape(-1, attention.shape[-1])
        cells = np.asarray(self.spread @ flat.T).T.astype(np.float32, copy=False)
        placed = np.asarray(self.spread.sum(0)).ravel() > 0
        shape = attention.shape[:-1]
        return (
            cells.reshape(*shape, self.geometry.rows, self.geometry.columns),
            flat[:, ~placed].sum(-1).reshape(shape).astype(np.float32, copy=False),
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
