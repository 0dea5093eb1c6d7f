"""The stages that come with the package: what each trains, name by name, and what the arms share.

Golden lists lie in tests/train/golden; `python -m tests.train.test_stages` writes them anew, to be read by eye.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agevlm.data.checkpoint_files import EMBEDDED, SCENES
from agevlm.model import AgeVlmConfig
from agevlm.model.describe import backbone_config, on_meta, variant
from train.config import built_in_names, load_stage, spec_hash
from train.data.feed import build_order
from train.freezing import trainable_names

GOLDEN = Path(__file__).with_name("golden")
STAGES = ("1-align", "2-vision", "3-guide", "4-instruct")
ARMS = ("age-vlm", "ca-baseline", "concat", "concat-unfrozen")


@cache
def model(size: str, fusion: str) -> Any:
    if size == "paper":
        return on_meta(variant(backbone_config("1b"), fusion=fusion))
    shipped = EMBEDDED / SCENES / ("age-vlm" if fusion == "cross" else "concat")
    return on_meta(AgeVlmConfig.from_pretrained(shipped))


def listed(size: str, arm: str, name: str) -> str:
    spec = load_stage(f"{size}/{arm}/{name}")
    built = model(size, spec.fusion)
    names = trainable_names(built, spec.trainable)
    sizes = dict(built.named_parameters())
    count = sum(sizes[n].numel() for n in names)
    return f"# {len(names)} tensors, {count:,} parameters\n" + "".join(f"{n}\n" for n in names)


CASES = [(size, arm, name) for size in ("paper", "scenes") for arm in ("age-vlm", "concat") for name in STAGES]
CASES += [("paper", "concat-unfrozen", "4-instruct"), ("scenes", "concat-unfrozen", "4-instruct")]


@pytest.mark.parametrize(("size", "arm", "name"), CASES)
def test_each_stage_trains_exactly_the_parameters_on_its_list(size, arm, name):
    assert listed(size, arm, name) == (GOLDEN / f"{size}-{arm}-{name}.txt").read_text()


@pytest.mark.parametrize(
    ("arm", "name", "millions"),
    [
        ("age-vlm", "1-align", 250.6),
        ("age-vlm", "2-vision", 269.6),
        ("age-vlm", "3-guide", 269.6),
        ("age-vlm", "4-instruct", 269.6),
        ("concat", "1-align", 7.3),
        ("concat", "4-instruct", 26.3),
        ("concat-unfrozen", "4-instruct", 1262.1),
    ],
)
def test_counts_at_paper_size(arm, name, millions):
    count = int(listed("paper", arm, name).split()[3].replace(",", ""))
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("size", ["paper", "scenes"])
def test_the_arms_differ_only_in_what_they_are_named_for(size):
    def settings(arm: str, name: str, *without: str) -> dict[str, Any]:
        spec = vars(load_stage(f"{size}/{arm}/{name}"))
        return {k: v for k, v in spec.items() if k not in ("arm", "out", "init_from", *without)}

    for name in STAGES:
        guided, plain = (load_stage(f"{size}/{arm}/{name}") for arm in ("age-vlm", "ca-baseline"))
        assert settings("age-vlm", name, "guidance") == settings("ca-baseline", name, "guidance")
        if name in STAGES[:2]:
            assert guided.guidance is plain.guidance is None
            assert spec_hash(guided) == spec_hash(plain)
        else:
            assert guided.guidance is not None
            assert plain.guidance is not None
            assert (guided.guidance.weight > 0, plain.guidance.weight) == (True, 0)
        fused = settings("concat", name, "guidance", "fusion", "trainable")
        assert fused == settings("age-vlm", name, "guidance", "fusion", "trainable")
        if name != STAGES[3]:
            assert settings("concat", name) == settings("concat-unfrozen", name)
    unfrozen = load_stage(f"{size}/concat-unfrozen/4-instruct").trainable
    assert unfrozen.keys() - load_stage(f"{size}/concat/4-instruct").trainable.keys() == {"language_model"}


class Pictures:
    """Some of them with regions."""

    name = "pictures"
    guided = range(0, 900, 3)

    def __len__(self):
        return 900


@pytest.mark.parametrize("changes", [(), ("regions.batch_share=0.1",)])
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("size", ["paper", "scenes"])
def test_all_arms_see_the_same_samples_in_the_same_order(size, name, changes):
    seen = {}
    for arm in ARMS:
        order = build_order(load_stage(f"{size}/{arm}/{name}", changes), [Pictures()])
        seen[arm] = [(one.index, one.epoch, one.guided) for step in range(20) for one in order.step(step)]
    assert len(set(map(tuple, seen.values()))) == 1
    assert {guided for _, _, guided in seen["concat"]} == {True, False}


@pytest.mark.parametrize("size", ["paper", "scenes"])
def test_stages_follow_each_other(size):
    for arm in ARMS:
        specs = [load_stage(f"{size}/{arm}/{name}", ["seed=3"]) for name in STAGES]
        assert [s.stage for s in specs] == [1, 2, 3, 4]
        assert [s.follows for s in specs] == [(0,), (1,), (2,), (3,)]
        for before, after in pairwise(specs):
            assert after.init_from == f"{before.out}/model"
        assert all("seed-3" in s.out for s in specs)
        assert len({s.out for s in specs}) == 4


def test_all_that_is_built_in_is_tested_here():
    assert built_in_names() == sorted(f"{s}/{a}/{n}" for s in ("paper", "scenes") for a in ARMS for n in STAGES)


def test_the_papers_numbers():
    guide, instruct = (load_stage(f"paper/age-vlm/{name}") for name in STAGES[2:])
    assert (guide.planned_samples, guide.planned_guided) == (2_500_000, 77_000)
    assert (instruct.planned_samples, instruct.planned_guided) == (10_000_000, 150_000)
    for spec in (guide, instruct):
        assert 0 <= spec.steps * spec.batch_size - (spec.planned_samples or 0) < spec.batch_size


def test_gates_are_never_decayed():
    for name in built_in_names():
        gates = load_stage(name).trainable.get("gates")
        assert gates is None or gates.weight_decay == 0


if __name__ == "__main__":
    for case in CASES:
        (GOLDEN / f"{'-'.join(case)}.txt").write_text(listed(*case))
