"""Scenes on disk: COCO-style, exact, the same bytes every time."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from agevlm.data.annotations import load_instances
from agevlm.errors import DataError
from agevlm.scenes import coco
from agevlm.scenes.categories import CATEGORIES
from agevlm.scenes.coco import rle, write_coco
from agevlm.scenes.commands import build_scenes
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import WORLD_VERSION, render
from benchmarks.commands import build_pope

SEEDS = split_seeds("test", 40)


def tree(folder):
    """Every file's hash by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def decode(segmentation):
    """Longhand: a mask from its run lengths."""
    height, width = segmentation["size"]
    flat, value = [], False
    for run in segmentation["counts"]:
        flat += [value] * run
        value = not value
    return np.array(flat).reshape(width, height).T


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("scenes") / "data", SEEDS, split="test")


@pytest.fixture(scope="module")
def content(written):
    return json.loads(written.annotations.read_text())


def test_the_file_says_what_it_is(written, content):
    assert content["info"] == {
        "description": "AGE-VLM rendered scenes",
        "version": WORLD_VERSION,
        "size": 96,
        "split": "test",
        "seeds": {"first": 500_000_000, "last": 500_000_039, "count": 40},
    }
    assert [c["name"] for c in content["categories"]] == list(CATEGORIES)
    assert [c["id"] for c in content["categories"]] == list(range(1, len(CATEGORIES) + 1))
    assert [i["id"] for i in content["images"]] == list(SEEDS)
    assert content["images"][0]["file_name"] == "images/000500000000.png"
    texts = ["instances.json", "cv-scenes.jsonl", "captions.jsonl", "statements.jsonl"]
    assert sorted(tree(written.out)) == sorted([*(i["file_name"] for i in content["images"]), *texts])


def test_annotations_tell_the_scene(written, content):
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert [a["id"] for a in content["annotations"]] == list(range(1, written.instances + 1))
    for image in content["images"]:
        scene = render(image["id"])
        assert (image["height"], image["width"]) == scene.ids.shape
        assert image["scene"] == {"setting": scene.setting, "seed": scene.seed}
        with Image.open(written.out / image["file_name"]) as picture:
            assert (np.asarray(picture) == scene.image).all()
        entries = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        for i, (entry, thing) in enumerate(zip(entries, scene.instances, strict=True)):
            assert names[entry["category_id"]] == thing.category
            assert entry["bbox"] == list(thing.box)
            assert (entry["area"], entry["iscrowd"]) == (thing.area, 0)
            assert entry["attributes"]["color"] == thing.colour
            assert entry["attributes"]["depth"] == pytest.approx(thing.depth, abs=1e-3)
            assert entry["attributes"]["visible"] == pytest.approx(thing.visible, abs=1e-3)
            assert (decode(entry["segmentation"]) == scene.mask(i)).all()


@pytest.mark.parametrize(
    ("rows", "counts"), [([[1, 0], [1, 1]], [0, 2, 1, 1]), ([[0, 0], [0, 1]], [3, 1]), ([[1]], [0, 1]), ([[0]], [1])]
)
def test_runs_go_down_the_columns_and_begin_outside(rows, counts):
    mask = np.array(rows, bool)
    assert rle(mask) == {"size": list(mask.shape), "counts": counts}


def test_pycocotools_reads_the_same_masks_and_boxes(written, content):
    masks = pytest.importorskip("pycocotools.mask")
    for entry in content["annotations"]:
        runs = masks.frPyObjects(entry["segmentation"], *entry["segmentation"]["size"])
        assert (masks.decode(runs).astype(bool) == decode(entry["segmentation"])).all()
        assert int(masks.area(runs)) == entry["area"]
        assert masks.toBbox(runs).tolist() == entry["bbox"]


def test_the_same_seeds_give_the_same_bytes_with_any_number_of_workers(written, tmp_path):
    again = write_coco(tmp_path / "again", SEEDS, split="test", workers=2)
    assert tree(again.out) == tree(written.out)
    assert again.images_with == written.images_with


def test_it_loads_as_instances_and_pope_is_built_from_it(written, tmp_path):
    instances = load_instances(written.annotations)
    assert len(instances.images) == len(SEEDS)
    assert all(image.objects for image in instances.images)
    result = CliRunner().invoke(
        build_pope, ["--annotations", str(written.annotations), "--out", str(tmp_path / "q"), "--name", "scenes"]
    )
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "q" / "scenes_pope_adversarial.json").read_text().splitlines()
    assert len(lines) > 60
    assert json.loads(lines[0])["image"].startswith("images/0005")


def test_the_summary_counts_images_and_objects(written, content):
    names = {c["id"]: c["name"] for c in content["categories"]}
    pairs = {(a["image_id"], names[a["category_id"]]) for a in content["annotations"]}
    assert written.images_with["cup"] == sum(name == "cup" for _, name in pairs)
    assert sum(written.objects_of.values()) == written.instances == len(content["annotations"])
    assert list(written.images_with.values()) == sorted(written.images_with.values(), reverse=True)
    assert set(written.images_with) == set(CATEGORIES)


def test_what_stands_there_is_replaced_only_by_force_and_only_if_it_is_scenes(tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    write_coco(out, range(2))
    with pytest.raises(DataError, match="exists already"):
        write_coco(out, range(3))
    write_coco(out, range(3), force=True)
    assert len(list((out / "images").iterdir())) == 3
    (out / "instances.json").write_text('{"info": []}')
    with pytest.raises(DataError, match="no rendered scenes"):
        write_coco(out, range(3), force=True)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match="is a file"):
        write_coco(file, range(3), force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "file"]


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1, 2], [10**12]])
def test_seeds_that_make_no_data_set_are_refused(tmp_path, seeds):
    with pytest.raises(DataError, match="seed"):
        write_coco(tmp_path / "data", seeds)


def test_a_size_too_small_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least 96"):
        write_coco(tmp_path / "data", [1], 64)


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "data"
    write_coco(out, range(2))
    before = tree(out)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(coco.Image.Image, "save", full)
    with pytest.raises(DataError, match="no room left"):
        write_coco(out, range(3), force=True)
    assert tree(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_the_command_writes_scenes_a_sheet_and_says_how_to_go_on(tmp_path):
    out, sheet = tmp_path / "my scenes", tmp_path / "sheet.png"
    arguments = ["--out", str(out), "--n", "10", "--split", "validation", "--start", "3", "--sheet", str(sheet)]
    result = CliRunner().invoke(build_scenes, arguments)
    assert result.exit_code == 0, result.output
    images = load_instances(out / "instances.json").images
    assert [i.id for i in images] == list(range(400_000_003, 400_000_013))
    with Image.open(sheet) as picture:
        assert picture.size == (8 * 100 - 4, 2 * 100 - 4)
    assert "10 images with" in result.output
    assert f"build-pope --annotations '{out}/instances.json' --out '{out}-pope'" in result.output
    assert isinstance(CliRunner().invoke(build_scenes, arguments).exception, DataError)
    shutil.rmtree(out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--n", "0"],
        ["--n", "1", "--split", "val"],
        ["--n", "1", "--size", "95"],
        ["--n", "1", "--start", "99999999999"],
        ["--n", "1", "--sheet", "sheet.txt"],
        ["--n", "1", "--sheet", "none/sheet.png"],
    ],
)
def test_the_command_refuses_bad_arguments(tmp_path, arguments):
    result = CliRunner().invoke(build_scenes, ["--out", str(tmp_path / "data"), *arguments])
    assert result.exit_code == 2
    assert not (tmp_path / "data").exists()
