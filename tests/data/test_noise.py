"""Noise on regions: each kind against its definition, pixel by pixel."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.data.masks import mask_iou
from agevlm.data.noise import KINDS, Noise, distort, resize_mask
from agevlm.errors import DataError


def disc(height=60, width=70, y=30, x=35, radius=12):
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def radius_of(mask):
    return math.sqrt(mask.sum() / math.pi)


def near(mask, length):
    """Longhand: pixels whose distance to one of the mask's is at most so much."""
    points = np.argwhere(mask)
    grid = np.argwhere(np.ones_like(mask))
    apart = np.sqrt(((grid[:, None] - points[None]) ** 2).sum(-1)).min(1)
    return (apart <= length).reshape(mask.shape)


def test_dilation_and_erosion_are_by_distance_to_the_other_kind():
    mask = disc(30, 34, 15, 16, 6)
    mask[:4, :3] = True
    length = 0.4 * radius_of(mask)
    assert np.array_equal(distort(mask, Noise("dilate", 0.4), Random(1)), near(mask, length))
    assert np.array_equal(distort(mask, Noise("erode", 0.4), Random(1)), ~near(~mask, length))
    assert distort(mask, Noise("dilate", 0.4), Random(1)).sum() > mask.sum() > 0
    assert distort(mask, Noise("erode", 0.4), Random(1)).sum() < mask.sum()


def test_the_image_s_border_erodes_nothing():
    everything = np.ones((8, 9), bool)
    assert distort(everything, Noise("erode", 1.0), Random(0)).all()
    half = np.zeros((40, 40), bool)
    half[:, :20] = True
    eroded = distort(half, Noise("erode", 0.2), Random(0))
    assert eroded[:, 0].all()
    assert not eroded[:, 19].any()


def test_a_shift_moves_by_diameters_in_any_direction():
    mask = disc()
    found = [np.argwhere(distort(mask, Noise("shift", 0.5), Random(seed))).mean(0) - (30, 35) for seed in range(40)]
    lengths = np.linalg.norm(found, axis=1)
    assert lengths == pytest.approx(radius_of(mask), abs=0.8)
    assert {(dy > 0, dx > 0) for dy, dx in found} == {(a, b) for a in (True, False) for b in (True, False)}
    moved = distort(mask, Noise("shift", 0.5), Random(3))
    assert moved.sum() == mask.sum()
    assert mask_iou(mask, moved) < 0.5


def test_what_is_shifted_out_of_the_image_is_lost():
    mask = disc(60, 70, 5, 5, 4)
    left = [distort(mask, Noise("shift", 2.0), Random(seed)).sum() for seed in range(30)]
    assert min(left) == 0
    assert max(left) == mask.sum()


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_drop_and_swap_come_as_often_as_they_are_to(level):
    mask, donor = disc(), disc(30, 20, 4, 4, 3)
    drawn = [Random(f"{seed}") for seed in range(2000)]
    dropped = np.mean([distort(mask, Noise("drop", level), draw) is None for draw in drawn])
    assert dropped == pytest.approx(level, abs=0.035)
    drawn = [Random(f"{seed}") for seed in range(400)]
    swapped = [distort(mask, Noise("swap", level), draw, donor) for draw in drawn]
    other = resize_mask(donor, 60, 70)
    assert all(np.array_equal(s, mask) or np.array_equal(s, other) for s in swapped)
    assert np.mean([np.array_equal(s, other) for s in swapped]) == pytest.approx(level, abs=0.08)
    assert np.array_equal(distort(mask, Noise("swap", 1.0), Random(0)), mask)


@given(st.sampled_from(KINDS), st.integers(0, 2**32))
def test_no_noise_changes_nothing_and_the_same_draw_gives_the_same(kind, seed):
    mask = disc(20, 24, 9, 12, 5)
    assert np.array_equal(distort(mask, Noise(kind, 0.0), Random(seed)), mask)
    one, other = (distort(mask, Noise(kind, 0.5), Random(seed), mask.T) for _ in range(2))
    assert (one is None and other is None) or np.array_equal(one, other)


def test_resizing_keeps_the_place():
    mask = disc(60, 80, 15, 60, 10)
    small = resize_mask(mask, 30, 40)
    assert small.shape == (30, 40)
    assert np.argwhere(small).mean(0) == pytest.approx((7.5, 30), abs=0.6)


@pytest.mark.parametrize(
    ("kind", "level", "says"),
    [("blur", 0.5, "unknown"), ("drop", 1.5, "from 0 to 1"), ("erode", -0.1, "level"), ("shift", math.inf, "level")],
)
def test_levels_out_of_range_are_refused(kind, level, says):
    with pytest.raises(DataError, match=says):
        Noise(kind, level)
