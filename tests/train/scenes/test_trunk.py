"""What the trunk is taught of each cell, by a slow loop, and the same under mirroring and shifting."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.train.scenes.test_store import InThisProcess
from train.scenes import store as store_module
from train.scenes.store import SceneStore
from train.scenes.trunk import (
    COLOUR_NAMES,
    MOST,
    NAMES,
    TRUNKS,
    Reader,
    ThingTable,
    TrunkRecipe,
    _augment,
    cell_targets,
    pretrain_trunk,
)

torch.set_num_threads(1)
COUNT, STRIDE = 24, 8


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "ProcessPoolExecutor", InThisProcess)
        return SceneStore.open(tmp_path_factory.mktemp("data"), "train", COUNT, workers=1)


def longhand_targets(ids, kinds, colours, depths, centres, stride):
    """One picture, cell by cell and pixel by pixel. Lists go by object, from 0; `ids` has them from 1."""
    grid = len(ids) // stride
    cells = grid * grid
    cover = np.zeros((cells, len(NAMES)))
    category, centre = np.zeros((cells, len(NAMES))), np.zeros((cells, len(NAMES)))
    thing, colour, depth = np.zeros(cells, bool), np.zeros(cells, int), np.zeros(cells)
    seen = dict.fromkeys(range(len(NAMES)), 0)
    for cell in range(cells):
        row, column = divmod(cell, grid)
        pixels = dict.fromkeys(range(len(kinds)), 0)
        for y in range(row * stride, (row + 1) * stride):
            for x in range(column * stride, (column + 1) * stride):
                if ids[y, x]:
                    pixels[ids[y, x] - 1] += 1
        for number, count in pixels.items():
            cover[cell, kinds[number]] += count / stride**2
            seen[kinds[number]] += count
        if pixels:
            main = max(pixels, key=lambda n: (pixels[n], -n))
            thing[cell] = pixels[main] >= stride**2 / 4
            colour[cell], depth[cell] = colours[main], np.log(depths[main])
        for number, (x, y) in enumerate(centres):
            if column * stride <= x < (column + 1) * stride and row * stride <= y < (row + 1) * stride:
                centre[cell, kinds[number]] = 1
    for kind in range(len(NAMES)):
        best = max(cover[:, kind])
        for cell in range(cells):
            share = cover[cell, kind]
            if share >= 0.25 or (share >= 0.05 and share >= 0.6 * best - 1e-9):
                category[cell, kind] = 1
            elif share > 0:
                category[cell, kind] = -1
    present = np.array([1 if n >= 14 else -1 if n else 0 for n in seen.values()])
    return category, present, centre, thing, colour, depth


def of_store(store, i):
    """Its objects: kinds, colours, depths, and centres in the padded square."""
    facts = store.facts[i]
    left, top = (96 - facts.width) // 2, (96 - facts.height) // 2
    return (
        [NAMES.index(t.category) for t in facts.instances],
        [COLOUR_NAMES.index(t.colour) for t in facts.instances],
        [t.depth for t in facts.instances],
        [(t.centre[0] + left, t.centre[1] + top) for t in facts.instances],
    )


def assert_targets(found, i, expected):
    category, present, centre, thing, colour, depth = expected
    np.testing.assert_array_equal(found.category[i], category)
    np.testing.assert_array_equal(found.present[i], present)
    np.testing.assert_array_equal(found.centre[i], centre)
    np.testing.assert_array_equal(found.thing[i], thing)
    np.testing.assert_array_equal(found.colour[i][thing], colour[thing])
    np.testing.assert_allclose(found.depth[i][thing], depth[thing], atol=1e-5)


def test_targets_of_scenes_are_those_of_the_slow_loop(store):
    rows = np.array([3, 0, 7, 11, 20])
    pixels, found = Reader(store, STRIDE).batch(rows)
    assert pixels.shape == (5, 3, 96, 96)
    np.testing.assert_allclose(pixels[1].permute(1, 2, 0), store.images[0] / 127.5 - 1, atol=1e-6)
    for place, row in enumerate(rows):
        expected = longhand_targets(store.ids[row], *of_store(store, row), STRIDE)
        assert (expected[0] == 1).any()
        assert (expected[0] == -1).any()
        assert expected[3].any()
        assert_targets(found, place, expected)


def toy_table(kinds, colours, depths, centres):
    category = np.full((1, MOST), -1)
    colour, depth = np.zeros((1, MOST), np.int64), np.zeros((1, MOST), np.float32)
    centre = np.full((1, MOST, 2), -1000.0, np.float32)
    n = len(kinds)
    category[0, :n], colour[0, :n], depth[0, :n], centre[0, :n] = kinds, colours, np.log(depths), centres
    return ThingTable(category, colour, depth, centre)


@pytest.mark.parametrize("seed", range(12))
def test_targets_of_noise_are_those_of_the_slow_loop(seed):
    """Small blobs of several objects of a kind, some of them hardly seen."""
    draw = np.random.default_rng(seed)
    number = int(draw.integers(1, 6))
    kinds, colours = draw.integers(0, 4, number), draw.integers(0, 8, number)
    depths, centres = draw.uniform(1, 30, number), draw.uniform(-4, 20, (number, 2))
    ids = np.zeros((16, 16), np.uint8)
    for n in range(1, number + 1):
        y, x, h, w = draw.integers(0, 14), draw.integers(0, 14), *draw.integers(1, 8, 2)
        ids[y : y + h, x : x + w] = n
    table = toy_table(kinds, colours, depths, centres)
    found = cell_targets(ids[None], np.array([0]), table, 4, table.centre)
    assert_targets(found, 0, longhand_targets(ids, kinds, colours, depths, centres, 4))


class Draws:
    """A generator that mirrors and shifts as it is told."""

    def __init__(self, mirror, dx, dy):
        self.mirror, self.shift = mirror, np.array([dx, dy])

    def random(self):
        return 0.0 if self.mirror else 0.9

    def integers(self, *_):
        return self.shift

    def uniform(self, low, high, size):
        return np.full(size, (low + high) / 2)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (5, -3), (-8, 8), (8, 0)])
def test_ids_and_centres_move_with_the_picture(store, mirror, dx, dy):
    rows = np.array([1, 4, 9])
    pixels, found = Reader(store, STRIDE).batch(rows, Draws(mirror, dx, dy))
    for place, row in enumerate(rows):
        image, ids = np.zeros((96, 96, 3)), np.zeros((96, 96), np.uint8)
        for y in range(96):
            for x in range(96):
                from_x, from_y = x - dx, y - dy
                if 0 <= from_x < 96 and 0 <= from_y < 96:
                    column = 95 - from_x if mirror else from_x
                    image[y, x] = store.images[row, from_y, column] / 127.5 - 1
                    ids[y, x] = store.ids[row, from_y, column]
        np.testing.assert_allclose(pixels[place].permute(1, 2, 0), image, atol=1e-5)
        kinds, colours, depths, centres = of_store(store, row)
        moved = [((96 - x if mirror else x) + dx, y + dy) for x, y in centres]
        assert_targets(found, place, longhand_targets(ids, kinds, colours, depths, moved, STRIDE))


def test_a_shown_centre_is_the_mean_of_the_shown_pixels(store):
    """Where an object is still whole."""
    rows, checked = np.arange(COUNT), 0
    reader = Reader(store, STRIDE)
    for seed in range(6):
        images = store.images[rows].astype(np.float32)
        draw = np.random.default_rng(seed)
        _, ids, centre = _augment(images, np.asarray(store.ids[rows]), reader.table.centre[rows].copy(), draw)
        for i in rows:
            for j, thing in enumerate(store.facts[i].instances):
                ys, xs = np.nonzero(ids[i] == j + 1)
                if len(ys) == thing.area:
                    np.testing.assert_allclose(centre[i, j], (xs.mean() + 0.5, ys.mean() + 0.5), atol=1e-3)
                    checked += 1
    assert checked > 300
    untouched = ThingTable.of(store).centre
    np.testing.assert_array_equal(reader.table.centre, untouched)


def test_augmentation_varies_and_repeats_with_its_seed(store):
    reader, rows = Reader(store, STRIDE), np.arange(4)
    one, again, other = (reader.batch(rows, np.random.default_rng(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", list(TRUNKS))
def test_every_trunk_gives_the_same_grid_at_about_the_same_size(name):
    from agevlm.model import AgeVlmVisionConfig
    from agevlm.model.vision import AgeVlmVisionModel

    recipe = TRUNKS[name]
    config = AgeVlmVisionConfig.from_timm(
        recipe.architecture, image_size=96, num_stages=recipe.num_stages, model_args=dict(recipe.model_args)
    )
    assert (config.grid, config.hidden_size, config.stride) == ((12, 12), 128, recipe.stride)
    model = AgeVlmVisionModel(config)
    assert 0.75e6 < sum(p.numel() for p in model.parameters()) < 1.1e6
    last = model.get_submodule(f"trunk.{recipe.last_block}")
    stage = model.get_submodule(f"trunk.{recipe.last_block.rpartition('.')[0]}")
    assert list(stage.children())[-1] is last


@pytest.mark.slow
def test_training_saves_what_assemble_reads_and_is_the_same_twice(store, tmp_path):
    from agevlm.model.sources import find_vision

    recipe = TrunkRecipe(model_args={"stem": 4, "dims": [4, 8], "depths": [1, 1]}, steps=3, batch=8)
    scores = [pretrain_trunk(store, store, tmp_path / n, recipe, 0, lambda _: None) for n in ("a", "b")]
    assert scores[0] == scores[1]
    assert set(scores[0]) == {"mAP", "colour", "depth error"}
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    source = find_vision(str(tmp_path / "a"))
    assert source.architecture == "agevlm_convnet"
    assert source.model_args == {"stem": 4, "dims": [4, 8], "depths": [1, 1]}
    assert source.image_mean == (0.5, 0.5, 0.5)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["pretrained_cfg"]["std"] == [0.5] * 3
    counter = source.weights.read("stem.1.num_batches_tracked")
    assert (int(counter), counter.dtype) == (3, torch.int64)


@pytest.mark.slow
def test_a_convnext_is_trained_and_joined(store, tmp_path):
    from dataclasses import replace

    from safetensors.torch import load_file

    from agevlm.model import AgeVlmForConditionalGeneration
    from tests.train.scenes.test_language_model import TINY
    from train.scenes.language_model import pretrain_language
    from train.scenes.pretrain import main

    base = tmp_path / "base"
    scores = pretrain_trunk(store, store, base / "trunk", replace(TRUNKS["convnext"], steps=1, batch=2), 0, print)
    assert set(scores) == {"mAP", "colour", "depth error"}
    pretrain_language(store.facts, base / "language", TINY, 0)
    main(
        ["--out", str(tmp_path), "--trunk", "convnext", "join", "--seed", "0", "--fusion", "concat"], None, None, False
    )
    model = AgeVlmForConditionalGeneration.from_pretrained(base / "seed-0" / "concat")
    trained = load_file(base / "trunk" / "model.safetensors")
    joined = model.model.vision_tower.trunk.state_dict()
    assert joined.keys() == trained.keys()
    assert all(torch.equal(joined[k], trained[k]) for k in joined)
