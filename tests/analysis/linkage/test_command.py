"""`agevlm-eval linkage` from its options to its files, on checkpoints that run here."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from agevlm.cli import eval_group
from agevlm.errors import AgeVlmError, DataError, NotSupported
from agevlm.scenes.coco import write_coco
from agevlm.scenes.types import split_seeds


def call(*options: object) -> int:
    """The command in this process; its exit code. Errors come through."""
    try:
        eval_group.main(["linkage", *map(str, options)], standalone_mode=False)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """The first scenes of POPE-Scenes as a COCO-style data set, with POPE questions built from it."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder / "data", list(split_seeds("test", 5)))
    eval_group.main(
        ["build-pope", "--annotations", str(folder / "data" / "instances.json"), "--out", str(folder / "questions")],
        standalone_mode=False,
    )
    for number, line in enumerate((folder / "questions").glob("*.json")):
        assert line.read_text().count("\n") >= 10, number
    return folder


@pytest.mark.slow
def test_scenes_end_to_end(tmp_path, capsys) -> None:
    out = tmp_path / "run"
    options = ("--questions", "scenes:4", "--out", out, "--draws", 100, "--causal-images", 2, "--prompt", "official")
    assert call(*options, "--ckpt", "scenes/age-vlm", "--ckpt", "scenes/concat") == 0
    said = capsys.readouterr().out
    assert "too few" in said
    assert "scenes/concat" in said
    table = pd.read_csv(out / "table.csv")
    assert set(table["model"]) == {"scenes/age-vlm", "scenes/concat"}
    present = table[table["label"]]
    assert present["size"].between(0.001, 0.9).all()
    assert present["word_in_mask"].between(0, 1).all()
    # Tokens of the right words were probed.
    assert [t.strip("▁ Ġ") for t in table["word_token"]] == [c.split()[-1] for c in table["category"]]
    one = table[table["model"] == "scenes/age-vlm"]
    sums = one["word_on_image"] + one["word_on_padding"]
    assert sums.to_numpy() == pytest.approx(1, abs=1e-4)  # cross-attention sees nothing but the image
    two = table[table["model"] == "scenes/concat"]
    assert two["word_on_image"].max() < 0.99
    scores = json.loads((out / "scores.json").read_text())
    assert scores["choices"]["causal check"]["images"] == 2
    records = pd.concat(pq.read_table(p).to_pandas() for p in (out / "probes").glob("*.parquet"))
    hidden = records[records["causal"] == "hidden"]
    assert len(hidden) >= 4
    for margin, hidings in zip(hidden["logp_yes"] - hidden["logp_no"], hidden["hidings"], strict=True):
        # Hiding nothing changes nothing, so what the others change is their doing.
        (nothing,) = (h["margin"] for h in hidings if h["what"] == "nothing")
        assert nothing == pytest.approx(margin, abs=1e-3)
        assert any(abs(h["margin"] - margin) > 0.1 for h in hidings)


def test_coco_style_annotations_give_what_scenes_give(tmp_path, coco, capsys) -> None:
    options = ("--images", coco / "data", "--annotations", coco / "data" / "instances.json", "--draws", 100)
    given = (*options, "--questions", coco / "questions", "--causal-images", 1, "--json", "-")
    assert call(*given, "--out", tmp_path / "files") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} >= {"auroc", "causal"}
    assert call("--questions", "scenes:4", "--causal-images", 0, "--draws", 100, "--out", tmp_path / "scenes") == 0
    one, two = (pd.read_csv(tmp_path / name / "table.csv") for name in ("files", "scenes"))
    for table in (one, two):
        table["image"] = [Path(name).name for name in table["image"]]
    both = one.merge(two, on=["image", "category"], suffixes=("", "_too"))
    assert len(both[both["label"]]) >= 9
    for column in ("size", "word_in_mask", "word_on_objects", "last_entropy", "margin"):
        assert both[column].to_numpy() == pytest.approx(both[f"{column}_too"].to_numpy(), abs=1e-4, nan_ok=True)


def test_without_annotations_masks_are_left_out_and_it_is_said(tmp_path, coco, capsys) -> None:
    options = ("--images", coco / "data", "--questions", coco / "questions", "--limit", 2, "--draws", 100)
    assert call(*options, "--out", tmp_path / "run") == 0
    assert "no annotations" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert table[["size", "prior", "word_in_mask", "word_on_objects"]].isna().all().all()
    assert table["word_entropy"].notna().all()
    assert set(table["causal"]) == {"not checked"}


def test_masks_of_another_size_are_refused(tmp_path, coco, capsys) -> None:
    content = json.loads((coco / "data" / "instances.json").read_text())
    asked = json.loads(next((coco / "questions").glob("*.json")).read_text().splitlines()[0])
    (first,) = (image for image in content["images"] if image["file_name"] == asked["image"])
    first["width"] += 1
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first["id"]]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    options = ("--images", coco / "data", "--questions", coco / "questions", "--annotations", path, "--draws", 100)
    assert call(*options, "--out", tmp_path / "run", "--causal-images", 0) == 3
    assert "never resized" in " ".join(capsys.readouterr().err.split())
    assert first["file_name"] not in set(pd.read_csv(tmp_path / "run" / "table.csv")["image"])


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_a_model_that_says_neither_yes_nor_no_is_not_scored(tmp_path, checkpoint, capsys, kind) -> None:
    given = ("--ckpt", checkpoint(kind), "--questions", "scenes:3", "--out", tmp_path / "run", "--draws", 100)
    assert call(*given) == 0
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    (model,) = scores["models"].values()
    readable = model["counts"]["questions"] - model["counts"]["unreadable"]
    assert readable < 3 < 10 < model["counts"]["unreadable"]
    assert model["targets"]["error"]["n"] == readable
    assert all(s["auroc"]["value"] is None for t in model["targets"].values() for s in t["signals"].values())
    assert "not answered yes" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["openai:http://127.0.0.1:9/v1#m", "lmms:llava"])
def test_models_that_run_elsewhere_are_refused_before_any_work(tmp_path, name) -> None:
    with pytest.raises(NotSupported, match="neither attention nor hidden states"):
        call("--ckpt", name, "--questions", tmp_path / "no such file")
    assert not (tmp_path / "runs").exists()


def test_what_is_not_there_is_named(tmp_path, coco) -> None:
    with pytest.raises(DataError, match="--images"):
        call("--questions", coco / "questions", "--out", tmp_path / "run")
    with pytest.raises(DataError, match=r"none\.json"):
        call("--questions", "scenes:3", "--annotations", tmp_path / "none.json", "--out", tmp_path / "run")
    with pytest.raises(AgeVlmError):
        call("--questions", tmp_path / "none", "--out", tmp_path / "run")
