"""The tables' cells against scores.json, formatted without the project's own means."""

from __future__ import annotations

import copy as copies

import pytest

from reports.sections.inside import side, verdict
from tests.reports.sections.inside.conftest import (
    KINDS,
    MODELS,
    drawn_not,
    row_of,
    rows_of,
    scores_of,
    shown,
    tables_of,
    write,
)

ONE, TWO = MODELS


def test_similarity_is_that_of_the_headline_layer_and_pooling(made):
    tables, scores = tables_of(made / "similarity"), scores_of(made / "similarity")
    main = {
        (c["model"], c["kind"], c["form"]): c
        for c in scores["cells"]
        if c["headline"] and c["space"] == "hidden" and c["pooling"] == "mean"
    }
    assert len(main) == len(tables["similarity"].rows) == 2 * 2 * 2
    cell = main[ONE, "hard", "centred"]
    own = {"model": ONE, "against": "one object swapped", "states": "centred"}
    row = row_of(tables["similarity"], **own)
    assert row["layer"] == cell["layer"]
    assert [row[n] for n in ("AUROC", "paired accuracy", "overlap")] == [
        shown(cell[n]) for n in ("auroc", "paired", "overlap")
    ]
    assert row["Cohen's d"] == shown(cell["d"], form="+.3f")
    assert row["overlap of chance"] == f"{cell['overlap_of_chance']:.3f}"
    control = row_of(tables["similarity-controls"], space="hidden states", **own)
    assert control["AUROC of the text alone"] == shown(cell["auroc_of_text_alone"])
    assert control["AUROC above it"] == shown(cell["auroc_above_text_alone"], form="+.3f")
    assert control["pairs"] == str(cell["pairs"])
    assert control["mean cosine, matching"] == f"{cell['mean_match']:+.3f}"
    gap = next(
        d
        for d in scores["differences"]
        if (d["space"], d["pooling"], d["form"], d["kind"]) == ("hidden", "mean", "raw", "other")
    )
    same = {"space": "hidden states", "against": "another image's caption", "states": "raw"}
    row = row_of(tables["similarity-differences"], first=ONE, second=TWO, **same)
    assert row["AUROC"] == shown(gap["auroc"], form="+.3f")
    assert len(tables["similarity-attention"].rows) == 4 * (2 + 1), "concat has no output of cross-attention"


def test_grounding_stands_beside_every_null(made):
    tables, scores = tables_of(made / "grounding"), scores_of(made / "grounding")["models"]
    for model in MODELS:
        for score, named in (("iou", "IoU, area-matched"), ("mass", "mass inside"), ("lift", "mass over area")):
            cell = scores[model]["headline"][score]
            row = row_of(tables["grounding"], model=model, score=named)
            assert row["value"] == shown(cell)
            for null in ("uniform", "centre", "others", "swapped"):
                assert row[null] == f"{cell['nulls'][null]:.3f}"
            assert row["ceiling"] == f"{cell['ceiling']:.3f}"
            assert row["against"] == cell["strongest"] == max(cell["nulls"], key=cell["nulls"].get)
            corrected = row_of(tables["grounding-corrected"], model=model, score=named)
            assert row["corrected"] == corrected[f"for {row['against']}"]
            assert corrected["for uniform"].startswith(f"{cell['corrected']['uniform']['value']:+.3f}")
            assert (row["regions"], row["images"]) == (str(cell["n"]), str(cell["images"]))
    held = scores[TWO]
    row = row_of(tables["grounding-grid"], model=TWO)
    assert row["best IoU of the grid"] == f"{held['best_iou_of_the_grid']:.3f}"
    assert row["of it on padding, %"] == shown(held["facts"]["padding"], 100, ".1f")
    last = row_of(tables["grounding-queries"], token="last token before the answer", model=TWO)
    assert last["IoU, area-matched"] == shown(held["queries"]["last"]["iou"])
    relation = row_of(tables["grounding-groups"], **{"words of": "attribute", "model": ONE})
    assert relation["AUROC"] == shown(scores[ONE]["groups"]["attribute"]["auroc"])
    for size, cells in held["sizes"].items():
        row = row_of(tables["grounding-sizes"], **{"mask's share": size, "model": TWO})
        assert row["mass inside"] == shown(cells["mass"])
    layer = row_of(tables["grounding-layers"], model=TWO, layer="2")
    assert layer["IoU, others"] == f"{held['by_layer']['2']['iou']['nulls']['others']:.3f}"
    noise = row_of(tables["grounding-noise"], model=ONE)
    assert noise["IoU, area-matched"] == shown(scores[ONE]["noise"]["erode 0.3"]["change"]["iou"], form="+.3f")
    right = row_of(tables["grounding-answers"], **{"words of": "object", "model": TWO})["right"]
    assert right == shown(held["answers"]["object"]["accuracy"], 100, ".1f")
    (gap,) = rows_of(tables["grounding-differences"])
    pair = scores_of(made / "grounding")["differences"][f"{ONE} - {TWO}"]
    assert (gap["first"], gap["second"]) == (ONE, TWO)
    assert gap["mass inside"] == shown(pair["mass"], form="+.3f")
    assert gap["IoU of the first is"] == "higher, established"
    assert pair["iou"]["low"] > 0


