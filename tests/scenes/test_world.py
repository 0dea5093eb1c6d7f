"""The rendered world: the same everywhere and at every size, masks that are exact, a population as intended."""

import hashlib
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from agevlm.scenes import world
from agevlm.scenes.categories import CATEGORIES, COLOURS, LINKS
from agevlm.scenes.drawing import Pen, paint
from agevlm.scenes.layout import plan
from agevlm.scenes.objects import ARTISTS
from agevlm.scenes.settings import SETTINGS, UNFIT_INDOORS
from agevlm.scenes.types import SPLIT_STARTS, split_seeds
from agevlm.scenes.world import render

SEEDS = range(40)
CENSUS = 1200
"""Scenes that the population is counted on."""

HASH = """
import hashlib
from agevlm.scenes.world import render
digest = hashlib.sha256()
for seed, size in ((0, 96), (7, 96), (500_000_003, 200)):
    scene = render(seed, size)
    digest.update(scene.image.tobytes() + scene.ids.tobytes() + repr(scene.instances).encode() + scene.setting.encode())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def census():
    """Settings and instances of many scenes, by seed."""
    return [(scene.setting, scene.instances) for scene in (render(seed) for seed in range(CENSUS))]


def shown(seed, size=96):
    """The planned objects that are in the picture, with its plan and shape."""
    layout = plan(random.Random(2 * seed))
    things, _ = world._seen(layout.objects, world._shape(layout, 96))
    return layout, things, world._shape(layout, size)


def alone(thing, shape):
    """One object by itself in fine pixels: its mask, and the row and column where that begins."""
    unit = max(shape) * world.FINER
    pen = Pen(thing.width, thing.height * unit, thing.flip, thing.tilt)
    ARTISTS[thing.artist](pen, paint(COLOURS[thing.colour]), thing.looks)
    mask = np.asarray(pen.image)[:, :, 3]
    assert set(np.unique(mask)) <= {0, 255}
    top = round(thing.foot * unit - thing.height * unit / 2 - pen.image.height / 2)
    return mask == 255, top, round(thing.x * unit - pen.image.width / 2)


def test_a_scene_is_a_function_of_its_seed_in_every_process():
    expected = {subprocess.run([sys.executable, "-c", HASH], capture_output=True, text=True).stdout for _ in range(2)}
    digest = hashlib.sha256()
    random.seed(5)
    for seed, size in ((0, 96), (7, 96), (500_000_003, 200)):
        scene = render(seed, size)
        digest.update(scene.image.tobytes() + scene.ids.tobytes() + repr(scene.instances).encode())
        digest.update(scene.setting.encode())
    assert expected == {digest.hexdigest() + "\n"}


def test_other_seeds_are_other_scenes():
    assert len({render(seed).image.tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("size", [128, 384])
def test_size_changes_the_resolution_alone(size):
    for seed in range(12):
        small, large = render(seed), render(seed, size)
        scale = size / 96
        assert small.setting == large.setting
        assert max(large.image.shape) == size
        assert [(t.category, t.colour, t.depth) for t in small.instances] == [
            (t.category, t.colour, t.depth) for t in large.instances
        ]
        for a, b in zip(small.instances, large.instances, strict=True):
            assert a.visible == pytest.approx(b.visible, abs=0.06)
            assert np.array(b.centre) / scale == pytest.approx(np.array(a.centre), abs=1.0)
            assert b.area / scale**2 == pytest.approx(a.area, rel=0.25)
            if a.visible > 0.98:
                assert np.array(b.box) / scale == pytest.approx(np.array(a.box), abs=1.6)


def test_the_picture_at_another_size_is_the_same_picture():
    for seed in range(6):
        small, large = render(seed).image, Image.fromarray(render(seed, 384).image)
        reduced = np.asarray(large.resize(small.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(reduced.astype(float) - small).mean() < 6


def test_instances_tell_exactly_what_the_ids_show():
    for seed in SEEDS:
        scene = render(seed)
        assert scene.image.dtype == scene.ids.dtype == np.uint8
        assert scene.image.shape == (*scene.ids.shape, 3)
        assert set(np.unique(scene.ids)) - {0} == set(range(1, len(scene.instances) + 1))
        for i, thing in enumerate(scene.instances):
            rows, columns = np.nonzero(scene.ids == i + 1)
            x, y, width, height = thing.box
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert thing.area == len(rows) == scene.mask(i).sum()
            assert thing.centre == (columns.mean() + 0.5, rows.mean() + 0.5)
            assert thing.category in CATEGORIES
            assert thing.colour in COLOURS


def test_every_object_is_seen_well_enough(census):
    for _, things in census:
        assert 1 <= len(things) <= 9
        for thing in things:
            assert world.LEAST_VISIBLE <= thing.visible <= 1
            assert thing.area >= world.LEAST_PIXELS


@pytest.mark.parametrize("size", [96, 150])
def test_masks_and_visible_shares_agree_with_painting_by_hand(size):
    """An oracle in plain numpy: every object on its own, laid over each other in the order of depth, then voted on."""
    for seed in range(15):
        scene = render(seed, size)
        _, things, (width, height) = shown(seed, size)
        margin = 2 * size
        field = np.zeros((2 * height + 2 * margin, 2 * width + 2 * margin), int)
        whole = []
        for i, thing in enumerate(sorted(things, key=lambda t: -t.depth), start=1):
            mask, top, left = alone(thing, (width, height))
            field[margin + top :, margin + left :][: mask.shape[0], : mask.shape[1]][mask] = i
            whole.append(mask.sum())
        fine = field[margin : margin + 2 * height, margin : margin + 2 * width]
        for i, instance in enumerate(scene.instances, start=1):
            assert instance.visible == (fine == i).sum() / whole[i - 1]
        for row in range(height):
            for column in range(width):
                votes = Counter(fine[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist())
                if len(votes) > 1:
                    assert scene.ids[row, column] == max(votes, key=lambda number: (votes[number], number))
                else:
                    assert scene.ids[row, column] in votes


def test_every_drawing_lies_within_its_picture():
    """Nothing of an object is cut off before it is laid into the scene, or its visible share would be wrong."""
    rng = random.Random(3)
    for artist in ARTISTS:
        category = CATEGORIES.get(artist, CATEGORIES["clock"])
        width = category.width if artist in CATEGORIES else 0.58
        for i in range(12):
            pen = Pen(width, 60.0, bool(i % 2), (i % 3 - 1) * category.tilt)
            ARTISTS[artist](pen, paint(COLOURS["red"]), (rng.random(), rng.random(), rng.random(), rng.random()))
            mask = np.asarray(pen.image)[:, :, 3]
            assert not mask[0].any(), artist
            assert not mask[-1].any(), artist
            assert not mask[:, 0].any(), artist
            assert not mask[:, -1].any(), artist


def test_nearer_objects_hide_farther_ones():
    for seed in SEEDS:
        depths = [thing.depth for thing in render(seed).instances]
        assert depths == sorted(depths, reverse=True)


def test_no_object_is_painted_that_is_not_listed():
    """Taken-out objects leave no trace: outside the masks' surroundings the picture is the backdrop alone."""
    removed = 0
    for seed in range(150):
        layout, things, shape = shown(seed)
        if len(things) == len(layout.objects):
            continue
        removed += 1
        scene, empty = render(seed), world._picture(random.Random(2 * seed + 1), layout, [], shape)
        near = np.zeros(scene.ids.shape, bool)
        for thing in things:
            mask, top, left = alone(thing, shape)
            half = thing.width * thing.height * max(shape) * 0.5
            # The object and its shadow, which reaches a little below its foot.
            y0, y1 = top // 2 - 1, (top + mask.shape[0]) // 2 + 2 + round(half * 0.3)
            x0, x1 = left // 2 - 1, (left + mask.shape[1]) // 2 + 2
            near[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = True
        assert (scene.image[~near] == empty[~near]).all()
    assert removed >= 3


def test_majority_prefers_the_nearer_of_two_equals():
    blocks = np.array([[1, 1, 0, 0, 1, 2], [0, 0, 0, 3, 3, 0]], np.uint8)
    assert world._majority(blocks).tolist() == [[1, 0, 3]]
    assert world._majority(np.array([[5, 5], [5, 9]], np.uint8)).tolist() == [[5]]
    assert world._majority(np.array([[2, 9], [9, 2]], np.uint8)).tolist() == [[9]]


def test_splits_share_no_seed():
    starts = sorted(SPLIT_STARTS.values())
    assert all(b - a >= 100_000_000 for a, b in pairwise(starts))
    assert split_seeds("test", 3, 5) == range(500_000_005, 500_000_008)


@pytest.mark.parametrize(("split", "count", "start"), [("val", 1, 0), ("train", 1, -1), ("train", 100_000_001, 0)])
def test_impossible_splits_are_refused(split, count, start):
    with pytest.raises(ValueError, match="split"):
        split_seeds(split, count, start)


@pytest.mark.parametrize(("seed", "size"), [(-1, 96), (0, 95), (0, 0)])
def test_impossible_scenes_are_refused(seed, size):
    with pytest.raises(ValueError):
        render(seed, size)


def test_tables_name_what_exists():
    assert set(ARTISTS) == {*CATEGORIES, "street clock"}
    assert {name for pair in LINKS for name in pair} <= set(CATEGORIES)
    assert sum(s.share for s in SETTINGS.values()) == pytest.approx(1)
    for setting in SETTINGS.values():
        assert set(setting.weights) <= set(CATEGORIES)
        assert not (setting.indoors and UNFIT_INDOORS & set(setting.weights))
    for category in CATEGORIES.values():
        assert set(category.favours) <= set(COLOURS)


def test_scenes_show_several_kinds_and_countable_groups(census):
    kinds = [len({t.category for t in things}) for _, things in census]
    assert np.mean([k >= 3 for k in kinds]) > 0.65
    assert 4.5 < np.mean([len(things) for _, things in census]) < 5.7
    counts = Counter(min(n, 4) for _, things in census for n in Counter(t.category for t in things).values())
    shares = [counts[n] / counts.total() for n in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.6, 0.22, 0.11, 0.07], abs=0.035)


