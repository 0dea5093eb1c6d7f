"""Several views of one image in a layout, against longhand; no model."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agevlm.geometry import Geometry
from agevlm.vlm.hf.layout import Layout, View, row_by_row, tile_by_tile


@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from(["letterbox", "squash", "crop"]),
)
def test_a_token_of_another_view_is_spread_by_area(size, fine, coarse, mode):
    finest = getattr(Geometry, mode)(size, (60, 48), fine)
    whole = Geometry.squash(size, (36, 36), coarse)
    cells, tokens = fine[0] * fine[1], coarse[0] * coarse[1]
    views = View(finest, row_by_row(*fine)), [View(whole, row_by_row(*coarse, first=cells))]
    layout = Layout.of(*views, cells + tokens + 1)
    found = layout.spread.toarray()
    assert (found[:, :cells] == np.eye(cells)).all()
    assert not found[:, -1].any()

    def shared(a, b):
        across, down = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
        return max(0.0, across) * max(0.0, down)

    for token in range(tokens):
        box = whole.cell_box(*divmod(token, coarse[1]))
        areas = np.array([shared(box, finest.cell_box(*divmod(cell, fine[1]))) for cell in range(cells)])
        expected = areas / areas.sum() if areas.sum() > 1e-4 else areas
        np.testing.assert_allclose(found[:, cells + token], expected, atol=1e-3)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5), st.integers(0, 3))
def test_tokens_are_numbered_tile_by_tile(down, across, rows, columns, first, more):
    found = tile_by_tile((down, across), (rows, columns), first=first, stride=rows * columns + more)
    assert found.shape == (down * rows, across * columns)
    number = 0
    for tile_row in range(down):
        for tile_column in range(across):
            for row in range(rows):
                for column in range(columns):
                    place = tile_row * rows + row, tile_column * columns + column
                    assert found[place] == first + number + row * columns + column
            number += rows * columns + more
