"""Whose attention lies over a picture: the same model's, of the same image and question, or nobody's."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco

from agevlm.data.masks import encode_mask
from agevlm.scenes.world import render
from analysis.grounding.records import group_key, regions_of
from reports.gallery.entries import Entry
from reports.gallery.finding import Finder
from reports.gallery.looks import LIGHT, Looks, Matched, item_of
from reports.gallery.sources import Sources
from reports.opened import open_runs
from tests.reports.gallery.conftest import gallery


def rows_of(folder):
    return [row for path in sorted((folder / "probes").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def looked(inside, tmp_path):
    """A copy of the grounding run, to be changed."""
    return shutil.copytree(inside / "grounding", tmp_path / "grounding")


def test_every_question_of_a_grounding_run_is_there(inside):
    rows = rows_of(inside / "grounding")
    found = gallery(inside / "grounding")
    assert len(found.items) == len(rows) > 20
    kinds = set()
    for place, (item, row) in enumerate(zip(found.items, rows, strict=True), start=1):
        assert (item.question, item.answer, item.category) == (row["question"], row["answer"], row["phrase"])
        assert (item.split, item.number, item.official) == (row["about"], str(place), row["right"])
        wrong = row["logprob_no"] - row["logprob_yes"]
        assert item.margin == pytest.approx(wrong if row["right"] == "yes" else -wrong)
        expected = {
            ("yes", "yes"): "right",
            ("no", "no"): "right",
            ("yes", "no"): "false yes",
            ("no", "yes"): "missed",
        }.get((row["said"], row["right"]), "unparsed")
        if row["about"] == "negation" and expected in ("false yes", "missed"):
            expected = "wrong answer"
        assert item.kind == expected
        assert item.picture is not None
        assert (item.overlay is not None) == (row["maps"] is not None)
        kinds.add(item.kind)
        if row["mask"] is None:
            assert item.size is None
        else:
            size = [row["geometry"]["image_height"], row["geometry"]["image_width"]]
            decoded = coco.decode({"size": size, "counts": row["mask"]})
            assert item.size == pytest.approx(decoded.mean())
    assert "right" in kinds
    assert len(kinds) > 2


def test_the_brightest_place_is_in_the_cell_of_most_attention(inside):
    found = gallery(inside / "grounding")
    checked = 0
    for item, row in zip(found.items, rows_of(inside / "grounding"), strict=True):
        if item.overlay is None:
            continue
        g = row["geometry"]
        maps = np.frombuffer(row["maps"], np.float16).reshape(len(row["kinds"]), len(row["layers"]), g["rows"], -1)
        heat = maps[row["kinds"].index("phrase-last"), row["layers"].index("mean")].astype(float)
        overlay = found.overlays[item.overlay]
        opacity = np.asarray(Image.open(io.BytesIO(overlay.attention)).convert("RGBA"))[..., 3]
        y, x = np.unravel_index(opacity.argmax(), opacity.shape)
        # By longhand: from the overlay to the image, to the model's input, to its cells.
        across = (x + 0.5) / opacity.shape[1] * g["image_width"] * g["scale_x"] + g["offset_x"]
        down = (y + 0.5) / opacity.shape[0] * g["image_height"] * g["scale_y"] + g["offset_y"]
        cell = int(down / g["input_height"] * g["rows"]), int(across / g["input_width"] * g["columns"])
        assert heat[cell] > 0.9 * heat.max()
        assert f"“{row['phrase']}”" in overlay.note
        checked += 1
    assert checked > 10


def test_pope_has_the_overlay_of_the_same_look(inside):
    found = gallery(inside / "pope", inside / "grounding")
    own = {(i.image, i.question): i for i in found.items if i.split == "object"}
    lent = [i for i in found.items if i.run == "scenes/age-vlm" and i.overlay is not None]
    assert len(lent) >= 6
    for item in lent:
        look = own[item.image, item.question]
        assert item.overlay == look.overlay
        assert item.picture == look.picture
        assert item.size == look.size
    unlent = [i for i in found.items if i.run == "scenes/age-vlm" and i.official == "no"]
    assert all(i.overlay is None and i.size is None for i in unlent)
    assert len(found.overlays) == len({i.overlay for i in found.items if i.overlay is not None})


def changed(folder, change):
    manifest = json.loads((folder / "run.json").read_text())
    change(manifest)
    (folder / "run.json").write_text(json.dumps(manifest))


def lent_to_pope(*folders):
    return [i for i in gallery(*folders).items if i.run == "scenes/age-vlm" and i.overlay is not None]


def test_another_model_prompt_or_image_lends_nothing(inside, looked, tmp_path):
    pope = shutil.copytree(inside / "pope", tmp_path / "pope")
    assert lent_to_pope(pope, looked)
    changed(pope, lambda m: m["model"].update(fingerprint="another"))
    assert not lent_to_pope(pope, looked)
    shutil.copy(inside / "pope" / "run.json", pope)
    changed(pope, lambda m: m["prompt"].update(template="{question}"))
    assert not lent_to_pope(pope, looked)
    shutil.copy(inside / "pope" / "run.json", pope)
    assert lent_to_pope(pope, looked)
    # Images of the same names with other bytes: what POPE's records say that the model saw.
    answers = (pope / "answers-00000.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in answers]
    lines = [json.dumps({**row, "shown": row["shown"] and row["shown"][::-1]}) + "\n" for row in rows]
    (pope / "answers-00000.jsonl").write_text("".join(lines))
    assert not lent_to_pope(pope, looked)


def test_a_group_that_is_not_proven_has_no_picture(looked):
    changed(looked, lambda m: m.update(max_new_tokens=99))
    found = gallery(looked)
    assert not found.pictures
    assert not found.overlays
    assert any("nothing proves the file" in note for note in found.notes)
    assert all(i.size is not None for i in found.items if i.official == "yes" and i.split == "object")


def test_runs_that_do_not_say_where_they_are_from_are_known_by_their_scenes(looked):
    whole = gallery(looked)

    def older(manifest):
        del manifest["max_new_tokens"]
        del manifest["data"][0]["from"]
        del manifest["data"][0]["image_folder"]

    changed(looked, older)
    assert gallery(looked) == whole


def test_a_damaged_file_of_records_is_named_and_the_rest_is_used(looked):
    whole = gallery(looked)
    (path,) = (looked / "probes").glob("*.parquet")
    table = pq.read_table(path)
    half = table.num_rows // 2
    meta = table.schema.metadata
    pq.write_table(table.slice(0, half).replace_schema_metadata(meta), path)
    second = path.with_name(path.name.replace("000001", "000002"))
    pq.write_table(table.slice(half).replace_schema_metadata(meta), second)
    assert len(gallery(looked).items) == len(whole.items)
    second.write_bytes(second.read_bytes()[:-100])
    found = gallery(looked)
    assert len(found.items) == half
    assert any(second.name in note and "damaged" in note for note in found.notes)
    # A file of an older version, without a column.
    pq.write_table(table.drop_columns(["logprob_no"]), second)
    assert len(gallery(looked).items) == half


def test_two_models_are_told_apart(inside, looked):
    def second(manifest):
        (about,) = manifest["models"].values()
        manifest["models"]["another"] = {**about, "fingerprint": "f" * 64}

    changed(looked, second)
    (path,) = (looked / "probes").glob("*.parquet")
    shutil.copy(path, looked / "probes" / f"another-{'f' * 12}-000001.parquet")
    items = gallery(looked).items
    assert {item.run for item in items} == {"grounding: scenes/age-vlm", "grounding: another"}
    assert len(lent_to_pope(inside / "pope", looked)) == len(lent_to_pope(inside / "pope", inside / "grounding"))


def test_sizes_of_linkage_runs_are_those_of_the_masks(inside, tmp_path):
    found = gallery(inside / "pope", inside / "linkage")
    assert {i.run for i in found.items} == {"scenes/age-vlm"}
    checked = 0
    for item in found.items:
        if item.official == "no":
            assert item.size is None
            continue
        scene = render(int(item.image[-16:-4]), 96)
        things = [k for k, thing in enumerate(scene.instances) if thing.category == item.category]
        assert item.size == pytest.approx(float(scene.mask(*things).mean()), abs=1e-6)
        checked += 1
    assert checked == 6 * 3 * 3
    linkage = shutil.copytree(inside / "linkage", tmp_path / "linkage")
    changed(linkage, lambda m: m["data"][0].update(content_sha256="of other questions"))
    assert all(i.size is None for i in gallery(inside / "pope", linkage).items)


def test_runs_of_one_model_are_told_apart_by_what_they_are_of(made):
    both = gallery(made / "pope", made / "cvbench").items
    assert {item.run for item in both} == {"stub, pope", "stub, cvbench"}
    assert {item.run for item in gallery(made / "pope").items} == {"stub"}


def row_of(name, mask):
    row = dict.fromkeys(LIGHT)
    geometry = {"image_height": mask.shape[0], "image_width": mask.shape[1]}
    row |= {"id": name, "image": "a.jpg", "phrase": "dog", "about": "phrase", "question": "Is there a dog?"}
    return {**row, "right": "yes", "answer": "no", "said": "no", "mask": encode_mask(mask), "geometry": geometry}


@pytest.mark.parametrize("regions", [1, 2])
def test_two_regions_of_one_question_lend_neither(inside, regions):
    (run,), _ = open_runs([inside / "grounding"])
    rows = [row_of(f"a.jpg|dog|{k}", np.eye(20, dtype=bool) if k else np.ones((20, 20), bool)) for k in range(regions)]
    group = group_key("5" * 64, regions_of(rows), "{question}", True, 16)
    looks = Looks(run, "m", "f", "{question}", [{**row, "group": group} for row in rows], pa.table({}))
    finder = Finder(Sources(None), looks=False)
    item = replace(item_of(looks, 0), run="pope", size=None)
    pope = Entry(item, run, "5" * 64, "f", "{question}")
    finder.know([pope])
    matched = Matched([looks], finder, {})
    assert [entry.identity for entry in matched.entries] == ["5" * 64] * regions, "proven"
    assert matched.look(pope) == ((0, 0) if regions == 1 else None)
    assert matched.size(pope) == (1.0 if regions == 1 else None)
    assert matched.look(replace(pope, item=replace(item, question="Is there a cat?"))) is None


def test_two_grounding_runs_of_one_model_lend_the_first_one_s(inside, tmp_path):
    again = shutil.copytree(inside / "grounding", tmp_path / "again")
    once = lent_to_pope(inside / "pope", inside / "grounding")
    twice = gallery(inside / "pope", inside / "grounding", again)
    lent = [i for i in twice.items if i.run == "scenes/age-vlm" and i.overlay is not None]
    assert len(lent) == len(once)
    assert all("in grounding." in twice.overlays[i.overlay].note for i in lent)
