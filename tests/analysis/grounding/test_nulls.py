"""Maps and masks that know nothing of an image: each against its definition, longhand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agevlm.geometry import Geometry
from analysis.grounding.nulls import SIGMA, OtherMaps, carried, centre_prior, donors, mean_map, sinks


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry.letterbox((123, 45), (96, 96), (6, 8)),
        Geometry.squash((60, 80), (96, 48), (3, 6)),
        Geometry.crop((200, 90), (96, 96), (6, 6)),
    ],
)
def test_the_centre_prior_is_a_gaussian_over_the_image_whatever_the_grid(geometry):
    x = (np.arange(geometry.image_width) + 0.5) / geometry.image_width
    y = (np.arange(geometry.image_height) + 0.5) / geometry.image_height
    pixels = np.exp(-(((x - 0.5) / SIGMA) ** 2) / 2) * np.exp(-(((y - 0.5) / SIGMA) ** 2) / 2)[:, None]
    theirs = geometry.mask_to_grid(pixels)
    ours = centre_prior(geometry) * geometry.coverage()
    assert ours / ours.sum() == pytest.approx(theirs / theirs.sum(), abs=2e-3)
    assert ours.max() > 1.5 * ours[ours > 0].mean()


def test_the_mean_of_the_others_leaves_the_image_itself_out():
    rng = np.random.default_rng(0)
    own = {name: rng.random((2, 3, 4, 5)) for name in "abc"}
    means, others = {n: mean_map([m, 2 * m]) for n, m in own.items()}, OtherMaps()
    for mean in means.values():
        others.add(mean)
    shares = {name: m / m.sum((-2, -1), keepdims=True) for name, m in own.items()}
    for name in "abc":
        longhand = np.mean([shares[other] for other in "abc" if other != name], axis=0)
        assert others.without(means[name]) == pytest.approx(longhand)


def test_an_image_without_a_kind_of_query_does_not_count_for_it():
    first, second, third = np.ones((2, 2, 2)), np.ones((2, 2, 2)), np.ones((2, 2, 2))
    second[1], third[:, 0, 0] = np.nan, 3
    others = OtherMaps()
    means = [mean_map([m]) for m in (first, second, third)]
    for mean in means:
        others.add(mean)
    found = others.without(means[0])
    assert found[0, 0, 0] == pytest.approx((0.25 + 0.5) / 2)
    assert found[1, 0, 0] == pytest.approx(0.5), "the second has none"
    assert np.isnan(OtherMaps().without(np.ones((1, 2, 2)))).all()


def test_without_others_there_is_no_mean():
    others, own = OtherMaps(), mean_map([np.ones((1, 2, 2))])
    others.add(own)
    assert np.isnan(others.without(own)).all()


@given(
    arrays(np.float64, st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 9)),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def test_carrying_to_another_grid_keeps_sums_and_inverts_where_it_can(maps, shape):
    moved = carried(maps, shape)
    assert moved.shape == (maps.shape[0], *shape)
    assert moved.sum((-2, -1)) == pytest.approx(maps.sum((-2, -1)))
    finer = (maps.shape[1] * 2, maps.shape[2] * 3)
    assert carried(carried(maps, finer), maps.shape[1:]) == pytest.approx(maps)
    assert carried(maps, finer) == pytest.approx(np.repeat(np.repeat(maps, 2, 1), 3, 2) / 6)


def test_grids_of_several_shapes_meet_at_relative_places():
    others, small = OtherMaps(), np.zeros((1, 2, 2))
    small[0, 0, 1] = 1
    large = np.full((1, 4, 4), 1 / 16)
    for own in (small, large):
        others.add(own)
    found = others.without(large)
    assert found[0, :2, 2:] == pytest.approx(np.full((2, 2), 0.25))
    assert found.sum() == pytest.approx(1)


def test_a_planted_sink_is_flagged_and_what_varies_is_not():
    rng = np.random.default_rng(1)
    coverage = np.ones((8, 8))
    coverage[7] = 0
    plain = rng.dirichlet(np.full(64, 3.0)).reshape(1, 8, 8)
    assert not sinks(plain, coverage).any()
    planted = plain.copy()
    planted[0, 2, 5] += 0.5
    planted[0, 7, 0] += 0.5  # padding is counted as such
    assert np.argwhere(sinks(planted / planted.sum(), coverage)).tolist() == [[0, 2, 5]]
    centre = centre_prior(Geometry.squash((80, 80), (80, 80), (8, 8)))
    assert not sinks(centre[None], np.ones((8, 8))).any(), "a preference for the centre is none"


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["object", "attribute"])), max_size=30),
    st.integers(0, 9),
)
def test_donors_are_of_the_same_group_and_of_another_image_and_lend_once(regions, seed):
    images, groups = [image for image, _ in regions], [group for _, group in regions]
    found = donors(images, groups, seed)
    assert found == donors(images, groups, seed)
    lent = [donor for donor in found if donor is not None]
    assert len(set(lent)) == len(lent)
    for place, donor in enumerate(found):
        if donor is not None:
            assert groups[donor] == groups[place]
            assert images[donor] != images[place]
    for group in set(groups):
        own = [image for image, other in regions if other == group]
        if max(map(own.count, own)) <= len(own) / 2:
            assert all(found[k] is not None for k, other in enumerate(groups) if other == group)