def test_findings_are_the_paired_differences_of_the_headline(made, copy):
    (found,) = drawn_not(made / "grounding").findings
    gap = scores_of(made / "grounding")["differences"][f"{ONE} - {TWO}"]["iou"]
    assert (found.measure, found.first, found.second) == ("grounding: IoU", ONE, TWO)
    assert (str(found.difference), found.verdict) == (shown(gap, form="+.3f"), verdict(gap))
    gaps = {
        d["form"]: d["auroc"]
        for d in scores_of(made / "similarity")["differences"]
        if (d["space"], d["pooling"], d["kind"]) == ("hidden", "mean", "other")
    }
    said = {one.measure: str(one.difference) for one in drawn_not(made / "similarity").findings}
    assert said == {f"similarity: AUROC, {form} states": shown(gap, form="+.3f") for form, gap in gaps.items()}
    other = copy("grounding", "again")
    assert len({one.measure for one in drawn_not(made / "grounding", other).findings}) == 2


def test_padding_shows_images_that_are_not_square_and_means_over_layers(made):
    tables, scores = tables_of(made / "padding"), scores_of(made / "padding")
    (attended,) = [
        r["attended"]
        for r in scores["attention"]
        if (r["checkpoint"], r["condition"], r["query"]) == (TWO, "letterbox black", "last")
        and (r["group"], r["layer"]) == ("non-square", None)
    ]
    row = row_of(tables["padding"], **{"model": TWO, "condition": "letterbox black", "token that looks": "last token"})
    assert row["over its share of the cells"] == shown(attended["ratio"])
    assert row["attention on padding, %"] == shown(attended["share"], 100, ".1f")
    assert row["cells that are padding, %"] == f"{100 * attended['cells']:.1f}"
    (changed,) = [
        r["compared"]
        for r in scores["answers"]
        if (r["checkpoint"], r["condition"], r["group"]) == (ONE, "letterbox black", "non-square")
    ]
    row = row_of(tables["padding-changes"], model=ONE, condition="letterbox black")
    assert row["accuracy"] == shown(changed["change"]["accuracy"], 100, "+.1f")
    assert row["to wrong"] == str(changed["to_wrong"])
    assert row["p"] == f"{changed['mcnemar']:.3f}"
    row = row_of(
        tables["padding-answers"], **{"model": ONE, "condition": "letterbox black", "images shown": "not square"}
    )
    assert row["accuracy"] == shown(changed["scores"]["accuracy"], 100, ".1f")
    assert "native" not in {row["condition"] for row in rows_of(tables["padding-changes"])}, "it is what others change"
    assert "native" in {row["condition"] for row in rows_of(tables["padding-answers"])}
    (hidden,) = [
        r["compared"]
        for r in scores["hidden"]
        if (r["checkpoint"], r["condition"], r["group"]) == (ONE, "letterbox black", "non-square")
    ]
    row = row_of(tables["padding-hidden"], model=ONE, condition="letterbox black")
    assert row["yes ratio"] == shown(hidden["change"]["yes_ratio"], 100, "+.1f")
    units = {row["what"]: row["difference"] for row in rows_of(tables["padding-differences"])}
    found = {r["what"]: r["difference"] for r in scores["differences"]}
    assert units["ratio, last token"] == shown(found["ratio last"], form="+.3f")
    assert units["accuracy"] == shown(found["accuracy"], 100, "+.1f")
    assert row_of(tables["padding-absent"], model=TWO)["said yes"] == shown(scores["absent"][1]["yes"], 100, ".1f")


