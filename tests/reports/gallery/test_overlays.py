"""Overlays against what they are of: a map with one hot cell, a mask that pycocotools decodes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from agevlm.data.masks import encode_mask
from agevlm.geometry import Geometry
from reports.gallery.overlays import MAP_SIDE, OUTLINE_SIDE, map_png, outline_png

BRIGHT, NOTHING = (25, 227, 255), 0


def pixels(png: bytes) -> np.ndarray:
    """(height, width, RGBA)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def brightest(png: bytes) -> tuple[float, float, tuple[int, int]]:
    """Mean place of the most opaque pixels, x and y as shares of the whole."""
    shown = pixels(png)
    rows, columns = np.nonzero(shown[..., 3] == shown[..., 3].max())
    height, width = shown.shape[:2]
    return (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height, (width, height)


@pytest.mark.parametrize(("row", "column"), [(3, 1), (5, 7), (8, 10), (4, 0), (6, 11)])
def test_a_hot_cell_of_a_padded_grid_lies_where_it_looks(row, column):
    # 400 x 200 in a square of 96: scale 0.24, 48 pixels high, 24 of padding above; cells of 8 x 8 input pixels.
    geometry = Geometry.letterbox((400, 200), (96, 96), (12, 12))
    heat = np.full((12, 12), 0.01)
    heat[row, column] = 0.9
    x, y = (column * 8 + 4) / 0.24 / 400, (row * 8 + 4 - 24) / 0.24 / 200
    found = brightest(map_png(heat, geometry))
    assert found[2] == (MAP_SIDE, MAP_SIDE // 2)
    # Beyond the outermost centres the map is constant: there the brightest place is half a cell, not its centre.
    assert found[0] == pytest.approx(x, abs=0.01 if 0 < column < 11 else 0.03)
    assert found[1] == pytest.approx(y, abs=0.02)


def test_attention_to_padding_is_cut_away():
    geometry = Geometry.letterbox((400, 200), (96, 96), (12, 12))
    heat = np.zeros((12, 12))
    heat[0, 5] = 1.0
    assert len(np.unique(pixels(map_png(heat, geometry))[..., 3])) == 1, "as faint as everything else"


def test_what_a_crop_cut_off_is_transparent():
    geometry = Geometry.crop((400, 200), (96, 96), (12, 12))
    heat = np.ones((12, 12))
    opacity = pixels(map_png(heat, geometry))[..., 3]
    # The middle 200 of 400 pixels are seen.
    assert not opacity[:, : MAP_SIDE // 4].any()
    assert not opacity[:, -(MAP_SIDE // 4) :].any()
    assert (opacity[:, MAP_SIDE // 4 : -(MAP_SIDE // 4)] > 150).all()


@given(
    width=st.integers(2, 1000),
    height=st.integers(2, 1000),
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    data=st.data(),
)
def test_any_view_makes_a_map_of_the_image_s_shape(width, height, rows, columns, data):
    make = data.draw(st.sampled_from([Geometry.letterbox, Geometry.crop, Geometry.squash]))
    if max(width, height) > 200 * min(width, height):
        width = height
    geometry = make((width, height), (96, 96), (rows, columns))
    peak = data.draw(st.floats(0, 1))
    heat = np.zeros((rows, columns))
    heat[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))] = peak
    shown = pixels(map_png(heat, geometry))
    assert max(shown.shape[:2]) == MAP_SIDE
    assert min(shown.shape[:2]) == max(1, round(MAP_SIDE * min(width, height) / max(width, height)))
    assert (shown.shape[0] <= shown.shape[1]) or height >= width


def test_a_resized_view_is_the_same_view():
    geometry = Geometry.letterbox((400, 200), (96, 96), (12, 12))
    small = geometry.resized(40, 20)
    assert small.coverage() == pytest.approx(geometry.coverage())
    assert small.cell_box(4, 3) == pytest.approx([v / 10 for v in geometry.cell_box(4, 3)])
    assert replace(small, image_width=400, image_height=200, scale_x=0.24, scale_y=0.24) == geometry


def blob(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    mask = ((x - width * 0.3) / (width * 0.2)) ** 2 + ((y - height * 0.6) / (height * 0.3)) ** 2 < 1
    mask[: height // 8, -width // 6 :] = True  # touches two edges
    return mask


def test_the_outline_is_the_edge_of_the_decoded_mask():
    mask = blob(OUTLINE_SIDE, 160)
    counts = encode_mask(mask)
    decoded = coco.decode({"size": [160, OUTLINE_SIDE], "counts": counts}).astype(bool)
    shown = pixels(outline_png(decoded))
    assert shown.shape[:2] == decoded.shape
    for y in range(160):
        for x in range(OUTLINE_SIDE):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [0 <= b < 160 and 0 <= a < OUTLINE_SIDE and bool(decoded[b, a]) for b, a in around]
            if decoded[y, x]:
                line = not all(inside)
                assert (shown[y, x, 3] == 255) == line
                assert not line or tuple(shown[y, x, :3]) == BRIGHT
                assert line or shown[y, x, 3] == NOTHING
            else:
                assert (shown[y, x, 3] == 150) == any(inside)


def test_a_large_mask_is_outlined_in_small():
    mask = blob(1200, 800)
    shown = pixels(outline_png(mask))
    assert shown.shape[:2] == (160, OUTLINE_SIDE)
    lines = np.argwhere(shown[..., 3] == 255)
    assert len(lines) > 100
    for y, x in lines:
        near = mask[max(0, 5 * y - 5) : 5 * y + 10, max(0, 5 * x - 5) : 5 * x + 10]
        at_edge = y in (0, 159) or x in (0, OUTLINE_SIDE - 1)
        assert near.any()
        assert at_edge or not near.all()


def test_the_smallest_mask_is_seen():
    mask = np.zeros((2000, 3000), np.bool_)
    mask[700, 900] = True
    rows, columns = np.nonzero(pixels(outline_png(mask))[..., 3] == 255)
    assert (rows.tolist(), columns.tolist()) == ([700 * 160 // 2000], [900 * OUTLINE_SIDE // 3000])
