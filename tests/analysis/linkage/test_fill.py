"""Painted regions: what is outside stays, what is inside continues it."""

import numpy as np
import pytest

from analysis.linkage.fill import FILLS, diffusion_fill, surround_fill


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def region() -> np.ndarray:
    hidden = np.zeros((30, 40), bool)
    hidden[5:14, 8:20] = True
    hidden[20:30, 30:40] = True  # to the edge
    return hidden


@pytest.mark.parametrize("name", FILLS)
def test_what_is_visible_stays_and_what_is_hidden_plays_no_part(name: str) -> None:
    image, hidden = noise(), region()
    filled = FILLS[name](image, hidden)
    assert (filled[~hidden] == image[~hidden]).all()
    assert (filled[hidden] != image[hidden]).mean() > 0.9
    other = image.copy()
    other[hidden] = noise(1)[hidden]
    assert (FILLS[name](other, hidden) == filled).all()
    assert (FILLS[name](image, np.zeros_like(hidden)) == image).all()
    with pytest.raises(ValueError, match="whole image"):
        FILLS[name](image, np.ones_like(hidden))


def test_the_surround_of_each_region_is_its_own() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, :24] = (200, 10, 30)
    image[:, 24:] = (0, 90, 250)
    filled = surround_fill(image, region())
    assert (filled[6, 10] == (200, 10, 30)).all()
    assert (filled[25, 35] == (0, 90, 250)).all()


def test_diffusion_continues_a_plane() -> None:
    y, x = np.mgrid[:30, :40]
    image = np.stack([3 * x + 2 * y, 5 * x, 200 - 4 * y], -1).astype(np.uint8)
    hidden = np.zeros((30, 40), bool)
    hidden[5:14, 8:20] = True
    assert (diffusion_fill(image, hidden) == image).all()


def test_diffusion_is_what_repeated_averaging_ends_in() -> None:
    image, hidden = noise(), region()
    values = image.astype(float)
    values[hidden] = 128
    for _ in range(4000):
        padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
        there = np.pad(np.ones((30, 40, 1)), ((1, 1), (1, 1), (0, 0)))
        shifts = [(slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)), (slice(1, -1), slice(0, -2)),
                  (slice(1, -1), slice(2, None))]  # fmt: skip
        mean = sum(padded[s] for s in shifts) / sum(there[s] for s in shifts)
        values[hidden] = mean[hidden]
    assert np.abs(diffusion_fill(image, hidden)[hidden] - values[hidden]).max() <= 0.51
