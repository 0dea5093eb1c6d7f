"""`agevlm-eval grounding` as it is called: scenes, masks from files, killed and gone on with, and what is refused."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agevlm.scenes.coco import write_coco
from agevlm.scenes.types import split_seeds
from agevlm.vlm.hf.session import HfVlm

CKPT = "scenes/age-vlm"


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are one test's subject, and cost more than all else."""
    monkeypatch.setattr("analysis.grounding.run._draw", lambda *_: [])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("world") / "world", split_seeds("test", 4))


def rows_of(folder):
    return [row for path in sorted((folder / "probes").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run over a few scenes, for several tests to look at."""
    import sys

    from agevlm.cli import eval_group, run

    folder = tmp_path_factory.mktemp("grounding") / "run"
    arguments = ["grounding", "--ckpt", CKPT, "--ckpt", "scenes/concat", "--regions", "scenes:5", "--heads"]
    arguments += ["--mask-noise", "erode:0.3", "--draws", "100", "--out", str(folder), "--json", str(folder) + ".json"]
    old, sys.argv = sys.argv, ["agevlm-eval", *arguments]
    try:
        with pytest.raises(SystemExit) as stop:
            run(eval_group)
    finally:
        sys.argv = old
    assert not stop.value.code
    return folder, arguments


def test_a_run_over_scenes_writes_records_scores_and_pictures(ran):
    folder, _ = ran
    content = json.loads((folder / "scores.json").read_text())
    assert json.loads((folder.parent / "run.json").read_text()) == [content]
    assert list(content["models"]) == [CKPT, "scenes/concat"]
    for held in content["models"].values():
        assert held["images"] == 5
        assert held["left_out"] == {}
        cell = held["headline"]["iou"]
        assert 0 <= cell["nulls"]["uniform"] < cell["value"] <= cell["ceiling"] < 1
        assert set(held["queries"]) == {"phrase", "phrase-last", "last", "answer"}
        assert held["noise"]["erode 0.3"]["change"]["iou"]["value"] < 0
        assert held["chosen"]["head"]["head"] >= 0
        assert held["answers"]["object"]["questions"] > 0
    # What this checkpoint is taught: to look.
    assert content["models"][CKPT]["headline"]["iou"]["corrected"]["uniform"]["low"] > 0.8
    assert content["differences"][f"{CKPT} - scenes/concat"]["iou"]["low"] > 0
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["benchmark"] == "grounding"
    assert manifest["data"][0]["regions"] == len([r for r in rows_of(folder) if r["mask"]]) // 2
    for name in ("layers", "maps-scenes_age-vlm", "maps-scenes_concat"):
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 300
        assert (folder / f"{name}.svg").read_text().lstrip().startswith("<?xml")


def test_running_again_asks_nothing_and_says_the_same(ran, here, monkeypatch):
    folder, arguments = ran
    before = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name != "run.json"}
    monkeypatch.setattr(HfVlm, "load", lambda *_, **__: pytest.fail("no model is needed"))
    result = here(*arguments)
    assert result.code == 0, result.err
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert "5 looked at before, 0 to go" in result.err
    assert "attention against masks" in result.out


@pytest.mark.usefixtures("undrawn")
def test_scores_alone_change_with_choices_about_scores(ran, here, monkeypatch, tmp_path):
    folder, arguments = ran
    monkeypatch.setattr(HfVlm, "load", lambda *_, **__: pytest.fail("no model is needed"))
    copy = shutil.copytree(folder, tmp_path / "copy")
    places = [str(copy) if argument == str(folder) else argument for argument in arguments[:-2]]
    noise = places.index("--mask-noise")
    result = here(*places[:noise], *places[noise + 2 :], "--remove-sinks", "--json", "-")
    assert result.code == 0, result.err
    (content,) = json.loads(result.out)
    assert content["sinks_removed"]
    assert content == json.loads((copy / "scores.json").read_text())


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path, here, monkeypatch):
    import analysis.grounding.run as module

    def call(folder):
        arguments = ("grounding", "--ckpt", CKPT, "--regions", "scenes:4", "--draws", "100", "--out", folder)
        return here(*arguments)

    honest, asked = module.look, []

    def stops(vlm, item, *rest):
        asked.append(item.image)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return honest(vlm, item, *rest)

    monkeypatch.setattr(module, "look", stops)
    assert call(tmp_path / "stopped").code != 0
    assert len(asked) == 3
    assert call(tmp_path / "stopped").code == 0
    assert len(asked) == 5, "two were there"
    monkeypatch.setattr(module, "look", honest)
    assert call(tmp_path / "whole").code == 0
    one, other = ((tmp_path / name / "scores.json").read_text() for name in ("stopped", "whole"))
    assert one == other


@pytest.mark.usefixtures("undrawn")
def test_annotations_of_files_are_grounded_and_what_is_left_out_is_named(tmp_path, here, world):
    content = json.loads(world.annotations.read_text())
    image = content["images"][0]
    empty = {"size": [image["height"], image["width"]], "counts": [image["height"] * image["width"]]}
    absent = next(
        c
        for c in content["categories"]
        if c["id"] not in {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
    )
    content["annotations"].append(
        {"id": 9999, "image_id": image["id"], "category_id": absent["id"], "iscrowd": 0, "segmentation": empty}
    )
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    arguments = ("grounding", "--ckpt", CKPT, "--regions", path, "--images", world.out, "--draws", "100")
    result = here(*arguments, "--out", tmp_path / "all")
    assert result.code == 0, result.err
    content = json.loads((tmp_path / "all" / "scores.json").read_text())
    assert content["models"][CKPT]["images"] == 4
    assert "crowds (iscrowd) belong to it" in content["notes"][0]
    assert f"1 phrases, its mask is empty: {image['file_name']}|{absent['name']}" in result.err


@pytest.mark.usefixtures("undrawn")
def test_less_room_keeps_fewer_layers_and_says_so(tmp_path, here):
    arguments = ("grounding", "--ckpt", "scenes/concat", "--regions", "scenes:2", "--draws", "100")
    result = here(*arguments, "--max-disk", "0.03", "--out", tmp_path / "run")
    assert result.code == 0, result.err
    assert "of 6 layers (0" in result.err
    assert "--max-disk 0.03 MB" in result.err
    held = json.loads((tmp_path / "run" / "scores.json").read_text())["models"]["scenes/concat"]
    assert 2 <= len(held["layers"]) < 7
    sizes = [len(row["maps"]) for row in rows_of(tmp_path / "run") if row["maps"] is not None]
    assert sum(sizes) <= 30_000


@pytest.mark.parametrize("name", ["openai:http://localhost:1#x", "lmms:llava?pretrained=x"])
def test_models_that_run_elsewhere_are_refused_before_anything_is_done(tmp_path, here, name):
    result = here("grounding", "--ckpt", name, "--regions", "scenes:2", "--out", tmp_path / "run")
    assert result.code == 2
    assert "neither attention nor hidden states" in result.err
    assert "pope" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--regions", "nothing.json", "--images", "."), "no such file"),
        (("--regions", "nothing.json"), "--images DIR"),
        (("--regions", "scenes:1"), "2 to"),
        (("--mask-noise", "blur:1"), "noise 'blur' is unknown"),
        (("--mask-noise", "erode"), "KIND:LEVEL"),
        (("--mask-noise", "erode:2"), "from 0 to 1"),
        (("--prompt", "nothing.txt"), "prompt nothing.txt"),
        (("--ckpt", CKPT, "--ckpt", CKPT), "is given twice"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, here, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = here("grounding", *arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_image_of_another_size_than_its_masks_is_left_out_and_named(tmp_path, here, world):
    images = tmp_path / "images"
    images.mkdir()
    content = json.loads(world.annotations.read_text())
    for entry in content["images"]:
        (images / entry["file_name"]).parent.mkdir(exist_ok=True)
        picture = Image.open(world.out / entry["file_name"])
        if entry is content["images"][1]:
            picture = picture.resize((picture.height, picture.width + 1))
        picture.save(images / entry["file_name"])
    result = here(
        "grounding", "--ckpt", CKPT, "--regions", world.annotations, "--images", images, "--draws", "100",
        "--out", tmp_path / "run",
    )  # fmt: skip
    wrong = content["images"][1]["file_name"]
    assert f"left out: image {wrong}: is" in result.err
    assert "never resized" in result.err
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["models"][CKPT]
    assert scores["images"] == 3
    assert len(scores["images_failed"]) == 1
    assert np.isfinite(scores["headline"]["iou"]["value"])


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_models_that_hold_the_image_in_their_text_are_looked_into_as_well(tmp_path, here, world, checkpoint, kind):
    result = here(
        "grounding", "--ckpt", checkpoint(kind), "--regions", world.annotations, "--images", world.out,
        "--limit", "2", "--draws", "100", "--max-new-tokens", "2", "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.code == 0, result.err
    (held,) = json.loads((tmp_path / "run" / "scores.json").read_text())["models"].values()
    assert held["left_out"] == {}
    assert held["images"] == 2
    # Random weights: the image gets a part of the attention, text the rest.
    assert 0 < held["facts"]["on_image"]["value"] < 1
    assert held["headline"]["auroc"]["value"] is not None
