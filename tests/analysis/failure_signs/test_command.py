"""`agevlm-eval failure-signs`: what it runs, takes, keeps and prints; and the whole on a shipped checkpoint."""

import json
from dataclasses import dataclass

import pytest

from agevlm.errors import NotSupported
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Fingerprint
from analysis.failure_signs import language
from analysis.failure_signs.language import Loss, Spoken
from analysis.failure_signs.signs import MEASURES
from tests.analysis.failure_signs.test_sources import cell, grounded, limits, padded

OURS = ("--ckpt", "scenes/m", "--draws", 100)


@dataclass
class Worlds:
    """What the analyses find, by model, and which were run."""

    scores: dict
    ran: list
    spoke: list
    fresh: list


@pytest.fixture
def world(monkeypatch):
    """Analyses that write planted scores."""
    held = Worlds({}, [], [], [])
    absent = [{"checkpoint": "m", "questions": 9, "images": 4, "unparsed": 0, "yes": limits(0.02, 0.01)}]
    held.scores = {
        "similarity": {"cells": [cell(), cell(form="centred", auroc=limits(0.9))]},
        "padding": {"shapes": {"non_square": 4}, "absent": absent, "attention": [padded("native")]},
        "grounding": grounded(),
    }

    def planted(kind, settings_of=lambda s: s):
        def run(settings, *_):
            common = settings_of(settings)
            held.fresh.append(common.fresh)
            (model,) = common.models
            if model.name == "org/closed":
                raise NotSupported("cannot be looked into")
            held.ran.append((kind, model.name))
            common.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(held.scores[kind]).replace('"m"', json.dumps(model.name))
            (common.out / "scores.json").write_text(text)
            manifest = {"benchmark": kind, "models": {model.name: {"fingerprint": model.fingerprint().digest}}}
            (common.out / "run.json").write_text(json.dumps(manifest))

        return run

    def speak(model, texts):
        held.spoke.append(model.name)
        return Spoken({text: Loss(5.0, 5, 10) for text in texts})

    monkeypatch.setattr("analysis.similarity.running.measure_similarity", planted("similarity"))
    monkeypatch.setattr("analysis.padding.command.run_padding", planted("padding"))
    monkeypatch.setattr("analysis.grounding.run.ground", planted("grounding", lambda s: s.common))
    monkeypatch.setattr(language, "speak", speak)
    monkeypatch.setattr(language, "default_texts", lambda model: ("a", "b"))
    monkeypatch.setattr(ModelChoice, "fingerprint", lambda self: Fingerprint(f"{self.name:0<64}", {}))
    monkeypatch.setattr(ModelChoice, "folder", lambda self: None)
    return held


def verdicts(out):
    return {row["measure"]: row["verdict"] for row in json.loads((out / "scores.json").read_text())["readings"]}


def test_every_sign_has_a_row_with_its_verdict(world, here, tmp_path):
    out = tmp_path / "run"
    found = here("failure-signs", *OURS, "--out", out)
    assert found.code == 0, found.err
    assert verdicts(out) == {
        "auroc": "present",
        "auroc-centred": "absent",
        "overlap": "undecided",
        "padding-object": "absent",
        "padding-last": "not measured",
        "perplexity": "not measured",
        "attribute": "present",
        "relation": "not measured",
        "negation": "not measured",
        "yes-to-absent": "absent",
    }
    assert tuple(verdicts(out)) == MEASURES
    assert world.ran == [(kind, "scenes/m") for kind in ("similarity", "padding", "grounding")]
    for text in ("scenes/m", "0.500 [0.450, 0.550]", "undecided", "--base", "Thresholds are ours"):
        assert text in found.out


def test_a_threshold_decides(world, here, tmp_path):
    out = tmp_path / "run"
    assert here("failure-signs", *OURS, "--out", out, "--threshold", "auroc=0.52").code == 0
    assert verdicts(out)["auroc"] == "undecided"
    wrong = here("failure-signs", *OURS, "--out", out, "--threshold", "auroc=7")
    assert wrong.code == 2
    assert "0.5 to 1" in wrong.err


def test_it_can_fail_a_build(world, here, tmp_path):
    assert here("failure-signs", *OURS, "--out", tmp_path / "run", "--fail-on-sign").code == 1
    world.scores["similarity"]["cells"][0]["auroc"] = limits(0.9)
    assert here("failure-signs", *OURS, "--out", tmp_path / "b", "--fail-on-sign").code == 1, "attribute words"
    world.scores["grounding"] = grounded(0.9, 0.85)
    assert here("failure-signs", *OURS, "--out", tmp_path / "c", "--fail-on-sign").code == 0


