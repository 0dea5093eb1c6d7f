"""Which settings tell runs apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reports.baselines.linking import Point
from reports.baselines.settings import LONG, differing, equal, settings_of, telling
from reports.baselines.training import open_training
from tests.reports.baselines.runs import written

NAMES = ("arm", "stage", "steps", "trained steps", "guidance.form", "data", "stage 2: steps", "model.layers")
SETTINGS = st.lists(
    st.fixed_dictionaries(
        {"trained steps": st.sampled_from("12"), "steps": st.sampled_from("12")},
        optional={name: st.sampled_from(["a", "b", "c" * (LONG + 1)]) for name in NAMES if "steps" not in name[:13]},
    ),
    min_size=1,
    max_size=6,
)


@given(SETTINGS)
def test_no_two_runs_of_different_settings_look_alike(every):
    names = differing(every)
    columns = telling(every, names)
    assert set(columns) <= set(names)
    for one in every:
        for other in every:
            if one != other:
                assert any(one.get(name) != other.get(name) for name in columns)


@given(SETTINGS)
def test_what_is_the_same_in_all_differs_in_none(every):
    assert not set(equal(every)) & set(differing(every))


def point(folder, seed=0, **settings):
    run = open_training(written(folder, seed, **settings))
    return Point(run, run.steps)


def test_seeds_and_places_make_no_difference(tmp_path):
    every = settings_of([point(tmp_path / "a"), point(tmp_path / "b", 1, log_every=7, save_every=3, workers=2)])
    assert every[0] == every[1]
    assert not any("/" in text for text in every[0].values())


def test_one_and_one_point_zero_are_one_setting(tmp_path):
    every = settings_of([point(tmp_path / "a", clip=1), point(tmp_path / "b", 1, clip=1.0)])
    assert differing(every) == []
    assert every[0]["clip"] == "1"


def test_the_same_setting_of_an_earlier_stage_has_no_column_of_its_own():
    every = [{"steps": s, "trained steps": s, "arm": a, "stage 2: arm": a} for s, a in (("1", "x"), ("2", "y"))]
    assert telling(every, differing(every)) == ["steps", "arm"]


def test_a_list_of_modules_has_a_column_only_where_nothing_else_tells(tmp_path):
    long = {"trainable": {"cross": {"modules": ["model.language_model.layers.1", "model.language_model.layers.4"]}}}
    short = {"trainable": {"cross": {"modules": ["model.language_model.layers.3"]}}}
    named = settings_of([point(tmp_path / "a", arm="two", **long), point(tmp_path / "b", arm="one", **short)])
    assert telling(named, differing(named)) == ["arm"]
    same = settings_of([point(tmp_path / "c", **long), point(tmp_path / "d", **short)])
    assert telling(same, differing(same)) == ["trainable.cross.modules"]


def test_no_guidance_is_not_some_guidance(tmp_path):
    every = settings_of([point(tmp_path / "a"), point(tmp_path / "b", guidance=None)])
    assert [one["guidance"] for one in every] == ["yes", "none"]
    # Its weight and form are set in one of the two alone: the setting itself says which.
    assert telling(every, differing(every)) == ["guidance"]
