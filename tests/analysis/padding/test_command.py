"""`agevlm-eval padding` from end to end with models that look where they are told to."""

import json

import numpy as np
import pytest
from PIL import Image

from agevlm.vlm.choice import ModelChoice
from benchmarks.pope.questions import load_questions
from tests.analysis.padding.stub import StubVlm, uniform


@pytest.fixture
def stubs(monkeypatch):
    """Models by name; loading is counted."""
    known, loaded = {}, []

    def load(self):
        loaded.append(self.name)
        return known[self.name]

    monkeypatch.setattr(ModelChoice, "fingerprint", lambda self: known[self.name].fingerprint)
    monkeypatch.setattr(ModelChoice, "load", load)
    known["scenes/one"], known["scenes/two"] = StubVlm(uniform, "one"), StubVlm(uniform, "two", lambda *_: True)
    return known, loaded


BOTH = ("--ckpt", "scenes/one", "--ckpt", "scenes/two", "--draws", 100)


def test_scores_figures_and_tables_come_of_scenes(stubs, here, tmp_path):
    out = tmp_path / "run"
    first = here("padding", *BOTH, "--questions", "scenes:8", "--out", out)
    assert first.code == 0, first.err
    scores = json.loads((out / "scores.json").read_text())
    (one,) = load_questions(["scenes:8"])
    native = [r for r in scores["answers"] if (r["condition"], r["group"]) == ("native", "all")]
    assert [r["checkpoint"] for r in native] == ["scenes/one", "scenes/two"]
    assert [r["compared"]["n"] for r in native] == [len(one.questions)] * 2
    assert native[1]["compared"]["scores"]["yes_ratio"]["value"] == 1
    ratios = [r["attended"]["ratio"]["value"] for r in scores["attention"] if r["condition"] == "native"]
    assert ratios == pytest.approx([1.0] * len(ratios), abs=1e-6)
    assert scores["cropped"][0]["known"] > 0
    for name in ("padding-by-layer.png", "padding-by-layer.svg", "run.json"):
        assert (out / name).stat().st_size > 0
    assert np.asarray(Image.open(out / "padding-by-layer.png").convert("L")).std() > 5
    assert "scenes/two" in first.out
    assert "letterbox mean" in first.out
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["padding"]["conditions"] == ["native", "letterbox black", "letterbox mean", "squash", "crop"]
    assert manifest["data"][0]["masks"] is True


def test_again_it_only_scores_and_a_new_condition_is_asked(stubs, here, tmp_path):
    _, loaded = stubs
    out = tmp_path / "run"
    assert here("padding", *BOTH, "--questions", "scenes:6", "--out", out).code == 0
    scores = (out / "scores.json").read_text()
    assert loaded == ["scenes/one", "scenes/two"]
    assert here("padding", *BOTH, "--questions", "scenes:6", "--out", out).code == 0
    assert loaded == ["scenes/one", "scenes/two"]
    assert (out / "scores.json").read_text() == scores
    more = here("padding", *BOTH, "--questions", "scenes:6", "--out", out, "--mode", "squash", "--json", "-")
    assert len(loaded) == 4
    (content,) = json.loads(more.out)
    assert list(dict.fromkeys(r["condition"] for r in content["answers"])) == ["native", "squash"]


def test_images_in_a_folder_with_annotations_tell_what_a_crop_cuts_off(stubs, here, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a.png", (60, 20)), ("b.png", (30, 30)), ("c.png", (20, 70))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(folder / name)
    rows = [
        {"question_id": i, "image": image, "text": f"Is there a {thing} in the image?", "label": label}
        for i, (image, thing, label) in enumerate(
            [("a.png", "dog", "yes"), ("a.png", "cat", "no"), ("b.png", "dog", "yes"), ("c.png", "cat", "yes")]
        )
    ]
    questions = tmp_path / "coco_pope_random.json"
    questions.write_text("".join(json.dumps(r) + "\n" for r in rows))
    # The dog stands at the left edge of a wide image, the cat in the middle of a tall one.
    annotations = tmp_path / "instances.json"
    annotations.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 1, "file_name": "a.png", "width": 60, "height": 20},
                    {"id": 3, "file_name": "c.png", "width": 20, "height": 70},
                ],
                "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 10, 0, 10, 20, 0, 20]]},
                    {"id": 2, "image_id": 3, "category_id": 2, "segmentation": [[5, 30, 15, 30, 15, 40, 5, 40]]},
                ],
            }
        )
    )
    given = ("--questions", questions, "--images", folder, "--out", tmp_path / "run")
    found = here("padding", *BOTH, *given, "--annotations", annotations)
    assert found.code == 0, found.err
    assert "of 2 objects that are there, a crop leaves out 1" in found.out
    assert "only 2 images are not square" in found.err
    plain = here("padding", *BOTH, *given)
    assert "no mask of any of 2 objects is known" in plain.out
    twice = json.loads(annotations.read_text())
    other = {**twice["images"][0], "id": 99, "file_name": f"other/{twice['images'][0]['file_name']}"}
    (tmp_path / "twice.json").write_text(json.dumps({**twice, "images": [*twice["images"], other]}))
    ambiguous = here("padding", *BOTH, *given, "--annotations", tmp_path / "twice.json")
    assert ambiguous.code == 2
    assert "two images have the name" in ambiguous.err
    wrong = json.loads(annotations.read_text())
    wrong["images"][0]["width"] = 61
    annotations.write_text(json.dumps(wrong))
    refused = here("padding", *BOTH, *given, "--annotations", annotations)
    assert refused.code == 3
    assert "a.png is 61 x 20 there, but the file has 60 x 20" in refused.err