def test_linkage_has_a_row_for_every_signal_that_is_known(made):
    tables, scores = tables_of(made / "linkage"), scores_of(made / "linkage")
    targets = scores["models"]["looks"]["targets"]
    row = row_of(tables["linkage-signals"], model="looks", signal="object word: entropy")
    assert row["hallucinated *"] == shown(targets["hallucinated"]["signals"]["word_entropy"]["auroc"])
    row = row_of(tables["linkage-signals"], model="looks", signal="object size")
    assert row["hallucinated *"] == "", "an absent object has no size"
    assert row["missed *"] == shown(targets["missed"]["signals"]["size"]["auroc"])
    assert row_of(tables["linkage-signals"], model="looks", signal="(questions)")["error"] == (
        f"{targets['error']['positives']} of {targets['error']['n']}"
    )
    gain = targets["false yes"]["added_by_attention"]["prior"]
    row = row_of(tables["linkage-added"], model="looks", target="false yes", base="prior")
    assert row["gain"] == shown(gain["gain"], form="+.3f")
    assert row["with attention it is"] == "higher, established"
    way = scores["models"]["random"]["causal"]["ways"]["surround"]
    row = row_of(tables["linkage-hiding"], model="random", way="painted, mean colour")
    assert row["object - random"] == shown(way["drop_against"]["object - random"], form="+.3f")
    assert row["moved"] == shown(way["drop"]["moved"], form="+.3f")
    assert row["the object matters more than random"] == "established"
    row = row_of(tables["linkage-flips"], model="random", way="painted, mean colour")
    assert row["attended"] == shown(way["flips"]["attended"], 100, ".1f")
    point = scores["models"]["looks"]["causal"]["curves"]["present"][1]
    own = {"model": "looks", "answered yes to": "present objects", "cells hidden, %": "10.0"}
    assert row_of(tables["linkage-curve"], **own)["attended - random"] == shown(point["attended - random"], form="+.3f")
    gap = scores["differences"]["random"]["causal: keys: object against random"]
    row = row_of(tables["linkage-differences"], what="hidden from attention: object against random")
    assert row["difference"] == shown(gap, form="+.3f")


def test_signs_stand_beside_their_thresholds(made):
    tables, scores = tables_of(made / "failure-signs"), scores_of(made / "failure-signs")
    assert len(tables["failure-signs"].rows) == len(scores["readings"]) == 2 * 10
    for one in scores["readings"]:
        row = row_of(tables["failure-signs"], sign=f"{one['sign']}: {one['says']}", model=one["model"])
        assert row["verdict"] == one["verdict"]
        assert row["sign if"] == f"{'>' if one['side'] == 'above' else '<'} {one['threshold']:.3f}"
        assert row["value"] == ("–" if one["value"] is None else shown(one))
        assert row["note"] == one["note"]
    counts = row_of(tables["failure-signs-verdicts"], model=ONE)
    told = [one["verdict"] for one in scores["readings"] if one["model"] == ONE]
    assert {name: int(counts[name]) for name in set(told)} == {name: told.count(name) for name in set(told)}
    assert int(counts["not measured"]) >= 1, "the language was not"
    assert len(tables["failure-signs-thresholds"].rows) == 10


def _place(content, path):
    for key in path[:-1]:
        content = content[key]
    return content, path[-1]


def _cell(scores, **wanted):
    return next(i for i, c in enumerate(scores["cells"]) if all(c[k] == v for k, v in wanted.items()))


def _row(rows, **wanted):
    return next(i for i, r in enumerate(rows) if all(r[k] == v for k, v in wanted.items()))


HEADLINE = {"headline": True, "pooling": "mean", "space": "hidden", "form": "raw", "kind": "other"}
NATIVE = {"checkpoint": TWO, "condition": "native", "group": "non-square"}
CASES = {
    "similarity": [
        (
            lambda s: ("cells", _cell(s, model=TWO, **HEADLINE), "paired", "high"),
            {("similarity", TWO, "paired accuracy"): "0.123]"},
        ),
        (lambda s: ("cells", _cell(s, model=ONE, headline=False), "auroc", "value"), {}),
    ],
    "grounding": [
        (
            lambda _: ("models", TWO, "headline", "dice", "nulls", "centre"),
            {("grounding", TWO, "centre"): "0.123"},
        ),
        (
            lambda _: ("models", ONE, "by_layer", "4", "facts", "padding", "low"),
            {("grounding-layers", ONE, "on padding, %"): "[12.3,"},
        ),
        (
            lambda _: ("models", ONE, "headline", "iou", "corrected", "uniform", "value"),
            {("grounding-corrected", ONE, "for uniform"): "+0.123"},
        ),
    ],
    "padding": [
        (
            lambda s: ("attention", _row(s["attention"], query="last", layer=None, **NATIVE), "attended", "cells"),
            {("padding", TWO, "cells that are padding, %"): "12.3"},
        ),
        (
            lambda s: ("answers", _row(s["answers"], **NATIVE), "compared", "scores", "f1", "low"),
            {("padding-answers", TWO, "F1"): "[12.3,"},
        ),
        (lambda s: ("attention", _row(s["attention"], query="last", layer=1, **NATIVE), "attended", "cells"), {}),
    ],
    "linkage": [
        (
            lambda _: ("models", "random", "targets", "error", "signals", "word_peak", "auroc", "value"),
            {("linkage-signals", "random", "error"): "0.123"},
        ),
        (
            lambda _: ("models", "looks", "causal", "ways", "keys", "drop", "object", "low"),
            {("linkage-hiding", "looks", "object"): "[+0.123,"},
        ),
    ],
    "failure-signs": [
        (
            lambda s: ("readings", _row(s["readings"], model=TWO, measure="overlap"), "value"),
            {("failure-signs", TWO, "value"): "0.123"},
        ),
    ],
}


