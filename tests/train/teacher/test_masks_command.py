"""`agevlm-train masks` as it is called: tiny models of the real kinds, annotations, scenes; killed, shared, wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agevlm.scenes.coco import write_coco
from agevlm.scenes.types import split_seeds
from train.data.region_table import part_path, read_manifest
from train.data.sources import open_source
from train.spec import SourceSpec

STAGE = """
name: guide
arm: age-vlm
stage: 1
follows: [0]
init_from: nowhere
out: nowhere
fusion: cross
trainable: {{adapter: {{modules: [model.adapter], lr: 1e-3}}}}
sources:
  - kind: scenes
    options: {{root: {root}, count: {count}}}
steps: 1
batch_size: 1
micro_batch_size: 1
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes on disk, with conversations about some of them."""
    out = tmp_path_factory.mktemp("masks") / "scenes"
    write_coco(out, split_seeds("test", 20))
    rows = []
    for line in (out / "captions.jsonl").read_text().splitlines():
        row = json.loads(line)
        with Image.open(out / row["file_name"]) as image:
            if image.width == image.height:
                continue  # the tiny detector's last feature map would be of one cell, which cannot be normalised
        turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": row["caption"]["text"]}]
        rows.append({"id": f"c{row['image_id']}", "image": row["file_name"], "conversations": turns})
    (out / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (out / "names.txt").write_text(
        "\n".join(c["name"] for c in json.loads((out / "instances.json").read_text())["categories"])
    )
    return out


def data_of(scenes):
    return "--data", scenes / "data.jsonl", "--images", scenes, "--phrases", scenes / "names.txt"


def rows_of(folder):
    return [row for p in range(read_manifest(folder).parts) for row in pq.read_table(part_path(folder, p)).to_pylist()]


@pytest.mark.parametrize("mode", ["rows", "joint"])
@pytest.mark.parametrize("sam", ["file", "folder"])
def test_grounding_dino_and_sam_end_to_end(call, scenes, detectors, sam_file, sam_folder, tmp_path, mode, sam):
    models = (
        *("--detector", detectors["grounding-dino"], "--detector-mode", mode),
        *("--sam", f"vit_b:{sam_file}" if sam == "file" else sam_folder),
        *("--min-score", 0.0, "--min-iou", -9, "--min-stability", 0, "--min-box-iou", 0, "--min-area", 0),
        *("--max-area", 1, "--max-regions", 1000, "--device", "cpu"),
    )
    code, out, err = call("masks", *data_of(scenes), *models, "--out", tmp_path / "r", "--json", tmp_path / "s.json")
    assert code == 0, err
    assert "wrote" in out
    rows = rows_of(tmp_path / "r")
    assert len(rows) > 12
    assert all(row["producer"].startswith("grounding-dino ") for row in rows)
    assert mode in rows[0]["producer"]
    found = [row for row in rows if row["kept"]]
    assert len(found) > len(rows) / 2
    for row in found:
        assert len(row["masks"]) == len(row["boxes"]) == len(row["scores"]) == len(row["stability"])
        assert all(0 <= x0 <= x1 <= row["width"] and 0 <= y0 <= y1 <= row["height"] for x0, y0, x1, y1 in row["boxes"])
    # A stage that names the folder gets samples with regions.
    options = {"path": scenes / "data.jsonl", "images": scenes, "masks": tmp_path / "r"}
    source = open_source(SourceSpec("llava", options=options))
    assert list(source.guided) == sorted({row["sample"] for row in found})
    sample = source.read(int(source.guided[0]), 0)
    assert sample.phrases
    assert sample.phrases[0].mask.shape == (sample.image.height, sample.image.width)
    (summary,) = json.loads((tmp_path / "s.json").read_text())
    assert summary["with_region"] == len(found)
    assert summary["seconds_per_image"] > 0


def test_annotated_masks_are_coco_s_and_a_sheet_shows_them(call, scenes, tmp_path):
    exact = ("--producer", "annotations", "--annotations", scenes / "instances.json")
    sheet = tmp_path / "sheet.png"
    code, out, err = call("masks", *data_of(scenes), *exact, "--out", tmp_path / "r", "--sheet", sheet)
    assert code == 0, err
    assert f"wrote {sheet}" in out
    pixels = np.asarray(Image.open(sheet).convert("RGB"), float)
    assert pixels.std() > 20
    content = json.loads((scenes / "instances.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    for row in rows_of(tmp_path / "r"):
        word = row["phrase"].replace("people", "person").replace("buses", "bus")
        own = [a for a in content["annotations"] if a["image_id"] == ids[row["image"]]]
        mine = [a for a in own if names[a["category_id"]] in (word, word.removesuffix("s"))]
        assert row["kept"] == len(mine) > 0


def test_boxes_of_annotations_go_to_sam(call, scenes, sam_folder, tmp_path):
    boxes = ("--producer", "boxes-sam", "--annotations", scenes / "instances.json", "--sam", sam_folder)
    code, _, err = call("masks", *data_of(scenes), *boxes, "--device", "cpu", "--out", tmp_path / "r")
    assert code == 0, err
    assert all(len(row["boxes"]) >= 1 for row in rows_of(tmp_path / "r"))


def test_scores_against_annotations(call, scenes, tmp_path):
    to = tmp_path / "s.json"
    code, out, err = call("masks", "--against", scenes / "instances.json", "--producer", "annotations", "--json", to)
    assert code == 0, err
    found = {row["kind"]: row for row in json.loads(to.read_text())}
    assert set(found) == {"object", "attribute", "relation", "negation"}
    assert found["object"]["iou"][0] == 1.0
    assert found["negation"]["false"][0] > 0
    assert "mean IoU" in out
    code, out, _ = call(
        *("masks", "--against", scenes / "instances.json", "--producer", "annotations"),
        *("--noise", "dilate", "0.5", "--json", to),
    )
    assert "noise dilate 0.5" in out
    assert json.loads(to.read_text())[0]["iou"][0] < 0.8


def test_somebody_s_captions_beside_the_annotations_are_not_read(call, scenes, tmp_path):
    for name in ("instances.json", "images"):
        (tmp_path / name).symlink_to(scenes / name)
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "A dog."}\n')
    (tmp_path / "statements.jsonl").write_text("dog\n")
    to = tmp_path / "s.json"
    given = ("masks", "--against", tmp_path / "instances.json", "--producer", "annotations", "--json", to)
    code, _, err = call(*given)
    assert code == 0, err
    assert "captions.jsonl is not read" in err
    assert "statements.jsonl is not read" in err
    assert [row["kind"] for row in json.loads(to.read_text())] == ["object"]


def test_torchrun_s_ranks_share_the_work(call, tmp_path, monkeypatch):
    (tmp_path / "stage.yaml").write_text(STAGE.format(root=tmp_path / "data", count=600))
    given = ("masks", "--config", tmp_path / "stage.yaml", "--producer", "own", "--out", tmp_path / "r")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    code, out, err = call(*given)
    assert code == 0, err
    assert "not all there yet" in err
    assert not part_path(tmp_path / "r", 0).exists()
    assert part_path(tmp_path / "r", 1).exists()
    monkeypatch.setenv("RANK", "0")
    code, out, _ = call(*given)
    assert code == 0
    assert "3 of 3" in out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--out", "x"), "give the conversations with --data"),
        (("--data", "d.jsonl"), "give --out"),
        (("--against", "i.json", "--phrases", "coco"), "--phrases says nothing to --against"),
        (("--against", "i.json", "--noise", "swap", "0.5"), "not with --against"),
        (("--data", "d.jsonl", "--out", "x", "--ranks", "2"), "--ranks needs --rank"),
        (("--data", "d", "--out", "x", "--producer", "own", "--sam", "s"), "--sam says nothing to --producer own"),
        (("--data", "d", "--out", "x", "--annotations", "i"), "--annotations says nothing to --producer grounded-sam"),
        (("--data", "d", "--out", "x", "--source", "1"), "--source goes with --config"),
        (("--config", "c", "--out", "x", "--images", "i"), "--images goes with --data"),
        (("--data", "{data}", "--images", "{images}", "--out", "/proc/x/y", "--producer", "own"), "cannot be written"),
        (("--data", "d.jsonl", "--out", "x", "--against", "y"), "give --out"),
        (("--data", "nothing.jsonl", "--images", ".", "--out", "x"), "no such file"),
        (("--data", "{data}", "--images", "{images}", "--out", "x", "--phrases", "none.txt"), "cannot be read"),
        (("--data", "{data}", "--images", "{images}", "--out", "x", "--detector", "./none"), "none"),
        (("--data", "{data}", "--images", "{images}", "--out", "x", "--producer", "annotations"), "--annotations"),
        (("--data", "{data}", "--images", "{images}", "--out", "x", "--noise", "drop", "2"), "from 0 to 1"),
        (
            ("--data", "{data}", "--images", "{images}", "--out", "x", "--producer", "own", "--rank", "2"),
            "counted from 0",
        ),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, scenes, tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    filled = [text.format(data=scenes / "data.jsonl", images=scenes) for text in given]
    code, _, err = call("masks", *filled)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_ends_the_same(call, tmp_path):
    (tmp_path / "stage.yaml").write_text(STAGE.format(root=tmp_path / "data", count=3000))
    given = ["masks", "--config", str(tmp_path / "stage.yaml"), "--producer", "own"]
    code, _, err = call(*given, "--out", tmp_path / "whole")
    assert code == 0, err
    draw, seen = np.random.default_rng(1), []
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", "from agevlm.cli import train_main; train_main()", *given, "--out", tmp_path / "r"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        parts = tmp_path / "r" / "parts"
        before = len(list(parts.glob("0*.parquet"))) if parts.is_dir() else 0
        while child.poll() is None and (not parts.is_dir() or len(list(parts.glob("0*.parquet"))) == before):
            time.sleep(0.01)
        time.sleep(0.1 * draw.random())
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        seen.append(len(list(parts.glob("0*.parquet"))))
    assert 0 < seen[0] < 12
    code, _, err = call(*given, "--out", tmp_path / "r")
    assert code == 0, err
    assert rows_of(tmp_path / "r") == rows_of(tmp_path / "whole")


GUIDED = """
name: guide
arm: age-vlm
stage: 1
follows: [0]
init_from: {root}/stage-0
out: {root}/run
fusion: cross
trainable:
  cross: {{modules: [model.language_model.layers.1, model.language_model.layers.4], lr: 1e-2}}
