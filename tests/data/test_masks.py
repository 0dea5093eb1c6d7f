"""Regions in COCO's form against pycocotools and counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from agevlm.data.masks import box_of, decode_mask, encode_mask, mask_iou, rle_area, rle_box, rle_mask, union_of
from agevlm.errors import DataError

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda size: arrays(np.bool_, size))


def run_lengths(mask):
    """COCO's definition, longhand: runs down the columns, the first of what is not the region."""
    counts, value, run = [], False, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return [*counts, run]


@given(MASKS)
def test_what_is_encoded_is_decoded_and_is_coco_s_own_form(mask):
    height, width = mask.shape
    counts = encode_mask(mask)
    assert counts == coco.frPyObjects({"size": [height, width], "counts": run_lengths(mask)}, height, width)["counts"]
    for form in (counts, counts.decode(), run_lengths(mask)):
        found = decode_mask({"size": [height, width], "counts": form}, height, width)
        assert found.dtype == np.bool_
        assert np.array_equal(found, mask)


def test_several_parts_are_united_and_a_single_polygon_needs_no_list():
    square = [1, 1, 5, 1, 5, 4, 1, 4]
    other = {"size": [6, 8], "counts": encode_mask(np.eye(6, 8, dtype=bool))}
    expected = coco.decode(coco.frPyObjects([square], 6, 8))[..., 0].astype(bool)
    assert expected.sum() == 12
    assert np.array_equal(decode_mask([square], 6, 8), expected)
    assert np.array_equal(decode_mask(square, 6, 8), expected)
    assert np.array_equal(decode_mask([square, other], 6, 8), expected | np.eye(6, 8, dtype=bool))
    assert not decode_mask([], 6, 8).any()


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ({"size": [6, 7], "counts": "0"}, r"size \[6, 7\], but the image is \[6, 8\]"),
        ({"size": [6, 8], "counts": [3, 4]}, "of 7 pixels, not of 48"),
        ({"size": [6, 8], "counts": encode_mask(np.ones((9, 9), bool))}, "polygons or RLE"),
        ({"size": [6, 8]}, "polygons or RLE"),
        ([[1, 2, 3, 4]], "three points or more"),
        ("polygon", "three points or more"),
        (None, "three points or more"),
    ],
)
def test_other_forms_and_sizes_are_refused(segmentation, says):
    with pytest.raises(DataError, match=says):
        decode_mask(segmentation, 6, 8)


@given(MASKS)
def test_box_around_a_mask_is_coco_s(mask):
    x0, y0, x1, y1 = box_of(mask)
    x, y, width, height = coco.toBbox({"size": list(mask.shape), "counts": encode_mask(mask)})
    assert (x1 - x0, y1 - y0) == (width, height)
    if mask.any():
        assert (x0, y0) == (x, y)


@given(MASKS, st.randoms(use_true_random=False))
def test_iou_is_coco_s_and_counted(one, draw):
    other = np.array([[draw.random() < 0.5 for _ in row] for row in one]).reshape(one.shape)
    found = mask_iou(one, other)
    if one.any() or other.any():
        assert found == pytest.approx(sum((one & other).ravel()) / sum((one | other).ravel()))
    else:
        assert found == 1.0
    if one.any() and other.any():
        forms = [{"size": list(m.shape), "counts": encode_mask(m)} for m in (one, other)]
        assert found == pytest.approx(float(coco.iou(forms[:1], forms[1:], [0])[0, 0]))
    assert np.array_equal(union_of([one, other], *one.shape), one | other)
    assert not union_of([], 3, 4).any()


@given(MASKS)
def test_run_lengths_say_what_their_mask_does(mask):
    counts = encode_mask(mask)
    assert np.array_equal(rle_mask(counts, mask.shape), mask)
    assert rle_area(counts, mask.shape) == mask.sum()
    assert rle_box(counts, mask.shape) == box_of(mask)