def test_frequent_categories_are_small_ones_too(census):
    images = Counter(name for _, things in census for name in {t.category for t in things})
    assert set(images) == set(CATEGORIES)
    assert min(images.values()) > 0.03 * len(census)
    top = [name for name, _ in images.most_common(8)]
    assert len({"cup", "ball", "book", "bird", "bottle"} & set(top)) >= 4


def test_what_is_linked_is_seen_together(census):
    sets = [{t.category for t in things} for _, things in census]

    def share(*names):
        return np.mean([set(names) <= s for s in sets])

    for pair, link in LINKS.items():
        lift = share(*pair) / (share(pair[0]) * share(pair[1]))
        assert lift > (2 if link >= 5 else 1), pair


def test_some_objects_are_out_of_place_and_many_partly_hidden(census):
    strange = [t.category not in SETTINGS[setting].weights for setting, things in census for t in things]
    assert 0.09 < np.mean(strange) < 0.16
    assert 0.2 < np.mean([t.visible < 0.95 for _, things in census for t in things]) < 0.5


def test_every_colour_is_common_on_what_has_no_natural_colour(census):
    free = [t.colour for _, things in census for t in things if not CATEGORIES[t.category].favours]
    shares = [n / len(free) for n in Counter(free).values()]
    assert len(shares) == len(COLOURS)
    assert min(shares) > 0.09
