"""Regions from files that nobody vouches for: as pycocotools reads good ones; what it would crash on is refused."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from agevlm.data.masks import decode_mask, runs_of
from agevlm.errors import DataError

HEIGHT, WIDTH = 4, 5


def runs(mask):
    """Run lengths column by column, by a loop."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@given(st.integers(1, 60), st.integers(1, 60), st.randoms(use_true_random=False), st.sampled_from([0.02, 0.5, 0.98, 1]))
def test_compressed_runs_are_those_of_a_loop(height, width, random, share):
    mask = np.array([[random.random() < share for _ in range(width)] for _ in range(height)])
    made = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs_of(made["counts"]).tolist() == runs(mask)
    for counts in (made["counts"], made["counts"].decode(), runs(mask)):
        found = decode_mask({"size": [height, width], "counts": counts}, height, width)
        assert np.array_equal(found, mask)


def test_a_large_mask_whose_runs_have_many_digits():
    mask = np.zeros((2000, 3000), bool)
    mask[500:1500, 700:2900] = True
    mask[7, 9] = True
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert runs_of(counts).tolist() == runs(mask)


@pytest.mark.parametrize(
    "counts",
    [
        "1",
        "",
        "04",
        "P",
        "0P",
        "04P",
        "~~~",
        "0\0",
        "ü",
        "oooooooooooooooo0",
        "0O",
        [20, -5, 5],
        [19],
        [1.5] * 2,
        None,
        3,
    ],
)
def test_counts_that_are_not_of_the_image_are_refused(counts):
    with pytest.raises(DataError, match="segmentation: expected COCO's polygons or RLE"):
        decode_mask({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "polygon",
    [
        [0, 0, 4, 0, 4],
        [0, 0, 4, 0],
        [0, 0, 4, 0, 4, float("nan")],
        [0, 0, 4, 0, 4, float("inf")],
        [0, 0, 4, 0, 4, 1e17],
        [0, 0, 4, 0, 4, 51],
        [[0, 0, 4, 0, 4, "3"]],
        [[0, 0, 4, 0, 4, None]],
    ],
)
def test_polygons_that_are_none_or_far_away_are_refused(polygon):
    with pytest.raises(DataError):
        decode_mask(polygon, HEIGHT, WIDTH)
    assert decode_mask([-3, -3, 9, -3, 9, 9, -3, 9], HEIGHT, WIDTH).all()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)
COUNTS = st.text(st.characters(min_codepoint=45, max_codepoint=115), max_size=12) | st.lists(st.integers(-5, 30))
RLE = st.fixed_dictionaries({"size": st.just([HEIGHT, WIDTH]) | ANYTHING, "counts": COUNTS | ANYTHING})
POLYGON = st.lists(st.floats() | st.integers(-(10**9), 10**9), min_size=6, max_size=8)


@settings(max_examples=1500, deadline=None)
@given(ANYTHING | RLE | st.lists(RLE | POLYGON | ANYTHING, max_size=3))
def anything(segmentation):
    try:
        found = decode_mask(segmentation, HEIGHT, WIDTH)
    except DataError:
        return
    assert found.shape == (HEIGHT, WIDTH)
    assert np.array_equal(found, decode_mask(segmentation, HEIGHT, WIDTH))


def test_whatever_is_given_is_a_mask_or_bad_data():
    """In a process of its own: pycocotools ends it where it reads or writes what is not its own."""
    child = multiprocessing.get_context("fork").Process(target=anything)
    child.start()
    child.join()
    assert child.exitcode == 0
