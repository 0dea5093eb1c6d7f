"""Geometry against longhand: exact fractions, rectangle by rectangle, written without looking at the module."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError
from agevlm.geometry import Geometry, check_size

MODES = {"letterbox": Geometry.letterbox, "squash": Geometry.squash, "crop": Geometry.crop}
modes = st.sampled_from(sorted(MODES))
sides = st.integers(2, 300)
grids = st.tuples(st.integers(1, 5), st.integers(1, 5))


def placement(mode, size, input_size):
    """Scale and offset along x and y as exact fractions."""
    ratios = [Fraction(inside, outside) for inside, outside in zip(input_size, size, strict=True)]
    if mode == "squash":
        return ratios, [Fraction(0), Fraction(0)]
    if mode == "crop":
        scale = max(ratios)
        return [scale, scale], [(s - scale * n) / 2 for s, n in zip(input_size, size, strict=True)]
    # Rounded as a float, so that an exact half falls where a resizer's arithmetic puts it.
    new = [max(1, round(float(min(ratios)) * n)) for n in size]
    return [Fraction(m, n) for m, n in zip(new, size, strict=True)], [
        Fraction((s - m) // 2) for s, m in zip(input_size, new, strict=True)
    ]


def pooled_longhand(mask, mode, input_size, grid):
    """Mean over each cell: every pixel's rectangle against every cell's."""
    height, width = mask.shape
    scale, offset = placement(mode, (width, height), input_size)
    cell = [Fraction(input_size[0], grid[1]), Fraction(input_size[1], grid[0])]

    def shared(axis, pixel, index):
        low = max(offset[axis] + pixel * scale[axis], index * cell[axis])
        return max(Fraction(0), min(offset[axis] + (pixel + 1) * scale[axis], (index + 1) * cell[axis]) - low)

    pooled = np.zeros(grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            area = sum(
                shared(0, x, column) * shared(1, y, row) * Fraction(float(mask[y, x]))
                for y in range(height)
                for x in range(width)
                if mask[y, x]
            )
            pooled[row, column] = float(area / (cell[0] * cell[1]))
    return pooled


@given(modes, st.integers(2, 12), st.integers(2, 12), st.integers(3, 20), st.integers(3, 20), grids, st.integers(0, 9))
def test_masks_are_pooled_by_exact_area(mode, width, height, input_width, input_height, grid, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    mask[0, -1] = True
    geometry = MODES[mode]((width, height), (input_width, input_height), grid)
    expected = pooled_longhand(mask, mode, (input_width, input_height), grid)
    np.testing.assert_allclose(geometry.mask_to_grid(mask), expected, atol=1e-9)


def test_float_masks_are_pooled_as_they_are():
    mask = np.random.default_rng(0).normal(size=(7, 11))
    expected = pooled_longhand(mask, "crop", (9, 6), (2, 4))
    np.testing.assert_allclose(Geometry.crop((11, 7), (9, 6), (2, 4)).mask_to_grid(mask), expected, atol=1e-9)


def test_pooling_equals_adaptive_average_pooling_of_the_letterboxed_mask():
    mask = np.random.default_rng(1).random((24, 48)) < 0.5
    letterboxed = np.pad(np.kron(mask, np.ones((2, 2))), ((24, 24), (0, 0)))
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(letterboxed)[None], (6, 6))[0].numpy()
    np.testing.assert_allclose(Geometry.letterbox((48, 24), (96, 96), (6, 6)).mask_to_grid(mask), expected, atol=1e-12)


@given(modes, st.sampled_from(sorted({"letterbox", "squash", "crop"})), sides, sides, grids, grids)
def test_cells_of_another_view_are_shared_out_by_area(mode, other_mode, width, height, grid, other_grid):
    geometry = MODES[mode]((width, height), (96, 64), grid)
    other = MODES[other_mode]((width, height), (48, 72), other_grid)
    rows, columns = geometry.holding(other)
    assert (rows.shape, columns.shape) == ((grid[0], other_grid[0]), (grid[1], other_grid[1]))
    for share, edge, count in ((rows, 1, other_grid[0]), (columns, 0, other_grid[1])):
        for index in range(count):
            low, high = (other.cell_box(*((index, 0) if edge else (0, index)))[k] for k in (edge, edge + 2))
            cells = [
                geometry.cell_box(*((n, 0) if edge else (0, n)))[edge::2] for n in range(grid[0] if edge else grid[1])
            ]
            inside = np.array([max(0.0, min(high, end) - max(low, start)) for start, end in cells])
            if inside.sum() > 1e-4 * (high - low):
                np.testing.assert_allclose(share[:, index], inside / inside.sum(), atol=1e-2)
                assert share[:, index].sum() == pytest.approx(1)


def test_a_view_in_itself_is_the_identity():
    geometry = Geometry.letterbox((101, 37), (56, 56), (4, 3))
    rows, columns = geometry.holding(geometry)
    assert (rows == np.eye(4)).all()
    assert (columns == np.eye(3)).all()
    with pytest.raises(ValueError, match=r"views of images of \(101, 37\) and \(37, 101\) pixels"):
        geometry.holding(Geometry.letterbox((37, 101), (56, 56), (4, 3)))


def test_an_image_put_onto_a_box_lies_there():
    geometry = Geometry.onto((100, 50), (10, -4, 60, 21), (64, 32), (4, 8))
    assert geometry.to_input(0, 0) == (10, -4)
    assert geometry.to_input(100, 50) == (60, 21)
    assert geometry.input_box == (10, 0, 60, 21)
    assert geometry.seen_box == (0, 8, 100, 50)
    assert geometry.coverage()[0].tolist() == [0, 0.75, 1, 1, 1, 1, 1, 0.5]
    assert Geometry.onto((90, 40), (0, 0, 64, 32), (64, 32), (4, 8)) == Geometry.squash((90, 40), (64, 32), (4, 8))
    with pytest.raises(DataError, match="a side is under 2 pixels"):
        Geometry.onto((1, 50), (0, 0, 10, 10), (64, 32), (4, 8))


def test_rows_go_down_and_columns_to_the_right():
    mask = np.zeros((40, 90))
    mask[0:10, 60:90] = 1
    geometry = Geometry.squash((90, 40), (90, 40), (4, 3))
    assert np.argwhere(geometry.mask_to_grid(mask)).tolist() == [[0, 2]]
    assert geometry.cell_of(75, 5) == (0, 2)
    assert geometry.cell_box(0, 2) == (60, 0, 90, 10)
    assert geometry.cell_box(3, 0) == (0, 30, 30, 40)


@given(modes, sides, sides, grids)
def test_coverage_is_the_pooled_mask_of_ones(mode, width, height, grid):
    geometry = MODES[mode]((width, height), (60, 48), grid)
    np.testing.assert_allclose(geometry.coverage(), geometry.mask_to_grid(np.ones((height, width))), atol=1e-9)
    assert geometry.coverage().max() <= 1
    if mode != "letterbox":
        assert (geometry.coverage() == 1).all()


def test_coverage_of_a_letterboxed_wide_image():
    # 64 x 16 in 64 x 64: rows 24 to 40, which are half of the second and half of the third row of cells.
    geometry = Geometry.letterbox((128, 32), (64, 64), (4, 2))
    assert geometry.coverage().tolist() == [[0, 0], [0.5, 0.5], [0.5, 0.5], [0, 0]]


@given(modes, sides, sides)
def test_the_map_agrees_with_exact_fractions_and_with_its_inverse(mode, width, height):
    geometry = MODES[mode]((width, height), (96, 64), (2, 3))
    scale, offset = placement(mode, (width, height), (96, 64))
    for x, y in [(0, 0), (width, height), (width / 3, 0.25)]:
        u, v = geometry.to_input(x, y)
        assert (u, v) == pytest.approx(
            (float(offset[0] + scale[0] * Fraction(x)), float(offset[1] + scale[1] * Fraction(y))), abs=1e-9
        )
        assert geometry.to_image(u, v) == pytest.approx((x, y), abs=1e-9)


@given(modes, sides, sides)
def test_the_boxes_map_onto_each_other_and_stay_inside(mode, width, height):
    geometry = MODES[mode]((width, height), (96, 64), (2, 3))
    x0, y0, x1, y1 = geometry.seen_box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert geometry.to_input(x0, y0) + geometry.to_input(x1, y1) == pytest.approx(geometry.input_box, abs=1e-5)
    if mode == "crop":
        assert geometry.input_box == (0, 0, 96, 64)
        assert geometry.scale_x == geometry.scale_y
        assert (x0 + x1, y0 + y1) == pytest.approx((width, height))
    else:
        assert geometry.seen_box == (0, 0, width, height)
    if mode == "letterbox":
        left, top, right, bottom = geometry.input_box
        assert (96 - right) - left in (0, 1)
        assert (64 - bottom) - top in (0, 1)
        assert right - left == 96 or bottom - top == 64


@given(modes, sides, sides, grids, st.data())
def test_a_point_lies_in_the_box_of_its_cell(mode, width, height, grid, data):
    geometry = MODES[mode]((width, height), (96, 64), grid)
    x, y = data.draw(st.floats(-5, width + 5)), data.draw(st.floats(-5, height + 5))
    cell = geometry.cell_of(x, y)
    low_x, low_y, high_x, high_y = geometry.seen_box
    assert (cell is not None) == (low_x <= x < high_x and low_y <= y < high_y)
    if cell is not None:
        x0, y0, x1, y1 = geometry.cell_box(*cell)
        assert x0 - 1e-6 <= x <= x1 + 1e-6
        assert y0 - 1e-6 <= y <= y1 + 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_the_last_point_before_the_edge_still_has_a_cell(mode):
    for side in range(2, 300):
        geometry = MODES[mode]((side, side), (768, 768), (24, 24))
        last = np.nextafter(side, 0)
        assert geometry.cell_of(last, last) == (23, 23)
        assert geometry.cell_of(side, 0) is None
        assert geometry.cell_of(0, -1e-9) is None


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_cells_outside_the_grid_have_no_box(cell):
    with pytest.raises(IndexError, match="no cell"):
        Geometry.squash((10, 10), (12, 12), (2, 3)).cell_box(*cell)


@given(modes, sides, sides, grids)
def test_each_pixel_shows_the_value_of_its_cell(mode, width, height, grid):
    geometry = MODES[mode]((width, height), (96, 64), grid)
    values = np.random.default_rng(0).random(grid)
    spread = geometry.grid_to_image(values)
    assert spread.shape == (height, width)
    for y in {0, height // 3, height - 1}:
        for x in {0, width // 3, width - 1}:
            cell = geometry.cell_of(x + 0.5, y + 0.5)
            assert np.isnan(spread[y, x]) if cell is None else spread[y, x] == values[cell]


def test_a_planted_object_comes_back_where_it_was():
    geometry = Geometry.letterbox((300, 200), (96, 96), (6, 6))
    x0, y0, x1, y1 = (round(edge) for edge in geometry.cell_box(2, 4))
    planted = np.zeros((200, 300), bool)
    planted[y0:y1, x0:x1] = True
    grid = geometry.mask_to_grid(planted)
    assert grid[2, 4] == pytest.approx(1)
    assert grid.sum() == pytest.approx(1)
    np.testing.assert_array_equal(geometry.grid_to_image(grid) > 0.5, planted)
    smooth = geometry.grid_to_image(grid, smooth=True)
    assert np.unravel_index(smooth.argmax(), smooth.shape) in [
        (y, x)
        for y in range(y0, y1)
        for x in range(x0, x1)
        if abs(y - (y0 + y1) / 2) < 2 and abs(x - (x0 + x1) / 2) < 2
    ]


def test_a_crop_cuts_pixels_off_and_says_so():
    # Of 300 x 100 the middle 100 columns are seen.
    geometry = Geometry.crop((300, 100), (64, 64), (4, 4))
    for smooth in (False, True):
        lost = np.isnan(geometry.grid_to_image(np.ones((4, 4)), smooth))
        assert lost[:, :100].all()
        assert lost[:, 200:].all()
        assert not lost[:, 100:200].any()
    assert geometry.cell_of(99.9, 50) is None
    assert geometry.cell_of(100, 50) == (2, 0)
    assert geometry.cell_of(199.9, 50) == (2, 3)
    mask = np.zeros((100, 300))
    mask[:, :100] = 1
    assert geometry.mask_to_grid(mask).max() == pytest.approx(0)


def test_smooth_values_are_bilinear_between_centres():
    geometry = Geometry.squash((80, 60), (160, 120), (3, 4))
    row, column = np.mgrid[0:3, 0:4]
    spread = geometry.grid_to_image(10 * row + column, smooth=True)
    # Cells of 20 x 20 image pixels: a plane through their centres, level beyond the outermost.
    y = np.clip((np.arange(60) + 0.5 - 10) / 20, 0, 2)
    x = np.clip((np.arange(80) + 0.5 - 10) / 20, 0, 3)
    np.testing.assert_allclose(spread, 10 * y[:, None] + x[None, :], atol=1e-9)


def test_a_cell_without_a_value_spoils_only_its_neighbourhood():
    values = np.ones((4, 4))
    values[0, 0] = np.nan
    spread = Geometry.squash((40, 40), (64, 64), (4, 4)).grid_to_image(values, smooth=True)
    assert np.isnan(spread[2, 2])
    assert (spread[20:, :] == 1).all()


@pytest.mark.parametrize("shape", [(30, 20), (20, 31), (20, 30, 1), (600,)])
def test_masks_of_another_size_are_refused_naming_both(shape):
    with pytest.raises(DataError) as refused:
        Geometry.letterbox((30, 20), (64, 64), (4, 4)).mask_to_grid(np.ones(shape))
    assert str(shape) in str(refused.value)
    assert "(20, 30)" in str(refused.value)


def test_values_of_another_grid_are_refused():
    with pytest.raises(DataError, match=r"\(3, 2\).*\(2, 3\)"):
        Geometry.letterbox((30, 20), (64, 64), (2, 3)).grid_to_image(np.ones((3, 2)))


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (401, 2), (2, 401)])
@pytest.mark.parametrize("make", [*MODES.values(), lambda size, *_: check_size(*size)])
def test_thin_images_are_refused(make, size):
    with pytest.raises(DataError, match=rf"{size[0]} x {size[1]} .*(under 2|over 200)"):
        make(size, (64, 64), (4, 4))


@pytest.mark.parametrize("make", MODES.values())
def test_the_thinnest_images_still_lie_on_the_input(make):
    for size in [(2, 400), (400, 2), (2, 2)]:
        left, top, right, bottom = make(size, (64, 64), (4, 4)).input_box
        assert 0 <= left < right <= 64
        assert 0 <= top < bottom <= 64
