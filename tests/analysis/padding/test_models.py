"""Real models of few weights: attention that is planted, the model's own way to hide padding, photos with masks."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from agevlm.checkpoints.standins import STANDINS
from agevlm.data.sources import ContainerImages, FolderImages
from agevlm.vlm.contract import Ask, Fingerprint
from agevlm.vlm.hf.session import HfVlm
from analysis.padding.canvas import Condition, conditions
from analysis.padding.looking import Looker
from analysis.padding.questions import Asked, ImageItem
from tests.analysis.test_planted import looks_at_what_is_bright

QUESTION = Asked("Is there a dog in the image?", "Is there a dog in the image?", "dog", True, ("random",))
WAYS = conditions(("letterbox", "squash", "crop"), ("black", "mean", "edge"))


def item(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return ImageItem("made", "a.png", "", (QUESTION,), ContainerImages({"a.png": buffer.getvalue()}))


def looked(vlm, image, ways=WAYS):
    looker = Looker(ways, {}, 4)
    one = item(image)
    return {r["condition"]: r for r in looker.look(vlm, one, looker.load(one))}


def share(record, query="last"):
    return np.divide(record[f"{query}_padding"], record[f"{query}_visual"])


@pytest.mark.parametrize("size", [(96, 64), (80, 120), (300, 200)])
def test_a_model_that_looks_at_what_is_bright_looks_at_bright_padding_and_at_no_other(size):
    # 3:2 on 6 x 6 cells: no cell is image and padding at once. Black, with one white edge: drawn out, it is half of the
    # padding, and all that is bright.
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (0, 0, size[0], 1) if size[0] > size[1] else (0, 0, 1, size[1]))
    found = looked(looks_at_what_is_bright("squash"), image)
    for query in ("object", "last"):
        assert (share(found["letterbox edge"], query) > 0.9).all()
    # A bright image on black padding: none of it. Its planted layers see cells one by one, but for resizing's blur.
    found = looked(looks_at_what_is_bright("squash"), Image.new("RGB", size, (255, 255, 255)))
    assert (share(found["letterbox black"]) < 0.02).all()
    assert found["letterbox black"]["padding_cells"] == pytest.approx(1 / 3)
    assert found["native"]["padding_cells"] == 0, "this one squashes by itself"
    assert found["letterbox edge"]["padding_cells"] == pytest.approx(1 / 3)
    assert share(found["letterbox edge"]) == pytest.approx(1 / 3, abs=0.02), "as bright as the image: uniform"


@pytest.mark.parametrize("size", [(90, 40), (30, 120)])
def test_answers_with_padding_hidden_are_those_of_the_models_own_mask_padding(checkpoint, size):
    model = HfVlm.load(checkpoint("age_vlm"), device="cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    native = looked(model, image, (Condition("native"),))["native"]
    assert native["empty_cells"] > 0
    model.model.config.mask_padding = True
    try:
        own = model.answer(model.encode([image]), [Ask(QUESTION.prompt, 0, 1)])[0].logprobs
    finally:
        model.model.config.mask_padding = False
    for name in ("yes", "no"):
        assert native[f"hidden_{name}"] == pytest.approx(own[name], abs=1e-4)
    assert max(abs(native[f"hidden_{name}"] - native[name]) for name in ("yes", "no")) > 1e-3, "hiding does something"


@pytest.mark.usefixtures("numbers_in_words")
@pytest.mark.parametrize("kind", ["smolvlm", "qwen2_5_vl", "llava_onevision"])
def test_models_with_tiles_and_merged_patches_are_looked_at_in_every_way(kind):
    model = HfVlm(*STANDINS[kind](1), Fingerprint("", {}))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8))
    found = looked(model, image)
    assert set(found) == {way.name for way in WAYS}
    for name, record in found.items():
        squares = name in ("letterbox black", "letterbox mean", "letterbox edge", "squash")
        if kind == "llava_onevision" and name == "native":
            assert record["padding_cells"] < 0.5, "tiles on a canvas, padding left out to whole cells"
        else:
            assert record["padding_cells"] == pytest.approx(0.5 if squares else 0, abs=1e-6)
        for query in ("object", "last"):
            shares = share(record, query)
            assert ((shares >= -1e-6) & (shares <= 1 + 1e-6)).all()
            if record["padding_cells"]:
                assert float(np.ptp(shares)) > 1e-4, "layers differ"
    # Half of the canvas is padding: whole cells of it, whose loss is felt.
    black = found["letterbox black"]
    assert 0.25 < black["empty_cells"] < 0.5 + 1e-6
    assert abs(black["hidden_yes"] - black["yes"]) > 1e-5


@pytest.mark.parametrize("kind", ["age_vlm", "llava"])
def test_real_photos_with_masks_are_looked_at_in_every_way(checkpoint, here, shared, tmp_path, kind):
    photos = shared / "photos"
    if not photos.is_dir():
        pytest.skip(f"no photos in {shared}")
    instances = json.loads((photos / "instances.json").read_text())
    names = {c["id"]: c["name"] for c in instances["categories"]}
    images = {i["id"]: i for i in instances["images"] if i["width"] != i["height"]}
    rows = []
    for annotation in instances["annotations"]:
        if annotation["image_id"] in list(images)[:3] and not annotation.get("iscrowd"):
            name, image = names[annotation["category_id"]], images[annotation["image_id"]]["file_name"]
            row = {"image": image, "text": f"Is there a {name} in the image?", "label": "yes"}
            rows += [row] * (row not in rows)
    questions = tmp_path / "photos_pope_random.json"
    questions.write_text("".join(json.dumps({**r, "question_id": n}) + "\n" for n, r in enumerate(rows)))
    folder = next(f for f in (photos / "images", photos) if not FolderImages(f).missing([rows[0]["image"]]))
    given = ("--questions", questions, "--images", folder, "--annotations", photos / "instances.json")
    out = tmp_path / "run"
    found = here("padding", "--ckpt", checkpoint(kind), *given, "--out", out, "--draws", 100, "--max-new-tokens", 4)
    assert found.code == 0, found.err
    scores = json.loads((out / "scores.json").read_text())
    assert scores["cropped"][0]["known"] == len(rows)
    cells = {
        r["condition"]: r["attended"]["cells"]
        for r in scores["attention"]
        if (r["group"], r["query"], r["layer"]) == ("non-square", "last", None)
    }
    needed = {r["image"]: 0.0 for r in rows}
    for image in images.values():
        if image["file_name"] in needed:
            needed[image["file_name"]] = 1 - min(image["width"], image["height"]) / max(image["width"], image["height"])
    mean = np.mean([needed[r["image"]] for r in rows])
    assert cells["letterbox black"] == pytest.approx(mean, abs=1e-6)
    assert cells["squash"] == pytest.approx(mean, abs=1e-6)
    assert cells["crop"] == 0
    # AGE-VLM letterboxes by itself, to whole pixels; LLaVA's processor cuts the centre out.
    assert cells["native"] == (pytest.approx(mean, abs=0.01) if kind == "age_vlm" else 0)


@pytest.mark.slow
def test_answers_to_images_as_they_are_score_as_the_benchmark_itself_scores_them(here, tmp_path):
    given = ("--ckpt", "scenes/concat", "--questions", "scenes:6", "--draws", 100)
    assert here("pope", *given, "--protocol", "default", "--out", tmp_path / "pope").code == 0
    assert here("padding", *given, "--mode", "squash", "--out", tmp_path / "padding").code == 0
    pope = json.loads((tmp_path / "pope" / "scores.json").read_text())
    padding = json.loads((tmp_path / "padding" / "scores.json").read_text())
    (pooled,) = [r for r in pope["rows"] if (r["split"], r["condition"]) == ("pooled", "image")]
    (native,) = [r["compared"] for r in padding["answers"] if (r["condition"], r["group"]) == ("native", "all")]
    assert native["n"] == pooled["n"] == 108
    for name in ("accuracy", "f1", "yes_ratio"):
        assert [native["scores"][name][k] for k in ("value", "low", "high")] == [
            pooled[name], pooled[f"{name}_low"], pooled[f"{name}_high"],
        ]  # fmt: skip
