"""What was planted is found: looks that tell errors, answers from the object; and nothing where nothing is."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from agevlm.vlm.batching import memory_message
from agevlm.vlm.contract import Reply
from analysis.linkage.command import LinkageSettings, load_data, run_linkage
from analysis.linkage.record import schema
from analysis.linkage.score import score, to_json
from benchmarks.prompts import OFFICIAL
from tests.analysis.linkage.planted import LOADED, Planted, Rule, choice


def consoles() -> tuple[Console, Console]:
    return Console(quiet=True), Console(stderr=True, quiet=True)


LOOKS, RANDOM, DIFFUSE = "looks", "random", "diffuse"


def settings(out: Path, *models, **other) -> LinkageSettings:
    given = {
        "models": models,
        "out": out,
        "fresh": False,
        "limit": None,
        "seed": 0,
        "draws": 300,
        "json_out": None,
        "questions": ("scenes:24",),
        "images": None,
        "annotations": None,
        "splits": (),
        "prompt": OFFICIAL,
        "max_new_tokens": 4,
        "causal_images": 12,
        "places": 3,
        "border": 0,
        "allow_partial": False,
    }
    return LinkageSettings(**{**given, **other})


def run(given: LinkageSettings) -> tuple[int, str]:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    code = run_linkage(given, console, Console(stderr=True, quiet=True))
    return code, console.export_text()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[Path, dict, str]:
    out = tmp_path_factory.mktemp("runs") / "planted"
    models = choice(LOOKS, Rule()), choice(RANDOM, Rule(looks=False)), choice(DIFFUSE, Rule(uses_object=False))
    code, text = run(settings(out, *models))
    assert code == 0
    return out, json.loads((out / "scores.json").read_text()), text


def auroc(scores: dict, model: str, target: str, signal: str) -> dict:
    return scores["models"][model]["targets"][target]["signals"][signal]


def test_the_planted_model_errs_often_enough(found) -> None:
    counts = found[1]["models"][LOOKS]["counts"]
    assert counts["images"] == 24
    assert counts["present"] == 72
    assert min(counts["hallucinated"], counts["missed"]) > 15
    assert counts["unreadable"] == counts["object word not found"] == counts["present without mask"] == 0


def test_looks_that_tell_errors_have_an_auroc_of_one(found) -> None:
    _, scores, _ = found
    for token in ("word", "last"):
        assert auroc(scores, LOOKS, "hallucinated", f"{token}_peak")["auroc"]["value"] == 1
        assert auroc(scores, LOOKS, "hallucinated", f"{token}_entropy")["auroc"]["value"] == 0
        # Turned nowhere: the less mass on the object, the likelier a miss.
        assert auroc(scores, LOOKS, "missed", f"{token}_in_mask")["auroc"]["value"] == 0
    assert auroc(scores, LOOKS, "missed", "word_in_mask")["direction"] == "lower"
    gain = scores["models"][LOOKS]["targets"]["hallucinated"]["added_by_attention"]["prior"]
    assert gain["gain"]["low"] > 0.1
    assert gain["full"]["value"] > 0.99


def test_looks_dealt_out_at_random_tell_nothing(found) -> None:
    _, scores, _ = found
    for target, signal in (("hallucinated", "word_peak"), ("hallucinated", "word_entropy"), ("missed", "word_in_mask")):
        one = auroc(scores, RANDOM, target, signal)
        assert one["auroc"]["low"] < 0.5 < one["auroc"]["high"]
        assert one["direction"] == ""
        for model in (LOOKS, RANDOM):
            chance = auroc(scores, model, target, signal)["permuted"]
            assert chance["value"] == pytest.approx(0.5, abs=0.02)
            assert chance["low"] < 0.5 < chance["high"]
    gain = scores["models"][LOOKS]["targets"]["hallucinated"]["added_by_attention"]["prior"]["gain_permuted"]
    assert gain["low"] < 0.05
    gap = scores["differences"][RANDOM]["hallucinated: word_peak"]
    assert gap["high"] < -0.3


def test_no_mask_tells_nothing_where_absent_objects_are_among_the_questions(found) -> None:
    _, scores, _ = found
    for target in ("hallucinated", "error", "false yes", "false no"):
        signals = scores["models"][LOOKS]["targets"][target]["signals"]
        assert not [name for name in signals if name.endswith(("_in_mask", "_lift")) or name == "size"]
    assert auroc(scores, LOOKS, "error", "similarity_word")["n"] > 150
    # Similarity knows what is there, so that it tells a false yes, and a false no, perfectly.
    assert auroc(scores, LOOKS, "false yes", "similarity_word")["auroc"]["value"] == 0
    assert auroc(scores, LOOKS, "false no", "similarity_question")["auroc"]["value"] == 1


def test_scikit_learn_finds_the_same_in_the_table(found) -> None:
    out, scores, _ = found
    table = pd.read_parquet(out / "table.parquet")
    written = pd.read_csv(out / "table.csv")
    assert len(table) == len(written) == sum(m["counts"]["questions"] for m in scores["models"].values())
    own = written[(written["model"] == RANDOM) & ~written["label"]]
    for signal in ("word_peak", "margin", "prior", "last_on_objects"):
        expected = roc_auc_score(own["hallucinated"].astype(bool), own[signal])
        assert auroc(scores, RANDOM, "hallucinated", signal)["auroc"]["value"] == pytest.approx(expected)
    assert (table["correct"] == ((table["read"] == "yes") == table["label"])).all()
    assert table.loc[table["label"], "hallucinated"].isna().all()
    assert table.loc[~table["label"], ["missed", "size", "word_in_mask"]].isna().all().all()


def drop(scores: dict, model: str, how: str, what: str) -> dict:
    way = scores["models"][model]["causal"]["ways"][how]
    return way["drop_against"][what] if " - " in what else way["drop"][what]


@pytest.mark.parametrize("how", ["keys", "surround", "diffusion"])
def test_hiding_the_object_takes_the_yes_and_hiding_others_takes_nothing(found, how) -> None:
    _, scores, _ = found
    way = scores["models"][LOOKS]["causal"]["ways"][how]
    assert way["margin"]["value"] > 4
    assert way["margin"]["n"] > 15
    assert drop(scores, LOOKS, how, "object")["value"] > 7
    assert drop(scores, LOOKS, how, "random")["value"] == pytest.approx(0, abs=1e-9)
    assert drop(scores, LOOKS, how, "moved")["value"] == pytest.approx(0, abs=1e-9)
    assert drop(scores, LOOKS, how, "object - random")["low"] > 7
    assert drop(scores, LOOKS, how, "attended - random")["low"] > 3
    assert way["flips"]["object"]["value"] == 1
    assert way["flips"]["random"]["value"] == 0
    assert way["share_of_object"]["object"] > 0.99
    assert way["share_of_object"]["random"] == 0
    assert way["share_of_image"]["random"] == pytest.approx(way["share_of_image"]["object"], abs=0.03)


@pytest.mark.parametrize("how", ["keys", "surround", "diffusion"])
def test_an_answer_that_comes_from_everywhere_shows_no_effect_of_the_object(found, how) -> None:
    _, scores, _ = found
    assert drop(scores, DIFFUSE, how, "object")["value"] > 0.3
    assert abs(drop(scores, DIFFUSE, how, "object - moved")["value"]) < 0.2
    assert abs(drop(scores, DIFFUSE, how, "object - random")["value"]) < 0.3
    gap = scores["differences"][DIFFUSE][f"causal: {how}: object against random"]
    assert gap["high"] < -5


def test_the_deletion_curve_falls_where_the_model_looks(found) -> None:
    _, scores, _ = found
    curve = scores["models"][LOOKS]["causal"]["curves"]["present"]
    assert [round(p["share"], 3) for p in curve] == [0.05, 0.1, 0.2, 0.4]
    drops = [p["drop"]["attended"]["value"] for p in curve]
    assert drops == sorted(drops)
    assert drops[-1] > 7
    assert all(p["attended - random"]["low"] > 0 for p in curve)
    # Random cells hide the object in the end.
    assert curve[-1]["drop"]["random"]["value"] > 1
    # A yes to what is not there comes from everywhere in this model.
    false = scores["models"][LOOKS]["causal"]["curves"]["absent"]
    assert false[0]["drop"]["attended"]["n"] > 10
    assert all(abs(p["attended - random"]["value"]) < 0.3 for p in false)


def test_the_tables_say_it(found) -> None:
    out, _, text = found
    assert "1.00 [0." in text
    assert "hidden from attention" in text
    assert "causal check:" in text
    for name in ("linkage-auroc", "linkage-causal"):
        assert (out / f"{name}.png").stat().st_size > 10_000
        assert "<svg" in (out / f"{name}.svg").read_text()[:2000]


@pytest.mark.slow
def test_more_of_the_same_run_asks_for_the_rest_alone(tmp_path) -> None:
    model = choice(LOOKS, Rule())
    given = settings(tmp_path / "run", model, limit=6, causal_images=3, draws=100)
    assert run(given)[0] == 0
    first = LOADED[-1]
    assert first.asked > 0
    assert run(replace(given, limit=9))[0] == 0
    rest = LOADED[-1]
    assert rest is not first
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["models"][LOOKS]["counts"]["images"] == 9
    # Once more: nothing is left to ask, and the scores are the same.
    assert run(replace(given, limit=9))[0] == 0
    assert LOADED[-1] is rest
    assert json.loads((tmp_path / "run" / "scores.json").read_text()) == scores
    whole = run(replace(given, limit=9, out=tmp_path / "other"))
    assert whole[0] == 0
    assert rest.asked < LOADED[-1].asked
    assert json.loads((tmp_path / "other" / "scores.json").read_text()) == scores


def test_few_errors_are_not_scored(tmp_path) -> None:
    code, text = run(settings(tmp_path / "run", choice(LOOKS, Rule()), limit=5, causal_images=0, draws=100))
    assert code == 0
    assert "too few" in text
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    one = auroc(scores, LOOKS, "hallucinated", "word_peak")
    assert one["auroc"] == {"value": None, "low": None, "high": None}
    assert scores["models"][LOOKS]["targets"]["hallucinated"]["logistic"] is None
    assert scores["models"][LOOKS]["causal"]["ways"] == {}


def test_questions_that_splits_share_are_one_case(tmp_path) -> None:
    data = load_data(settings(tmp_path, choice(LOOKS, Rule())))
    cases = [case for sheet in data.sheets.sheets for case in sheet.cases]
    assert data.sheets.repeated == 24 * 3 * 6 - len(cases)
    assert all(set(case.splits) == {"random", "popular", "adversarial"} for case in cases if case.label)
    priors = np.array([case.prior for case in cases])
    assert np.isfinite(priors).all()
    adversarial = [c.prior for c in cases if c.splits == ("adversarial",)]
    random = [c.prior for c in cases if c.splits == ("random",)]
    assert np.mean(adversarial) > np.mean(random)  # as POPE means it


def test_an_answer_that_failed_is_missing_in_the_exit_code(tmp_path, monkeypatch) -> None:
    answer = Planted.answer

    def lacking(self, encoded, asks):
        return [Reply.failed("logits are no numbers"), *answer(self, encoded, asks)[1:]]

    monkeypatch.setattr(Planted, "answer", lacking)
    given = {"questions": ("scenes:2",), "causal_images": 0}
    models = (choice("m", Rule()),)
    assert run_linkage(settings(tmp_path / "a", *models, **given), *consoles()) == 3
    assert run_linkage(settings(tmp_path / "b", *models, **given, allow_partial=True), *consoles()) == 0
    counts = json.loads((tmp_path / "a" / "scores.json").read_text())["models"]["m"]["counts"]
    assert counts["errors"] == 2


def test_where_memory_was_lacking_is_asked_again(tmp_path, monkeypatch) -> None:
    given = {"questions": ("scenes:2",), "causal_images": 0}
    with monkeypatch.context() as patch:
        failed = Reply.failed(memory_message(MemoryError()))
        patch.setattr(Planted, "answer", lambda self, encoded, asks: [failed] * len(asks))
        assert run_linkage(settings(tmp_path, choice("m", Rule()), **given), *consoles()) == 3
    assert run_linkage(settings(tmp_path, choice("m", Rule()), **given), *consoles()) == 0


def test_pictures_alike_are_kept_apart(tmp_path) -> None:
    data = load_data(settings(tmp_path, choice("m", Rule()), questions=("scenes:2",)))
    sheet = data.sheets.sheets[0]
    others = [
        replace(sheet, image="other.png"),
        replace(sheet, cases=tuple(replace(c, ids=("random 1",)) for c in sheet.cases)),
        replace(sheet, cases=tuple(replace(c, cluster="pair") for c in sheet.cases)),
    ]
    assert len({one.key(tokens=4) for one in (sheet, *others)}) == 4
    assert sheet.key(tokens=4) == replace(sheet).key(tokens=4)


def test_unlike_shares_of_tokens_are_told(tmp_path, monkeypatch) -> None:
    def coarse(self, encoded, image, hidden):
        # A second view: its tokens go with blocks of 2 x 2 cells.
        blocks = [cells.reshape(6, 2, 6, 2).sum((1, 3)) >= 2 for cells in hidden]
        return [float((c.sum() + b.sum()) / 180) for c, b in zip(hidden, blocks, strict=True)]

    monkeypatch.setattr(Planted, "hidden_share", coarse)
    console = Console(file=io.StringIO(), width=400)
    given = {"questions": ("scenes:6",), "causal_images": 6}
    run_linkage(settings(tmp_path, choice("m", Rule()), **given), console, Console(file=io.StringIO()))
    assert "unlike shares of the visual tokens" in console.file.getvalue()
    keys, *painted = json.loads((tmp_path / "scores.json").read_text())["models"]["m"]["causal"]["ways"].values()
    assert keys["share_of_visual_tokens"]["object"] > keys["share_of_visual_tokens"]["random"]
    assert all(way["share_of_visual_tokens"] == {} for way in painted)


def test_no_records_give_empty_scores() -> None:
    scores = to_json(score({"none": schema().empty_table()}, 100, 0))
    assert scores["models"]["none"]["counts"]["questions"] == 0
    assert {t["n"] for t in scores["models"]["none"]["targets"].values()} == {0}
