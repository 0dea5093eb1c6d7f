"""Lean to yes, reliability of P(yes): against longhand counts and scikit-learn."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from benchmarks.reading import Label, read_yes_no
from benchmarks.run_folder import RunFolder
from reports.document import Figure
from reports.sections.bias import section
from reports.sections.bias_numbers import BINS, leans, reliability
from reports.sections.side_by_side import asked_by_version
from tests.reports.sections.conftest import opened
from tests.reports.sections.reading import digits, ids, rows, scores_of, table, told


def longhand(folder, split=None):
    """(label, answer, log p(yes), log p(no)) of every question about its image."""
    records = RunFolder(folder).answers()
    for row in map(json.loads, (folder / "questions.jsonl").open()):
        if split in (None, row["question"]["split"]):
            record = records[row["keys"]["image"]]
            yield row["question"]["label"], record.text, record.logprobs.get("yes"), record.logprobs.get("no")


def asked(folder):
    ((one,),) = asked_by_version(opened(folder), "pope").values()
    return one


@pytest.mark.parametrize("split", ["random", "popular", "adversarial", None])
def test_lean_is_false_yes_less_missed(scored, split):
    found = list(longhand(scored / "pope", split))
    read = [(gold, read_yes_no(text).label) for gold, text, _, _ in found]
    false_yes = sum(not gold and label is Label.YES for gold, label in read)
    missed = sum(gold and label is Label.NO for gold, label in read)
    either = sum(label in (Label.YES, Label.NO) for _, label in read)
    positives = sum(gold for gold, _ in read)
    assert false_yes != missed
    assert 0 < either < len(read)
    mine = leans(asked(scored / "pope"))[split or "pooled"]
    lean, wrongly, overlooked = mine.values
    assert lean.value == pytest.approx((false_yes - missed) / either)
    assert wrongly.value == pytest.approx(false_yes / (len(read) - positives))
    assert overlooked.value == pytest.approx(missed / positives)
    assert mine.labels == pytest.approx(positives / len(read))
    for one in mine.values:
        assert one.low < one.value < one.high


def test_without_the_answers_the_values_are_the_same_and_have_no_limits(scored, tmp_path):
    whole = leans(asked(scored / "pope"))
    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    (folder / "questions.jsonl").unlink()
    bare = leans(asked(folder))
    assert set(bare) == set(whole)
    for split, one in bare.items():
        assert [v.value for v in one.values] == pytest.approx([v.value for v in whole[split].values])
        assert all(math.isnan(v.low) for v in one.values)
        assert (one.labels, one.told) == (pytest.approx(whole[split].labels), "no interval")
    found = section(opened(folder))
    assert any("No intervals" in note for note in table(found, "bias").notes)
    assert any("no reliability curve" in text for text in found.text)


def test_the_interval_of_recall_is_that_of_the_scores(scored, tmp_path):
    """Where every answer can be read, missed is 1 - recall: scoring's own bootstrap must agree."""
    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    (file,) = RunFolder(folder).answer_files
    lines = [json.loads(line) for line in file.open()]
    for k, row in enumerate(lines):
        row["text"] = "Yes" if k % 3 else "No"
    file.write_text("".join(json.dumps(row) + "\n" for row in lines))
    one = asked(folder)
    made = leans(one)
    for row in one.of():
        if row["split"] != "mean":
            missed = made[row["split"]].values[2]
            assert missed.value == pytest.approx(1 - row["recall"])
            assert (missed.low, missed.high) == pytest.approx((1 - row["recall_high"], 1 - row["recall_low"]))
            ratio = made[row["split"]]
            assert ratio.values[0].value == pytest.approx(row["yes_ratio"] - ratio.labels)


def test_the_curve_is_that_of_scikit_learn(scored):
    found = list(longhand(scored / "pope"))
    labels = np.array([gold for gold, *_ in found])
    probability = np.array([math.exp(yes) / (math.exp(yes) + math.exp(no)) for _, _, yes, no in found])
    observed, mean = calibration_curve(labels, probability, n_bins=BINS)
    curve = reliability(asked(scored / "pope"))
    assert curve is not None
    there = curve.bins.count > 0
    assert 3 < there.sum() < BINS
    assert curve.bins.mean_probability[there] == pytest.approx(mean)
    assert [one.value for one, k in zip(curve.observed, there, strict=True) if k] == pytest.approx(observed)
    # The calibration error of the scores is the weighted distance of this very curve.
    pooled = next(r for r in asked(scored / "pope").of() if r["split"] == "pooled")
    share = curve.bins.count[there] / curve.bins.count.sum()
    assert pooled["ece"] == pytest.approx(float((share * np.abs(mean - observed)).sum()))


def test_tables_have_the_digits_of_the_scores(scored):
    found = section(opened(scored / "pope"))
    shown = {row["split"]: row for row in rows(table(found, "reliability"))}
    yes_ratios = {row["split"]: row for row in rows(table(found, "bias"))}
    for row in scores_of(scored / "pope")["rows"]:
        if (row["condition"], row["protocol"]) == ("image", "default") and row["split"] != "mean":
            name = {"pooled": "all questions pooled"}.get(row["split"], row["split"])
            assert shown[name]["AUROC of P(yes)"] == told(row, "auroc", places=3, scale=1)
            assert shown[name]["ECE"] == told(row, "ece", places=3, scale=1)
            assert yes_ratios[name]["yes ratio"] == told(row, "yes_ratio")
    assert "mean of splits" not in shown
    bins = rows(table(found, "reliability-bins"))
    curve = reliability(asked(scored / "pope"))
    assert sum(int(row["questions"]) for row in bins) == curve.bins.count.sum()
    assert [row["mean P(yes)"] for row in bins] == [
        digits(float(m), 3, scale=1) for m in curve.bins.mean_probability if not math.isnan(m)
    ]


def test_a_run_without_log_probabilities_says_so(scored):
    runs = opened(scored / "pope", scored / "wordless")
    found = section(runs)
    (said,) = [text for text in found.text if "no reliability curve" in text]
    assert said.startswith(f"{runs[1].label}:")
    assert {row["model"] for row in rows(table(found, "reliability"))} == {runs[0].label}
    alone = section(opened(scored / "wordless"))
    assert ids(alone) == ["bias", "bias-figure"]


def test_figures_are_the_same_bytes_each_time(scored):
    runs = opened(scored / "pope", scored / "wordless")
    first, second = ([i for i in section(runs).items if isinstance(i, Figure)] for _ in range(2))
    assert [f.id for f in first] == ["bias-figure", "reliability-figure"]
    assert [(f.png, f.svg) for f in first] == [(f.png, f.svg) for f in second]
    for text in ("P(yes) of the first answer token", "share with label yes", "questions", "calibrated"):
        assert f">{text}<" in first[1].svg.decode()
    # Numbers on a logarithmic axis are no formulas: labels are not read as such.
    assert not any("$" in one.svg.decode() for one in first)