def test_an_unreadable_image_is_named_and_the_rest_is_scored(stubs, here, tmp_path):
    (tmp_path / "good.png").write_bytes(b"")
    Image.new("RGB", (40, 20)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    rows = [
        {"question_id": i, "image": image, "text": "Is there a dog in the image?", "label": "no"}
        for i, image in enumerate(["good.png", "bad.png"])
    ]
    (tmp_path / "q_random.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    given = ("--questions", tmp_path / "q_random.json", "--images", tmp_path, "--out", tmp_path / "run", *BOTH)
    found = here("padding", *given)
    assert found.code == 3
    assert "bad.png: not an image file" in found.err
    assert "2 images and 0 answers are missing" in found.err, "one of each checkpoint"
    assert here("padding", *given, "--allow-partial").code == 0
    (tmp_path / "good.png").write_bytes(b"nothing")
    none = here("padding", *given)
    assert none.code == 3, "and where all are bad, there is nothing to score"
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["answers"] == []


@pytest.mark.parametrize("name", ["openai:http://localhost:1/v1#x", "lmms:qwen?pretrained=x"])
def test_models_that_cannot_be_looked_into_are_refused_before_any_work(here, tmp_path, name):
    found = here("padding", "--ckpt", name, "--questions", tmp_path / "not-there.json", "--out", tmp_path / "run")
    assert found.code == 2
    assert "neither attention nor hidden states" in found.err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_not_there_is_told_before_the_others_work(here, tmp_path):
    missing = tmp_path / "not-there"
    given = ("--ckpt", "scenes/age-vlm", "--ckpt", missing, "--questions", "scenes:2", "--out", tmp_path / "run")
    found = here("padding", *given)
    assert found.code == 2
    assert "not-there" in found.err
    assert not (tmp_path / "run").exists()


def test_square_images_alone_are_said_to_tell_nothing(stubs, here, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    row = {"question_id": 1, "image": "a.png", "text": "Is there a dog in the image?", "label": "no"}
    (tmp_path / "q_random.json").write_text(json.dumps(row))
    given = ("--questions", tmp_path / "q_random.json", "--images", tmp_path, "--out", tmp_path / "run", *BOTH)
    found = here("padding", *given)
    assert found.code == 0, found.err
    assert "all images are square" in found.err
    assert not (tmp_path / "run" / "padding-by-layer.png").exists()


def test_an_interrupted_run_goes_on_where_it_was_and_scores_the_same(stubs, here, tmp_path, monkeypatch):
    known, _ = stubs
    assert here("padding", *BOTH, "--questions", "scenes:6", "--out", tmp_path / "whole").code == 0
    first, encode = known["scenes/one"], StubVlm.encode
    first.shown.clear()

    def interrupted(self, images):
        if len(self.shown) > 10:
            raise KeyboardInterrupt
        return encode(self, images)

    monkeypatch.setattr(StubVlm, "encode", interrupted)
    stopped = here("padding", *BOTH, "--questions", "scenes:6", "--out", tmp_path / "run")
    assert stopped.code == 130
    assert "safe in" in stopped.err
    before = len(first.shown)
    assert before > 10
    monkeypatch.setattr(StubVlm, "encode", encode)
    first.shown.clear()
    assert here("padding", *BOTH, "--questions", "scenes:6", "--out", tmp_path / "run").code == 0
    assert 0 < len(first.shown) < len(known["scenes/two"].shown), "what was looked at is not looked at again"
    whole, resumed = ((tmp_path / name / "scores.json").read_text() for name in ("whole", "run"))
    assert resumed == whole
