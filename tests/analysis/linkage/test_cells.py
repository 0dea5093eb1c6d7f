"""Which cells are hidden."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.vlm.contract import Ask
from analysis.linkage import cells
from analysis.linkage.hide import SHARES, CausalSettings, Subject, plan


def test_an_object_is_all_cells_it_touches() -> None:
    mask = np.zeros((5, 6))
    mask[2, 3] = 0.01
    allowed = np.ones((5, 6), bool)
    assert cells.of_object(mask, allowed).sum() == 1
    assert cells.of_object(mask, allowed, border=1).sum() == 9
    allowed[:, 4:] = False
    assert cells.of_object(mask, allowed, border=1).sum() == 6


def test_the_most_attended_allowed_cells() -> None:
    attention = np.arange(12.0).reshape(3, 4)
    allowed = np.ones((3, 4), bool)
    allowed[2, 3] = False
    assert np.argwhere(cells.top(attention, allowed, 2)).tolist() == [[2, 1], [2, 2]]
    assert np.argwhere(cells.top(np.ones((3, 4)), allowed, 2)).tolist() == [[0, 0], [0, 1]]


def test_padding_is_never_hidden() -> None:
    assert cells.of_image(np.array([[0.0, 0.49, 0.5, 1.0]])).tolist() == [[False, False, True, True]]


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4))
def test_moved_shapes_are_the_same_elsewhere(seed: int, height: int, width: int) -> None:
    draw = np.random.default_rng(seed)
    own = np.zeros((7, 8), bool)
    own[1 : 1 + height, 2 : 2 + width] = draw.random((height, width)) < 0.7
    own[1, 2] = True
    others = ~own
    found = cells.moved(own, others, 5, draw)
    for one in found:
        assert not (one & own).any()
        assert one.sum() == own.sum()
        first, second = np.argwhere(own), np.argwhere(one)
        assert (second - first == second[0] - first[0]).all()
    assert len({one.tobytes() for one in found}) == len(found)


def test_no_room_for_the_same_shape() -> None:
    own = np.zeros((3, 3), bool)
    own[:, 1] = own[1, :] = True
    assert cells.moved(own, ~own, 3, np.random.default_rng(0)) == []


def subject(mask: np.ndarray, identity: str = "a") -> Subject:
    attention = np.random.default_rng(3).random(mask.shape)
    return Subject(Ask("Is there a dog in the image?", 0), mask, attention, identity)


def test_controls_have_the_objects_size_and_none_of_it() -> None:
    mask = np.zeros((12, 12))
    mask[2:5, 3:6] = 1
    coverage = np.ones((12, 12))
    coverage[:2] = 0
    hidings = plan(subject(mask), coverage, CausalSettings(4, 0, 0))
    by_kind: dict[str, list[np.ndarray]] = {}
    for one in hidings:
        if one.share is None:
            by_kind.setdefault(one.what, []).append(one.cells)
    assert {kind: len(own) for kind, own in by_kind.items()} == {
        "nothing": 1, "object": 1, "attended": 1, "random": 4, "moved": 4,
    }  # fmt: skip
    assert not by_kind["nothing"][0].any()
    for kind in ("random", "moved"):
        for one in by_kind[kind]:
            assert one.sum() == 9
            assert not (one & (mask > 0)).any()
            assert not one[:2].any()
    assert len({one.tobytes() for one in by_kind["random"]}) == 4
    for share in SHARES:
        assert {one.cells.sum() for one in hidings if one.share == share} == {round(share * 120)}


def test_places_depend_on_seed_and_question_alone() -> None:
    mask = np.zeros((12, 12))
    mask[4, 4] = 1

    def places(identity: str, seed: int) -> list[bytes]:
        hidings = plan(subject(mask, identity), np.ones((12, 12)), CausalSettings(3, 0, seed))
        return [one.cells.tobytes() for one in hidings if one.what == "random"]

    assert places("a", 0) == places("a", 0)
    assert places("a", 0) != places("b", 0)
    assert places("a", 0) != places("a", 1)


@pytest.mark.parametrize("rows", [4, 0])
def test_an_object_without_room_for_a_control_is_left_out(rows: int) -> None:
    mask = np.zeros((6, 6))
    mask[:rows] = 1
    assert plan(subject(mask), np.ones((6, 6)), CausalSettings(3, 0, 0)) == []
