"""The check that a stage leaves the language model alone, or says how much it forgot."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm, random_age_vlm
from agevlm.errors import CheckpointError, DataError, TrainError
from agevlm.model import AgeVlmForConditionalGeneration, AgeVlmProcessor
from train.config import load_stage
from train.language import (
    FILE,
    REPORT,
    TEXTS,
    after_stage,
    carry,
    check_language,
    language_reference,
    load_reference,
    perplexity,
    save_reference,
    trains_language,
)
from train.spec import ParameterGroup


@pytest.fixture
def tiny():
    return random_age_vlm(AgeVlmShape(), 0)


@pytest.fixture
def reference(tiny):
    return language_reference(tiny[0], tiny[1].tokenizer)


def nudge(model, path, by=1e-3):
    with torch.no_grad():
        model.get_parameter(path).add_(by)


SIGHT = ["model.adapter.linear_1.weight", "model.language_model.layers.1.attn_gate"]
SIGHT += ["model.language_model.layers.4.cross_attn.q_proj.weight", "model.language_model.layers.4.mlp.up_proj.weight"]


def test_what_sees_may_change(tiny, reference):
    for path in SIGHT:
        nudge(tiny[0], path, 1.0)
    report = check_language(tiny[0], reference, frozen=True)
    assert (report.identical, report.largest_difference) == (True, 0.0)
    assert report.perplexity_before == report.perplexity_after
    assert "bit for bit" in report.line()


@pytest.mark.parametrize("path", ["model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_the_least_change_of_the_language_model_is_found(tiny, reference, path):
    nudge(tiny[0], path, 1e-6)
    with pytest.raises(TrainError, match=r"largest difference of a logit is [\d.]+"):
        check_language(tiny[0], reference, frozen=True)
    report = check_language(tiny[0], reference, frozen=False)
    assert not report.identical
    assert report.largest_difference > 0
    assert "before this one" in report.line()


def test_perplexity_is_of_the_texts(tiny, reference):
    model, processor = tiny
    losses, count = 0.0, 0
    for text in TEXTS:
        ids = processor.tokenizer(text, return_tensors="pt")["input_ids"][:, :64]
        with torch.no_grad():
            losses += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert perplexity(reference) == pytest.approx(math.exp(losses / count), rel=1e-4)


def test_nan_and_other_vocabularies(tiny, reference):
    nudge(tiny[0], "lm_head.weight", math.nan)
    with pytest.raises(TrainError, match="nan"):
        check_language(tiny[0], reference, frozen=True)
    other, _ = random_age_vlm(AgeVlmShape(vocabulary=500), 0)
    with pytest.raises(TrainError, match="another vocabulary"):
        check_language(other, reference, frozen=False)


def test_a_reference_travels_as_a_file(reference, tmp_path):
    assert load_reference(tmp_path) is None
    save_reference(reference, tmp_path)
    found = load_reference(tmp_path)
    assert found is not None
    assert found.texts == TEXTS
    for name in ("tokens", "logits"):
        pairs = zip(getattr(found, name), getattr(reference, name), strict=True)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    (tmp_path / FILE).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="damaged"):
        load_reference(tmp_path)


def test_texts_of_ones_own(tmp_path, tiny):
    assert language_reference(tiny[0], tiny[1].tokenizer, ["One two three."]).texts == ("One two three.",)
    with pytest.raises(DataError, match="fewer than two tokens"):
        language_reference(tiny[0], tiny[1].tokenizer, [""])
    with pytest.raises(DataError, match="no text"):
        language_reference(tiny[0], tiny[1].tokenizer, [])


def test_which_stages_train_language(tiny):
    spec = load_stage("scenes/age-vlm/1-align")
    groups = {
        False: ["model.adapter", "model.language_model.layers.1", "model.language_model.layers.*.attn_gate"],
        True: ["model.language_model.layers.2", "model.language_model.norm", "lm_head", "model.language_model"],
    }
    for answer, paths in groups.items():
        for path in paths:
            changed = replace(spec, trainable={"x": ParameterGroup((path,), 1.0)})
            assert trains_language(tiny[0], changed) is answer


def test_the_first_reference_goes_along_the_lineage(tmp_path):
    """Two stages, the second of which trains the language model; and a third that claims not to."""
    build_age_vlm(tmp_path / "0", shape=AgeVlmShape())
    changes = [SIGHT[0], "model.language_model.layers.0.mlp.up_proj.weight"]
    groups = ["model.adapter", "model.language_model.layers.0"]
    first = None
    for number, (path, group) in enumerate(zip(changes, groups, strict=True), start=1):
        run = tmp_path / str(number)
        model = AgeVlmForConditionalGeneration.from_pretrained(
            tmp_path / "0" if number == 1 else tmp_path / "1" / "model"
        )
        nudge(model, path, 0.1)
        model.save_pretrained(run / "model")
        AgeVlmProcessor.from_pretrained(tmp_path / "0").save_pretrained(run / "model")
        start = tmp_path / "0" if number == 1 else tmp_path / "1" / "model"
        spec = replace(
            load_stage("scenes/concat/1-align", [f"init_from={start}"]), trainable={"x": ParameterGroup((group,), 1.0)}
        )
        report = after_stage(spec, run / "model", run)
        assert report is not None
        assert report.identical is (number == 1)
        first = first or report.perplexity_before
        assert report.perplexity_untrained == first
        assert json.loads((run / REPORT).read_text())["frozen"] is (number == 1)
        reference = load_reference(run / "model")
        assert reference is not None
        assert reference.texts == spec.language_texts
    assert (tmp_path / "1" / "model" / FILE).read_bytes() == (tmp_path / "2" / "model" / FILE).read_bytes()
    lying = replace(spec, trainable={"x": ParameterGroup(("model.adapter",), 1.0)})
    with pytest.raises(TrainError, match="the language model is frozen"):
        after_stage(lying, tmp_path / "2" / "model", tmp_path / "2")
    assert after_stage(replace(spec, init_from="gone"), tmp_path / "2" / "model", tmp_path / "2") is None
    (tmp_path / "export").mkdir()
    carry(tmp_path / "2", tmp_path / "export")
    assert (tmp_path / "export" / FILE).is_file()