sources:
  - kind: llava
    options: {{path: {data}/data.jsonl, images: {data}, masks: {root}/regions}}
steps: 4
batch_size: 4
micro_batch_size: 2
regions: {{share: 1.0}}
guidance: {{weight: 1.0}}
"""


@pytest.mark.slow
def test_a_stage_learns_from_the_regions(call, scenes, tmp_path):
    from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm

    build_age_vlm(tmp_path / "stage-0", shape=AgeVlmShape())
    (tmp_path / "stage.yaml").write_text(GUIDED.format(root=tmp_path, data=scenes))
    code, _, err = call("run", "--config", tmp_path / "stage.yaml")
    assert code == 2
    assert "no masks.json" in err
    exact = ("--producer", "annotations", "--annotations", scenes / "instances.json")
    assert call("masks", *data_of(scenes), *exact, "--out", tmp_path / "regions")[0] == 0
    code, _, err = call("run", "--config", tmp_path / "stage.yaml")
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert record["counters"]["phrases"] > 16
    assert record["guided_samples"] == len({row["sample"] for row in rows_of(tmp_path / "regions") if row["kept"]})
    # Other regions are other data: a run is not gone on with on them.
    noisy = (*exact, "--noise", "shift", "0.5", "--out", tmp_path / "noisy")
    assert call("masks", *data_of(scenes), *noisy)[0] == 0
    (tmp_path / "regions").rename(tmp_path / "before")
    (tmp_path / "noisy").rename(tmp_path / "regions")
    code, _, err = call("resume", tmp_path / "run", "--set", "steps=6")
    assert code == 2
    assert "the data of source data were" in err
