"""No picture that is asked about in a test was learnt from, nor one that is hardly another."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from agevlm.scenes.types import split_seeds
from tests.scenes import longhand

TRAIN, TEST = 2000, 500


def digest(*arrays):
    made = hashlib.sha256()
    for array in arrays:
        made.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def kinds(scene):
    """The picture with each object's category in the place of its pixels; 0 where there is none."""
    number = np.array([0, *(1 + longhand.CATEGORIES.index(t.category) for t in scene.instances)], np.uint8)
    return number[scene.ids]


def layout(scene, cell=6):
    """The same at a coarser grid: what most of each cell is."""
    picture = kinds(scene)
    height, width = (n // cell * cell for n in picture.shape)
    cells = picture[:height, :width].reshape(height // cell, cell, width // cell, cell).swapaxes(1, 2)
    flat = cells.reshape(*cells.shape[:2], -1)
    found = np.zeros(flat.shape[:2], np.uint8)
    for y, x in np.ndindex(*found.shape):
        found[y, x] = np.bincount(flat[y, x]).argmax()
    return found


@pytest.fixture(scope="module")
def train():
    return longhand.scenes("train", TRAIN)


@pytest.fixture(scope="module")
def test():
    return longhand.scenes("test", TEST)


@pytest.mark.slow
def test_no_test_picture_is_a_training_picture(train, test):
    learnt = {digest(scene.image) for scene in train}
    assert len(learnt) == TRAIN
    asked = {digest(scene.image) for scene in test}
    assert len(asked) == TEST
    assert not learnt & asked
    # The comparison would find one.
    assert digest(longhand.render(train[5].seed).image) in learnt


@pytest.mark.slow
@pytest.mark.parametrize("of", [kinds, layout])
def test_nor_are_its_objects_laid_out_as_in_one(train, test, of):
    learnt = {digest(of(scene)) for scene in train}
    repeated = [scene.seed for scene in test if digest(of(scene)) in learnt]
    assert not repeated


@pytest.mark.slow
def test_nor_are_the_facts_those_of_one(train, test):
    def facts(scene):
        return scene.setting, tuple((t.category, t.colour, t.box) for t in scene.instances)

    learnt = {facts(scene) for scene in train}
    assert not [scene.seed for scene in test if facts(scene) in learnt]
    # Not even their categories are often the same: most scenes hold several kinds in several numbers.
    cast = Counter(tuple(sorted(t.category for t in scene.instances)) for scene in train)
    assert cast.most_common(1)[0][1] < 0.02 * TRAIN


def test_splits_share_no_seed():
    seeds = [set(split_seeds(split, 50_000)) for split in ("train", "validation", "test")]
    assert len(set.union(*seeds)) == sum(map(len, seeds))
    assert split_seeds("train", 100_000_000)[-1] < split_seeds("validation", 1)[0]
    assert split_seeds("validation", 100_000_000)[-1] < split_seeds("test", 1)[0]