@pytest.mark.parametrize(("kind", "number"), [(kind, k) for kind, cases in CASES.items() for k in range(len(cases))])
def test_a_changed_number_changes_its_own_cell_and_no_other(copy, kind, number):
    folder = copy(kind)
    path_of, expected = CASES[kind][number]
    content = scores_of(folder)
    before = tables_of(folder)
    changed = copies.deepcopy(content)
    held, key = _place(changed, path_of(content))
    assert isinstance(held[key], float)
    held[key] = 0.1234
    write(folder, changed)
    after = tables_of(folder)
    moved = {
        (table, rows_of(new)[r]["model"], new.columns[c].name): str(new.rows[r][c])
        for table, new in after.items()
        for r, (own, other) in enumerate(zip(new.rows, before[table].rows, strict=True))
        for c, (one, two) in enumerate(zip(own, other, strict=True))
        if one != two
    }
    assert set(moved) == set(expected)
    for place, text in expected.items():
        assert text in moved[place]


def test_what_has_no_scores_is_counted(copy):
    folder = copy("similarity")
    content = scores_of(folder)
    assert "similarity-left-out" not in tables_of(folder), "nothing is"
    content |= {"images_without": {"other": 0, "hard": 3}, "images_not_with_every_model": 2}
    write(folder, content)
    rows = {row["why"]: row["images"] for row in rows_of(tables_of(folder)["similarity-left-out"])}
    assert rows == {"no text of the kind: one object swapped": "3", "not looked at with every model": "2"}
    folder = copy("grounding")
    content = scores_of(folder)
    content["left_out"] = {"its mask is empty": ["a.png|dog"]}
    content["models"][TWO]["images_failed"] = ["b.png: not an image"]
    content["models"]["blind"] = {"left_out": {"no token": ["x", "y"]}, "images_failed": [], "answers": {}, "noise": {}}
    write(folder, content)
    tables = tables_of(folder)
    rows = [(row["model"], row["why"], row["how many"]) for row in rows_of(tables["grounding-left-out"])]
    failed = (TWO, "images that could not be looked at", "1")
    assert rows == [("all", "its mask is empty", "1"), failed, ("blind", "no token", "2")]
    assert {row["model"] for row in rows_of(tables["grounding"])} == set(MODELS)


@pytest.mark.parametrize("kind", KINDS)
def test_several_runs_have_their_own_rows_under_their_names(copy, kind):
    first, second = copy(kind, "a/run"), copy(kind, "b/run")
    alone = tables_of(first)
    both = tables_of(first, second)
    assert list(alone) == list(both)
    for name, table in both.items():
        assert table.columns[0].name == "run"
        assert {row["run"] for row in rows_of(table)} == {"run (a/run)", "run (b/run)"}
        assert [row | {"run": ""} for row in rows_of(table)] == [row | {"run": ""} for row in rows_of(alone[name])] * 2
        assert sum(note.startswith("run (b/run): ") for note in table.notes) == 1


def test_notes_say_on_what_and_how(made):
    (note,) = [n for n in tables_of(made / "similarity")["similarity"].notes if n.startswith("data:")]
    data = scores_of(made / "similarity")
    assert "scenes:200@96" in note
    assert "at most 6 images" in note
    assert f"{data['draws']} bootstrap draws" in note
    assert "'{text}'" in note
    (note,) = [n for n in tables_of(made / "padding")["padding"].notes if n.startswith("data:")]
    assert note.startswith("data: made-1; all images; prompt '{question}'")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.2, "higher, established"),
        (-0.2, -0.001, "lower, established"),
        (-0.1, 0.1, "a tie"),
        (0.0, 0.2, "a tie"),
        (-0.2, 0.0, "a tie"),
        (None, None, "no interval"),
    ],
)
def test_a_difference_is_established_only_where_its_interval_leaves_0_out(low, high, said):
    assert verdict({"value": 0.05, "low": low, "high": high}) == said


def test_nothing_measured_is_neither_side():
    assert side({"value": None, "low": None, "high": None}, 0.5, "above", "below", "neither") == "undefined"
