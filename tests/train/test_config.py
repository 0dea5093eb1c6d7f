"""Stage files: merging, overriding, variables, and what is said of mistakes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from train.config import (
    ConfigError,
    built_in_names,
    find_stage,
    load_stage,
    spec_as_dict,
    spec_from_dict,
    spec_hash,
    stage_yaml,
)
from train.spec import DICE_FORMS, StageSpec

BASE = """
name: guide
arm: age-vlm
stage: 3
follows: [2]
init_from: ${runs}/before
out: ${runs}/${arm}/${seed}
vars: {runs: somewhere}
fusion: cross
trainable:
  adapter: {modules: [model.adapter], lr: 1e-3}
  cross: {modules: [model.language_model.layers.1], lr: 2e-4, weight_decay: 0.1}
sources:
  - {kind: llava, options: {path: a.jsonl}}
  - {kind: scenes, weight: 2}
steps: 10
batch_size: 8
micro_batch_size: 4
guidance: {form: mass, layers: [1]}
"""


@pytest.fixture
def write(tmp_path):
    def make(text: str, name: str = "stage.yaml") -> Any:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return make


@pytest.fixture
def base(write):
    return write(BASE)


def test_a_stage_becomes_frozen_dataclasses(base):
    spec = load_stage(base)
    assert isinstance(spec, StageSpec)
    assert (spec.out, spec.init_from) == ("somewhere/age-vlm/0", "somewhere/before")
    assert spec.trainable["cross"].lr == 2e-4  # YAML 1.1 would call it a text
    assert spec.trainable["adapter"].modules == ("model.adapter",)
    assert spec.guidance is not None
    assert (spec.guidance.form, spec.guidance.layers, spec.regions.share) == ("mass", (1,), 0.1)
    assert [s.weight for s in spec.sources] == [1.0, 2.0]
    assert spec.sources[0].options == {"path": "a.jsonl"}
    assert spec.betas == (0.9, 0.999)


def test_files_extend_each_other_and_null_takes_out(base, write):
    write("steps: 20\nguidance: {weight: 0.5}\ntrainable: {cross: {lr: 0.5}}\n", "more.yaml")
    file = write(
        "extends: [../stage.yaml, ../more.yaml]\nguidance: {layers: null}\nsources: [{kind: llava}]\n", "a/b.yaml"
    )
    spec = load_stage(file)
    assert spec.steps == 20
    assert spec.trainable["cross"].lr == 0.5
    assert spec.trainable["cross"].weight_decay == 0.1
    assert spec.guidance is not None
    assert (spec.guidance.form, spec.guidance.weight, spec.guidance.layers) == ("mass", 0.5, None)
    assert len(spec.sources) == 1  # lists are replaced
    assert load_stage(write("extends: stage.yaml\nguidance: null", "c.yaml")).guidance is None


def test_overrides_are_yaml_and_reach_into_lists(base):
    changes = ["guidance.layers=[2, 3]", "sources.0.options.path=b", "seed=7", "trainable.cross=null", "vars.runs=x"]
    spec = load_stage(base, [*changes, "sources.1.weight=5e-1"], {"arm": "other"})
    assert spec.guidance is not None
    assert spec.guidance.layers == (2, 3)
    assert spec.sources[0].options["path"] == "b"
    assert spec.sources[1].weight == 0.5
    assert list(spec.trainable) == ["adapter"]
    assert spec.out == "x/other/7"
    assert load_stage(base, ["guidance=null"]).guidance is None


def test_a_variable_alone_keeps_its_type(base):
    assert load_stage(base, ["vars.n=12", "steps=${n}"]).steps == 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("guidance.wieght=1", "guidance.wieght .*no such setting; did you mean weight"),
        ("stpes=1", "stpes.*did you mean steps"),
        ("trainable.cross.rate=1", r"trainable\.cross\.rate.*no such setting"),
        ("sources.0.wait=1", r"sources\.0\.wait.*did you mean weight"),
        ("steps=0", "steps.*0 is too small: at least 1"),
        ("steps=ten", "steps.*expected a whole number, not 'ten'"),
        ("steps=1.5", "expected a whole number"),
        ("steps=true", "expected a whole number"),
        ("wandb=1", "expected true or false"),
        ("clip=.nan", "expected a number"),
        ("clip=0", "clip.*above 0"),
        ("name=3", "expected a text"),
        ("batch_size=9", "batch_size.*9 is no multiple of micro_batch_size 4"),
        ("warmup_share=1.5", "warmup_share.*from 0 to 1"),
        ("regions.share=-0.1", "regions.share.*from 0 to 1"),
        ("regions.batch_share=2", "regions.batch_share.*from 0 to 1"),
        ("guidance.threshold=1", "guidance.threshold"),
        ("guidance.form=squred", "guidance.form.*did you mean squared"),
        ("guidance.tokens=some", "give one of last, first, all"),
        ("guidance=3", "guidance.*expected a mapping"),
        ("fusion=both", "fusion.*give one of cross, concat"),
        ("fusion=concat", "guidance.*fusion 'concat' has none"),
        ("precision=bf16", "did you mean bfloat16"),
        ("stage=0", "stage.*give one of 1, 2, 3, 4"),
        ("follows=[]", "follows.*at least one"),
        ("follows=[7]", "follows.*from 0 to 4"),
        ("betas=[0.9]", "betas.*expected 2 values"),
        ("betas=[0.9, 1]", "betas.*below 1"),
        ("trainable.adapter.lr=0", "above 0"),
        ("trainable.adapter.modules=model.adapter", "expected a list"),
        ("trainable.adapter.modules=[]", "empty list"),
        ("trainable.adapter.modules=[model..x]", "no module path"),
        ("trainable.cross.modules=[model.adapter]", "stands in group adapter already"),
        ("sources=[]", "no data"),
        ("out=''", "out.*empty"),
        ("steps=null", "missing: steps"),
        ("planned_guided=5", "planned_guided.*more than planned_samples None"),
        ("out=${nam}", r"\$\{nam\} stands for nothing; did you mean \$\{name\}"),
        ("out=${out}", "stands for itself"),
        ("sources.2.weight=1", "'2' is no entry of a list of 2"),
        ("sources.x.weight=1", "'x' is no entry"),
        ("vars.run=x", r"nothing uses a variable run; did you mean runs\?"),
        ("steps", "write it as name=value"),
        ("=3", "write it as name=value"),
        ("steps=[", "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(base, change, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load_stage(base, [change])
    assert "\n" not in str(caught.value)
    assert change.partition("=")[0] in str(caught.value)


def test_a_mistake_is_traced_to_the_file_that_it_stands_in(write, base):
    write("guidance: {wieght: 1}\n", "wrong.yaml")
    file = write("extends: [stage.yaml, wrong.yaml]\n", "top.yaml")
    with pytest.raises(ConfigError, match=r"top\.yaml: guidance\.wieght \(from .*wrong\.yaml\)"):
        load_stage(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: 1\nsteps: 2\n", "line 2: key 'steps' stands there already, in line 1"),
        ("guidance: {form: max, form: area}", "key 'form' stands there already"),
        ("1: 2", "key 1 is no text"),
        ("a: [", "not YAML"),
        ("- a", "a mapping of settings, not a list"),
        ("extends: nowhere.yaml", "no such file"),
        ("extends: 3", "a file name or a list"),
        ("vars: {a: [1]}", "vars: expected a mapping of plain values"),
    ],
)
def test_unusable_files(write, text, says):
    file = write(text, "bad.yaml")
    with pytest.raises(ConfigError, match=says) as caught:
        load_stage(file)
    assert "bad.yaml" in str(caught.value)


def test_circles_are_found(write):
    write("extends: b.yaml", "a.yaml")
    write("extends: a.yaml", "b.yaml")
    with pytest.raises(ConfigError, match="circle"):
        load_stage(write("extends: a.yaml", "c.yaml"))


def test_nothing_in_a_file_is_run(write):
    with pytest.raises(ConfigError, match="not YAML"):
        load_stage(write("steps: !!python/object/apply:os.getcwd []", "evil.yaml"))


def test_saved_stages_come_back_the_same(base, write, tmp_path):
    for name in [base, *built_in_names()]:
        spec = load_stage(name)
        assert load_stage(write(stage_yaml(spec), "saved.yaml")) == spec
        assert spec_from_dict(spec_as_dict(spec)) == spec


def test_the_hash_is_of_the_maths_alone(base):
    spec = load_stage(base)
    same = [
        "out=x",
        "init_from=y",
        "workers=3",
        "save_every=9",
        "keep=5",
        "log_every=2",
        "overlay_every=7",
        "wandb=true",
    ]
    assert spec_hash(load_stage(base, same)) == spec_hash(spec)
    changed = [
        "seed=1",
        "data_seed=1",
        "steps=11",
        "guidance.weight=2",
        "trainable.cross.lr=1",
        "clip=2",
        "betas=[0, 0]",
    ]
    hashes = {spec_hash(load_stage(base, [one])) for one in [*changed, "sources.0.options.path=z", "guidance=null"]}
    assert len(hashes | {spec_hash(spec)}) == len(changed) + 3
    assert re.fullmatch("[0-9a-f]{64}", spec_hash(spec))
    assert spec_hash(replace(spec, trainable=dict(spec.trainable))) == spec_hash(spec)


def test_built_in_stages_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_stage("paper/age-vlm/3-guide").is_file()
    assert find_stage("paper/age-vlm/3-guide.yaml").is_file()
    with pytest.raises(ConfigError, match="paper/age-vlm/3-guide"):
        find_stage("paper/age-vlm/3-giude")


def test_every_form_can_be_chosen(base):
    assert [load_stage(base, [f"guidance.form={form}"]).guidance.form for form in DICE_FORMS] == list(DICE_FORMS)
