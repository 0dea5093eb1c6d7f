"""Whole stages: what moves and what does not, accumulation, logs, guards, mixed data, what is written."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from agevlm.checkpoints.tiny import build_age_vlm, random_age_vlm
from agevlm.errors import DataError, TrainError
from agevlm.model import AgeVlmForConditionalGeneration, AgeVlmProcessor
from tests.train.toys import CROSSING, GROUPS, SHAPE, Recorder, Toys, checkpoint, stage
from train.data.samples import Message, Sample
from train.loop import run_stage
from train.spec import Guidance, ParameterGroup, Regions, SourceSpec
from train.weights import export_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


def weights(folder):
    return load_file(folder / "model.safetensors")


def trained_names(tensors):
    return {
        n for n in tensors if n.startswith(("model.adapter.", *(f"model.language_model.layers.{i}." for i in CROSSING)))
    } | {n for n in tensors if n.endswith("attn_gate")}


def test_frozen_bytes_stay_and_trained_weights_move(base, tmp_path):
    recorder = Recorder()
    before = weights(base)
    result = run_stage(stage(base, tmp_path / "run", overlay_every=3), [Toys()], trackers=[recorder])
    after = weights(result.model)
    assert before.keys() == after.keys()
    moved = {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}
    assert moved == trained_names(before)
    for file in ("config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (result.model / file).exists() == (base / file).exists()
    assert (recorder.begun, recorder.looked, recorder.closed) == ([0], [3], 1)
    assert list(recorder.rows) == [2, 4]
    row = recorder.rows[4]
    assert {
        "loss",
        "loss/text",
        "loss/guidance",
        "attention/iou",
        "attention/mass/1",
        "gate/attn/3",
        "gate/mlp/1",
    } <= row.keys()
    assert {"lr/body", "lr/gates", "grad_norm", "guidance_weight", "skipped", "samples"} <= row.keys()
    assert row["samples"] == 32
    assert row["loss"] == pytest.approx(row["loss/text"] + row["loss/guidance"], rel=0.2)
    record = json.loads((result.model / "training.json").read_text())
    assert (record["arm"], record["stage"], record["steps"], record["lineage"]) == ("age-vlm", 1, 4, [])
    assert record["counters"]["samples"] == 32
    # A plain checkpoint, for this stage's successor and for everyone else.
    AgeVlmForConditionalGeneration.from_pretrained(result.model)
    AgeVlmProcessor.from_pretrained(result.model)


def test_training_lowers_both_losses(base, tmp_path):
    recorder = Recorder()
    spec = stage(base, tmp_path / "run", steps=40, log_every=10, guidance=Guidance(), regions=Regions(share=1.0))
    run_stage(spec, [Toys(8)], trackers=[recorder])
    first, last = recorder.rows[10], recorder.rows[40]
    assert last["loss/text"] < 0.7 * first["loss/text"]
    assert last["loss/guidance"] < 0.95 * first["loss/guidance"]
    assert last["attention/mass"] > first["attention/mass"]


def test_accumulation_changes_nothing(base, tmp_path):
    found = []
    for micro in (8, 4, 2, 1):
        recorder = Recorder()
        spec = stage(base, tmp_path / str(micro), micro_batch_size=micro, log_every=1)
        found.append((weights(run_stage(spec, [Toys()], trackers=[recorder]).model), recorder.rows))
    for tensors, rows in found[1:]:
        # Adam turns rounding of the smallest gradients into some of a step, which is up to 2e-3.
        torch.testing.assert_close(tensors, found[0][0], rtol=1e-4, atol=5e-5)
        for step, row in rows.items():
            assert row == pytest.approx(found[0][1][step], rel=1e-4, abs=1e-6)


def test_workers_change_nothing(base, tmp_path):
    plain = run_stage(stage(base, tmp_path / "a"), [Toys()])
    read_ahead = run_stage(stage(base, tmp_path / "b", workers=1), [Toys()])
    assert all(torch.equal(w, weights(read_ahead.model)[name]) for name, w in weights(plain.model).items())


def test_bfloat16_keeps_trained_weights_in_float32_and_frozen_ones_as_stored(tmp_path):
    base = build_age_vlm(tmp_path / "half", shape=SHAPE, dtype="bfloat16")
    before = weights(base)
    result = run_stage(stage(base, tmp_path / "run", precision="bfloat16"), [Toys()])
    after = weights(result.model)
    for name in before:
        if name in trained_names(before):
            assert after[name].dtype == torch.float32
            assert not torch.equal(after[name], before[name].float()), name
        else:
            assert torch.equal(after[name], before[name])
            assert after[name].dtype == torch.bfloat16
    # The next stage takes it up without rounding.
    spec = stage(
        result.model,
        tmp_path / "next",
        stage=2,
        follows=(1,),
        steps=1,
        trainable={"a": ParameterGroup(("model.adapter",), 0.0)},
    )
    again = weights(run_stage(spec, [Toys()]).model)
    assert all(torch.equal(w, again[name]) for name, w in after.items())


def test_guidance_of_no_weight_is_measured_and_changes_nothing(base, tmp_path):
    recorder = Recorder()
    without = run_stage(stage(base, tmp_path / "a", guidance=None), [Toys()])
    measured = run_stage(stage(base, tmp_path / "b", guidance=Guidance(weight=0.0)), [Toys()], trackers=[recorder])
    guided = run_stage(stage(base, tmp_path / "c", guidance=Guidance()), [Toys()])
    assert recorder.rows[4]["attention/mass"] > 0
    assert recorder.rows[4]["loss"] == pytest.approx(recorder.rows[4]["loss/text"], rel=0.1)
    one, same, other = (weights(r.model) for r in (without, measured, guided))
    assert all(torch.equal(w, same[name]) for name, w in one.items())
    assert any(not torch.equal(w, other[name]) for name, w in one.items())


def test_the_weight_of_guidance_rises(base, tmp_path):
    recorder = Recorder()
    guidance = Guidance(weight=2.0, warmup_steps=4)
    run_stage(stage(base, tmp_path / "run", steps=6, log_every=1, guidance=guidance), [Toys()], trackers=[recorder])
    assert [recorder.rows[k]["guidance_weight"] for k in range(1, 7)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


def test_noisy_regions_are_others(base, tmp_path):
    def guided(noise):
        recorder = Recorder()
        run_stage(
            stage(
                base,
                tmp_path / str(noise),
                steps=1,
                log_every=1,
                guidance=Guidance(noise=noise),
                regions=Regions(share=1.0),
            ),
            [Toys()],
            trackers=[recorder],
        )
        return recorder.rows[1]

    clean, some, noisy = guided(0.0), guided(0.5), guided(1.0)
    assert clean["loss/text"] == noisy["loss/text"] == some["loss/text"]
    assert len({clean["loss/guidance"], some["loss/guidance"], noisy["loss/guidance"]}) == 3


def test_several_sources(base, tmp_path):
    sources = [Toys(), Toys(30, "others", text_only=1)]
    spec = stage(
        base,
        tmp_path / "run",
        sources=(SourceSpec("a", 3.0), SourceSpec("b", 1.0)),
        guidance=Guidance(),
        regions=Regions(share=1.0, batch_share=0.25),
    )
    recorder = Recorder()
    run_stage(spec, sources, trackers=[recorder])
    # 3:1, but the two guided samples of every step are all from the source that has any.
    assert [len(source.drawn) for source in sources] == [18 + 8, 6]
    assert recorder.rows[4]["phrases"] > 0


def poison(model_folder, tmp_path):
    """A checkpoint to which one rare token is poison."""
    model = AgeVlmForConditionalGeneration.from_pretrained(model_folder)
    processor = AgeVlmProcessor.from_pretrained(model_folder)
    token = processor.tokenizer.encode("~", add_special_tokens=False)[-1]
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[token] = float("nan")
    model.save_pretrained(tmp_path / "poisoned")
    processor.save_pretrained(tmp_path / "poisoned")
    return tmp_path / "poisoned"


BAD = Sample("bad-one", (Message("user", "what is ~?"), Message("assistant", "No")))


def test_one_bad_sample_costs_one_step(base, tmp_path):
    recorder = Recorder()
    poisoned = poison(base, tmp_path)
    result = run_stage(
        stage(poisoned, tmp_path / "run", steps=3, log_every=1), [Toys(24, broken={7: BAD})], trackers=[recorder]
    )
    assert result.skipped == 1
    assert [recorder.rows[k]["skipped"] for k in (1, 2, 3)][-1] == 1
    assert sum("loss" in row for row in recorder.rows.values()) == 2
    assert all(bool(w.isfinite().all()) for name, w in weights(result.model).items() if "embed_tokens" not in name)


def test_only_bad_samples_stop_the_run_and_are_named(base, tmp_path):
    poisoned = poison(base, tmp_path)
    toys = Toys(8, broken=dict.fromkeys(range(8), BAD))
    before = weights(poisoned)["model.adapter.linear_1.weight"]
    for most in (0, 2):
        settings = {"max_bad_steps": most, "steps": 9, "guidance": None, "save_every": 2}
        with pytest.raises(TrainError, match=rf"step {most + 1}: .* {most + 1} steps in a row.*bad-one"):
            run_stage(stage(poisoned, tmp_path / f"run-{most}", **settings), [toys])
    assert run_stage(stage(base, tmp_path / "healthy", max_bad_steps=0, steps=2), [Toys()]).skipped == 0
    export = export_checkpoint(tmp_path / "run-2", None, tmp_path / "exported")
    assert torch.equal(weights(export)["model.adapter.linear_1.weight"], before)


def test_a_source_that_fails_stops_the_run(base, tmp_path):
    with pytest.raises(DataError, match="the folder is gone"):
        run_stage(stage(base, tmp_path / "run"), [Toys(8, broken={3: DataError("the folder is gone")})])


def test_guided_stages_need_regions(base, tmp_path):
    with pytest.raises(TrainError, match="no sample of its data has a known region"):
        run_stage(stage(base, tmp_path / "a"), [Toys(guided=[])])
    # Regions are announced, but none is ever there.
    nothing = {i: replace(Toys().read(i, 0), phrases=()) for i in range(23)}
    # A shorter stage is told at its end.
    for steps, told in ((60, 50), (3, 3)):
        recorder = Recorder()
        spec = stage(base, tmp_path / f"b{steps}", steps=steps, batch_size=1, micro_batch_size=1)
        with pytest.raises(TrainError, match=f"in {told} steps no phrase"):
            run_stage(spec, [Toys(broken=nothing)], trackers=[recorder])
        assert recorder.closed == 1
        assert not (tmp_path / f"b{steps}" / "model").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 6}, "no multiple"),
        ({"precision": "float16"}, "float32 or bfloat16"),
        ({"guidance": Guidance(layers=(2,))}, r"layers \[2\]"),
        ({"trainable": {"a": ParameterGroup(("model.adaptor",), 1.0)}}, "nearest is model.adapter"),
        ({"fusion": "concat"}, "fusion 'concat'"),
        ({"follows": (2,), "stage": 3}, "starts from stage 2's checkpoint, but .* an assembled"),
        ({"init_from": "nowhere"}, "no checkpoint is there"),
    ],
)
def test_refusals(base, tmp_path, changes, said):
    with pytest.raises(TrainError, match=said):
        run_stage(stage(base, tmp_path / "run", **changes), [Toys()])


def test_concatenation_trains_too_but_has_nothing_to_guide(tmp_path):
    base = checkpoint(tmp_path / "concat", fusion="concat")
    groups = {
        "a": ParameterGroup(("model.adapter",), 1e-3),
        "b": ParameterGroup(("model.language_model.layers.0",), 1e-3),
    }
    spec = stage(base, tmp_path / "run", fusion="concat", trainable=groups, guidance=None)
    before, after = weights(base), weights(run_stage(spec, [Toys()]).model)
    assert any(not torch.equal(w, after[n]) for n, w in before.items() if n.startswith("model.adapter."))
    with pytest.raises(TrainError, match="no cross-attention"):
        run_stage(replace(spec, out=str(tmp_path / "other"), guidance=Guidance()), [Toys()])


def test_stages_follow_each_other(base, tmp_path):
    one = run_stage(stage(base, tmp_path / "one", steps=1), [Toys()])
    vision = GROUPS | {"vision": ParameterGroup(("model.vision_tower.trunk.stages.2.blocks.0",), 1e-4)}
    spec = stage(one.model, tmp_path / "two", stage=2, follows=(1,), name="vision", steps=1, trainable=vision)
    two = run_stage(spec, [Toys()])
    record = json.loads((two.model / "training.json").read_text())
    assert [stage["stage"] for stage in record["lineage"]] == [1]
    with pytest.raises(TrainError, match=r"starts from stage 1's checkpoint, but .* of stage 2 \(vision\)"):
        run_stage(replace(spec, init_from=str(two.model), out=str(tmp_path / "x")), [Toys()])
    with pytest.raises(TrainError, match="run folder: give the model folder"):
        run_stage(replace(spec, init_from=str(tmp_path / "one"), out=str(tmp_path / "x")), [Toys()])


def test_the_whole_model_can_train_with_checkpointing(base, tmp_path):
    everything = {"all": ParameterGroup(("model", "lm_head"), 1e-3, 0.01)}
    found = []
    for checkpointing in (False, True):
        spec = stage(base, tmp_path / str(checkpointing), trainable=everything, gradient_checkpointing=checkpointing)
        found.append(weights(run_stage(spec, [Toys()]).model))
    before = weights(base)
    assert all(not torch.equal(w, before[name]) for name, w in found[0].items())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_tied_embeddings_stay_one_weight(tmp_path, head):
    model, processor = random_age_vlm(SHAPE, 0)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "tied")
    processor.save_pretrained(tmp_path / "tied")
    groups = GROUPS if head == "frozen" else {"head": ParameterGroup(("lm_head",), 1e-3)}
    for precision in ("float32", "bfloat16"):
        spec = stage(tmp_path / "tied", tmp_path / precision, steps=2, trainable=groups, precision=precision)
        before, after = weights(tmp_path / "tied"), weights(run_stage(spec, [Toys()]).model)
        assert before.keys() == after.keys()
        assert "lm_head.weight" not in after
        words = "model.language_model.embed_tokens.weight"
        assert torch.equal(before[words], after[words]) == (head == "frozen")
        assert after[words].dtype == (torch.bfloat16 if head == "frozen" else torch.float32)
