"""What the demo says in words is what the intervals say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.demo_inside import compared, grounding_told, inside, similarity_told


def limits(value, half=0.05):
    return {"value": value, "low": value - half, "high": value + half}


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_a_difference_is_established_where_no_value_of_its_interval_has_the_other_sign(points):
    low, value, high = sorted(points)
    said = compared("a", "b", "IoU", {"value": value, "low": low, "high": high})
    signs = {(point > 0) - (point < 0) for point in points}
    expected = {1: "higher, established", -1: "lower, established"}.get(signs.pop() if len(signs) == 1 else 0, "a tie")
    assert said.endswith(f": {expected}")
    assert said.startswith("IoU of a less that of b")


@pytest.mark.parametrize(("value", "said"), [(None, "undefined"), (1.0, "no interval")])
def test_without_an_interval_nothing_is_established(value, said):
    assert compared("a", "b", "IoU", {"value": value, "low": None, "high": None}).endswith(f": {said}")


def similar(model, value, **changes):
    same = {"space": "hidden", "pooling": "mean", "form": "raw", "kind": "other", "headline": True}
    return {"model": model, "auroc": limits(value), **same, **changes}


def test_pairs_are_told_apart_or_not_or_the_wrong_way_round():
    decoys = [similar("z", 0.9, **change) for change in ({"headline": False}, {"kind": "hard"}, {"space": "query_key"})]
    cells = [*decoys, similar("a", 0.7), similar("b", 0.52), similar("c", 0.3, form="centred")]
    difference = {**similar("", 0.18), "first": "a", "second": "b"}
    told = list(similarity_told({"cells": cells, "differences": [difference]}))
    assert told == [
        "raw states, a: AUROC 0.700 [0.650, 0.750]: told apart",
        "raw states, b: AUROC 0.520 [0.470, 0.570]: not told apart: the interval holds 0.5",
        "raw states, AUROC of a less that of b: +0.180 [+0.130, +0.230]: higher, established",
        "centred states, c: AUROC 0.300 [0.250, 0.350]: the wrong way round",
    ]


def test_attention_is_told_beside_chance():
    def held(value, beyond):
        iou = {**limits(value), "corrected": {"others": limits(beyond)}}
        return {"headline": {"iou": iou, "mass": limits(0.3)}}

    content = {"models": {"a": held(0.5, 0.9), "b": held(0.1, 0.02)}, "differences": {"a - b": {"iou": limits(0.4)}}}
    first, second, difference = grounding_told(content)
    assert "0.900 [0.850, 0.950]: beyond chance" in first
    assert "not shown to be beyond chance" in second
    assert difference == "IoU of a less that of b: +0.400 [+0.350, +0.450]: higher, established"


def test_the_steps_are_commands_that_there_are(tmp_path, monkeypatch):
    from agevlm.cli import eval_group

    steps = []
    monkeypatch.setattr("reports.demo_inside._scores", lambda _: {"cells": [], "models": {}, "differences": {}})
    inside(tmp_path, lambda _, arguments: steps.append(arguments))
    assert [name for name, *_ in steps] == ["similarity", "grounding", "failure-signs"]
    for name, *arguments in steps:
        # click refuses an option that the command does not have.
        context = eval_group.get_command(None, name).make_context(name, arguments)
        assert len(context.params["ckpts"]) == 3
    assert steps[2].count("--use") == 2
