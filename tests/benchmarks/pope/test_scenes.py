"""POPE-Scenes: what anyone gets who renders the same scenes and builds POPE's questions from their annotations."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from agevlm.errors import DataError
from agevlm.scenes.categories import CATEGORIES
from agevlm.scenes.coco import write_coco
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import WORLD_VERSION, render
from benchmarks.commands import build_pope
from benchmarks.pope import scenes as module
from benchmarks.pope.questions import load_questions
from benchmarks.pope.scenes import is_selector, pope_scenes
from benchmarks.pope.types import SPLITS
from benchmarks.pope.versions import KNOWN, data_version, family, split_hashes

SMALL = {"cup", "bottle", "book", "ball", "bowl", "apple", "fork", "spoon", "bird", "vase", "clock"}


def seed_of(name):
    return int(name.removeprefix("images/").removesuffix(".png"))


@pytest.fixture(scope="module")
def whole():
    return pope_scenes()


def test_it_has_popes_size_and_its_published_content(whole):
    questions, images = whole
    assert Counter(q.split for q in questions) == dict.fromkeys(SPLITS, 3000)
    assert len(images) == len({q.image for q in questions}) == 500
    version = f"pope-scenes@{WORLD_VERSION}"
    assert data_version(questions) == version
    assert split_hashes(questions) == KNOWN[version]
    assert family(version) == "scenes"
    for split in SPLITS:
        rows = [q for q in questions if q.split == split]
        assert [q.label for q in rows] == [True, False] * 1500
        assert len({(q.image, q.text) for q in rows}) == 3000


def test_a_changed_label_is_another_version(whole):
    questions, _ = whole
    assert data_version([replace(questions[0], label=False), *questions[1:]]).startswith("custom:")


def test_only_test_scenes_are_asked_about_the_first_that_have_three_different_objects(whole):
    _, images = whole
    seeds = [seed_of(name) for name in images]
    allowed = split_seeds("test", 100_000_000)
    assert all(seed in allowed for seed in seeds)
    # Longhand: in order, none of them skipped without reason.
    usable = [s for s in split_seeds("test", seeds[59] + 1 - allowed[0]) if kinds(render(s)) >= 3]
    assert seeds[:60] == usable
    assert seeds == sorted(seeds)


def kinds(scene):
    return len({thing.category for thing in scene.instances})


def test_images_are_the_rendered_pixels_and_answers_are_true(whole):
    questions, images = whole
    shown = list(images)[::10]
    for name in shown:
        with Image.open(io.BytesIO(images[name])) as picture:
            assert picture.format == "PNG"
            assert np.array_equal(np.asarray(picture), render(seed_of(name)).image)
    there = {name: {thing.category for thing in render(seed_of(name)).instances} for name in shown}
    asked = [q for q in questions if q.image in there]
    assert len(asked) == 50 * 18
    for q in asked:
        assert q.label == (q.object_name in there[q.image])
        article = "an" if q.object_name[0] in "aeiou" else "a"
        assert q.text == f"Is there {article} {q.object_name} in the image?"


def test_negatives_of_each_split_are_what_its_name_says(whole):
    questions, _ = whole
    absent = {split: Counter(q.object_name for q in questions if q.split == split and not q.label) for split in SPLITS}
    assert set(absent["random"]) == set(CATEGORIES)
    assert max(absent["random"].values()) < 2 * 1500 / len(CATEGORIES)
    assert len(absent["popular"]) < 12
    # Frequent things are not just the large ones that are easily seen to be missing.
    assert sum(absent["popular"][name] for name in SMALL) > 0.3 * 1500
    assert len(SMALL & set(absent["popular"])) >= 3
    assert len(absent["adversarial"]) > len(absent["popular"])


def as_rows(questions):
    return [(q.split, q.question_id, q.image, q.text, q.label) for q in questions]


def test_build_scenes_and_build_pope_give_the_same_questions(tmp_path):
    questions, images = pope_scenes("scenes:40")
    last = seed_of(list(images)[-1])
    # All scenes up to the last, with those that have too few objects, which build-pope leaves out by itself.
    seeds = split_seeds("test", last + 1 - split_seeds("test", 1)[0])
    assert len(seeds) > 40
    written = write_coco(tmp_path / "data", seeds, split="test")
    out = tmp_path / "questions"
    arguments = ["--annotations", str(written.annotations), "--out", str(out), "--name", "scenes"]
    result = CliRunner().invoke(build_pope, arguments)
    assert result.exit_code == 0, result.output
    (built,) = load_questions([out])
    by_split = sorted(as_rows(built.questions), key=lambda row: (SPLITS.index(row[0]), int(row[1])))
    assert by_split == as_rows(questions)
    manifest = json.loads((out / "pope.json").read_text())
    assert manifest["images"]["sampled"] == 40
    for name, encoded in images.items():
        assert (written.out / name).read_bytes() == encoded


def test_fewer_images_are_the_first_and_larger_ones_are_asked_the_same(whole):
    questions, images = pope_scenes("scenes:30")
    assert list(images) == list(whole[1])[:30]
    assert all(images[name] == whole[1][name] for name in images)
    assert data_version(questions).startswith("custom:")
    larger, large = pope_scenes("scenes:30@192")
    assert as_rows(larger) == as_rows(questions)
    for name, encoded in large.items():
        with Image.open(io.BytesIO(encoded)) as picture:
            assert max(picture.size) == 192
            assert np.array_equal(np.asarray(picture), render(seed_of(name), 192).image)
    assert images.keys() == large.keys()


def test_it_is_a_source_of_questions_with_its_own_images():
    (loaded,) = load_questions(["scenes:5"], splits=["popular"])
    assert loaded.name == "scenes"
    assert len(loaded.questions) == 5 * 6
    assert {q.split for q in loaded.questions} == {"popular"}
    assert set(loaded.image_bytes) == {q.image for q in loaded.questions}


@pytest.mark.parametrize("source", ["scenes", "scenes:2", "scenes:200@384", "scenes@128"])
def test_selectors(source):
    assert is_selector(source)


@pytest.mark.parametrize(
    "source",
    ["scene", "scenes:", "scenes:@", "scenes:-3", "scenes/x", "scenes:5@", "scenes:5.0", " scenes", "scenes:x"],
)
def test_what_is_no_selector(source):
    assert not is_selector(source)
    with pytest.raises(DataError, match="scenes:IMAGES@PIXELS"):
        pope_scenes(source)


@pytest.mark.parametrize(
    "source", ["scenes:0", "scenes:1", "scenes:5@95", "scenes@0", "scenes:2000000", "scenes:2@99999"]
)
def test_sizes_that_make_no_questions_are_refused_before_anything_is_rendered(source, monkeypatch):
    monkeypatch.setattr(module, "render", lambda *_: pytest.fail("rendered"))
    with pytest.raises(DataError, match="2 to 100,000 images of 96 to 4096 pixels"):
        pope_scenes(source)
