"""Numbers of attention maps against their definitions, on cases where the answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.geometry import Geometry
from analysis.linkage.signals import MAPS, SIGNALS, of_layers, of_map

WIDE = Geometry.letterbox((96, 64), (96, 96), (6, 6))


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Coverage, and the share of each cell of an object off the diagonal."""
    mask = np.zeros((64, 96), bool)
    mask[:20, 40:90] = True
    return WIDE.coverage(), WIDE.mask_to_grid(mask)


def test_a_flat_map_of_the_image_is_chance() -> None:
    coverage, mask = planted()
    found = of_map(coverage, 0.0, coverage, mask, mask)
    assert found["in_mask"] == pytest.approx(20 * 50 / (64 * 96)) == found["on_objects"]
    assert found["lift"] == pytest.approx(1)
    assert found["on_padding"] == pytest.approx(0.0)
    # Rows that the image covers by two thirds make the map less than flat over cells.
    even = np.ones((6, 6))
    assert of_map(even / 36, 0.0, even, even / 2, None)["entropy"] == pytest.approx(1)
    assert of_map(even / 36, 0.0, even, even / 2, None)["peak"] == pytest.approx(1)


def test_padding_and_tokens_without_a_place_are_told_apart() -> None:
    coverage, mask = planted()
    flat = np.full((6, 6), 1 / 36)
    found = of_map(flat, 0.0, coverage, mask, None)
    assert found["on_padding"] == pytest.approx(1 / 3)
    assert found["on_image"] == pytest.approx(2 / 3)
    assert of_map(flat / 2, 0.5, coverage, mask, None)["on_padding"] == pytest.approx(1 / 6)
    assert math.isnan(found["on_objects"])


def test_a_map_on_the_object_lies_on_it_and_a_turned_one_does_not() -> None:
    coverage, mask = planted()
    inside = (mask == 1).astype(float)
    assert inside.sum() > 0
    assert of_map(inside, 0.0, coverage, mask, None)["in_mask"] == pytest.approx(1)
    assert of_map(inside.T, 0.0, coverage, mask, None)["in_mask"] < 0.6
    assert of_map(inside[::-1], 0.0, coverage, mask, None)["in_mask"] == 0


def test_one_cell_is_the_least_entropy_and_the_largest_peak() -> None:
    coverage, mask = planted()
    one = np.zeros((6, 6))
    one[2, 3] = 1
    found = of_map(one, 0.0, coverage, mask, None)
    assert found["entropy"] == 0
    assert found["peak"] == (coverage > 0).sum()


def test_what_is_not_defined_is_no_number() -> None:
    coverage, _ = planted()
    found = of_map(np.zeros((6, 6)), 0.0, coverage, None, None)
    assert found.pop("on_image") == 0
    assert all(math.isnan(v) for v in found.values())
    found = of_map(coverage, 0.0, coverage, np.zeros((6, 6)), None)
    assert math.isnan(found["in_mask"])
    assert math.isnan(found["lift"])


@given(st.integers(0, 10_000))
def test_ranges_and_longhand(seed: int) -> None:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(36)).reshape(6, 6)
    coverage, mask = planted()
    found = of_map(p, 0.0, coverage, mask, mask)
    total = sum(p[r, c] * coverage[r, c] for r in range(6) for c in range(6))
    inside = sum(p[r, c] * mask[r, c] for r in range(6) for c in range(6))
    assert found["in_mask"] == pytest.approx(inside / total)
    shares = [p[r, c] * coverage[r, c] / total for r in range(6) for c in range(6) if coverage[r, c] > 0]
    assert found["entropy"] == pytest.approx(-sum(q * math.log(q) for q in shares) / math.log(len(shares)))
    assert found["on_image"] + found["on_padding"] == pytest.approx(1)
    assert 0 <= found["entropy"] <= 1 <= found["peak"] <= 36


def test_layers_come_in_order_and_their_mean_map_last() -> None:
    coverage, mask = planted()
    maps = np.random.default_rng(0).dirichlet(np.ones(36), 3).reshape(3, 6, 6)
    found = of_layers(maps, np.zeros(3), coverage, mask, None)
    assert set(found) == set(MAPS)
    assert found["entropy"][1] == of_map(maps[1], 0.0, coverage, mask, None)["entropy"]
    assert found["entropy"][3] == of_map(maps.mean(0), 0.0, coverage, mask, None)["entropy"]
    assert found["entropy"][3] > max(found["entropy"][:3])  # not the mean of the layers' entropies


def test_columns_are_unique() -> None:
    assert len({s.column for s in SIGNALS}) == len(SIGNALS)