def test_what_cannot_be_measured_says_why_and_the_rest_goes_on(world, here, tmp_path):
    out = tmp_path / "run"
    assert here("failure-signs", "--ckpt", "org/name", "--out", out, "--regions", "x.json").code == 0
    rows = {row["measure"]: row for row in json.loads((out / "scores.json").read_text())["readings"]}
    assert "--captions" in rows["auroc"]["note"]
    assert "--questions" in rows["padding-object"]["note"]
    assert rows["attribute"]["verdict"] == "present"
    closed = tmp_path / "closed"
    assert here("failure-signs", "--ckpt", "org/closed", "--pairs", "scenes", "--out", closed).code == 0
    rows = {row["measure"]: row for row in json.loads((closed / "scores.json").read_text())["readings"]}
    assert rows["auroc"]["note"] == "cannot be looked into"


def test_served_models_are_refused_before_any_work(world, here, tmp_path):
    found = here("failure-signs", "--ckpt", "openai:http://localhost:1/v1#x", "--out", tmp_path / "run")
    assert found.code == 2
    assert "neither attention nor hidden states" in found.err
    assert not world.ran
    assert not (tmp_path / "run").exists()


def test_a_base_that_is_not_there_is_told_before_any_work(world, here, tmp_path):
    found = here("failure-signs", *OURS, "--base", tmp_path / "nothing", "--out", tmp_path / "run")
    assert found.code == 2
    assert "--base" in found.err
    assert not world.ran


def test_finished_runs_are_taken(world, here, tmp_path):
    assert here("failure-signs", *OURS, "--out", tmp_path / "first").code == 0
    used = [tmp_path / "first" / "scenes_m" / kind for kind in ("similarity", "grounding")]
    world.ran.clear()
    second = tmp_path / "second"
    assert here("failure-signs", *OURS, "--out", second, "--use", used[0], "--use", used[1]).code == 0
    assert world.ran == [("padding", "scenes/m")]
    assert verdicts(second) == verdicts(tmp_path / "first")


def test_runs_of_other_models_or_weights_are_refused(world, here, tmp_path):
    assert here("failure-signs", *OURS, "--out", tmp_path / "first").code == 0
    used = tmp_path / "first" / "scenes_m" / "similarity"
    other = here("failure-signs", "--ckpt", "scenes/other", "--out", tmp_path / "b", "--use", used)
    assert other.code == 2
    assert "not about any --ckpt" in other.err
    twice = here("failure-signs", *OURS, "--out", tmp_path / "b", "--use", used, "--use", used)
    assert "give one" in twice.err
    (used / "run.json").write_text((used / "run.json").read_text().replace("scenes/m0", "scenes/m1"))
    changed = here("failure-signs", *OURS, "--out", tmp_path / "b", "--use", used)
    assert "other weights" in changed.err
    nothing = here("failure-signs", *OURS, "--out", tmp_path / "b", "--use", tmp_path)
    assert "no finished run" in nothing.err


def test_texts_are_read_once_and_rows_are_json(world, here, tmp_path):
    out = tmp_path / "run"
    first = here("failure-signs", *OURS, "--out", out, "--json", "-")
    assert [row["measure"] for row in json.loads(first.out)] == list(MEASURES)
    again = here("failure-signs", *OURS, "--out", out, "--json", "-")
    assert again.out == first.out
    assert world.spoke == ["scenes/m"]
    fresh = here("failure-signs", *OURS, "--out", out, "--json", "-", "--fresh")
    assert fresh.out == first.out
    assert world.spoke == ["scenes/m"] * 2
    assert world.fresh == [False] * 6 + [True] * 3
    assert (out / "earlier-1" / "scores.json").is_file()


@pytest.mark.slow
def test_a_shipped_checkpoint_from_end_to_end_and_never_looked_at_twice(here, tmp_path, monkeypatch):
    out = tmp_path / "run"
    command = ("failure-signs", "--ckpt", "scenes/age-vlm", "--limit", 6, "--draws", 100, "--out", out)
    first = here(*command)
    assert first.code == 0, first.err
    rows = {row["measure"]: row for row in json.loads((out / "scores.json").read_text())["readings"]}
    own = {kind: json.loads((out / "scenes_age-vlm" / kind / "scores.json").read_text())
           for kind in ("similarity", "padding", "grounding")}  # fmt: skip
    held = own["grounding"]["models"]["scenes/age-vlm"]["groups"]
    objects, words = (held[name]["iou"]["corrected"]["others"]["value"] for name in ("object", "attribute"))
    assert rows["attribute"]["value"] == pytest.approx(objects - words)
    assert rows["attribute"]["verdict"] == "present"
    assert rows["padding-object"]["verdict"] == "absent"
    assert rows["yes-to-absent"]["value"] == own["padding"]["absent"][0]["yes"]["value"]
    assert rows["auroc"]["n"].startswith("6 images")
    assert rows["perplexity"]["verdict"] == "not measured"
    assert "per byte" in rows["perplexity"]["note"]

    def never(*_):
        raise AssertionError("a model was loaded again")

    scores = (out / "scores.json").read_text()
    monkeypatch.setattr(ModelChoice, "load", never)
    assert here(*command).code == 0
    assert (out / "scores.json").read_text() == scores
