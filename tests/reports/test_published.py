"""The published results are valid, and none stands beside a number that is something else."""

import csv
from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError
from benchmarks.cvbench.score import Row as CvRow
from benchmarks.cvbench.score import official_mean
from benchmarks.cvbench.score import score as score_cvbench
from benchmarks.cvbench.types import Reading
from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.rows import Answer, Answered
from benchmarks.pope.score import score as score_pope
from benchmarks.pope.types import Question, QuestionSet
from reports.published import (
    CSV,
    CV_BENCH,
    FIELDS,
    METRICS,
    NO_FORMULA,
    NOT_STATED,
    POPE,
    REPOPE,
    UNDEFINED,
    comparable,
    cvbench_metric,
    load,
    pope_metric,
    why_not,
)

ROWS = load()
MEASURED = sorted({metric for metrics in METRICS.values() for metric in metrics})
F1_MEAN, OLD, NEW, REPOPE_DATA = (
    "F1 mean of three splits",
    "pope-coco@e3e3926",
    "pope-coco@3df3ba1",
    "repope-coco@bcf22e5",
)
THREE = ("random", "popular", "adversarial")


def of(model, **fields):
    found = [r for r in ROWS if r.model == model and all(getattr(r, k) == v for k, v in fields.items())]
    assert len(found) == 1, (model, fields, found)
    return found[0]


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.model}, {r.benchmark} {r.split} {r.metric}")
def test_every_row_has_a_page_a_date_and_a_possible_number(row):
    for url in [row.source, *([row.metric_source] if row.metric_source else [])]:
        parts = urlsplit(url)
        assert parts.scheme == "https"
        assert parts.path.strip("/")
    day = date.fromisoformat(row.date if len(row.date) == 10 else f"{row.date}-01")
    assert date(2023, 5, 1) <= day <= date.today()  # POPE is of May 2023
    if row.value is None:
        assert "not available" in row.note
    else:
        # No model is published below chance of CV-Bench's questions or far below "yes" to all of POPE's.
        assert 40 <= row.value <= 100
    assert (row.metric == NOT_STATED) == (row.metric_source == "")


def test_pages_on_github_are_of_one_commit():
    files = [r.source for r in ROWS if "/blob/" in r.source]
    assert files
    assert all(len(url.split("/blob/")[1].split("/")[0]) == 40 for url in files)


def test_the_file_has_what_the_sources_print_digit_for_digit():
    with CSV.open(newline="", encoding="utf-8") as file:
        printed = [line["value"] for line in csv.DictReader(file)]
    assert ["" if r.value is None else str(r.value) for r in ROWS] == printed
    assert str(of("LLaVA-Phi").value) == "85.00"


def test_age_vlm_has_rows_that_say_so_and_no_figure():
    own = [r for r in ROWS if r.model == "AGE-VLM"]
    assert [r.benchmark for r in own] == [POPE, CV_BENCH]
    assert [r.value for r in own] == [None, None]
    assert all("not available to us" in r.note for r in own)


def test_pooled_scores_are_those_of_the_printed_counts():
    tp, fp, tn, fn = 3062, 187, 4459, 477
    row = of("Qwen2-VL-2B-Instruct 4-bit", metric="accuracy pooled")
    assert f"TP {tp}, FP {fp}, TN {tn}, FN {fn}" in row.note
    assert float(row.value) == pytest.approx(100 * (tp + tn) / (tp + fp + tn + fn), abs=5e-5)
    f1 = of("Qwen2-VL-2B-Instruct 4-bit", metric="F1 pooled")
    assert float(f1.value) == pytest.approx(100 * 2 * tp / (2 * tp + fp + fn), abs=5e-5)


def test_an_overall_that_is_said_to_be_the_mean_of_two_parts_is():
    said = [r for r in ROWS if r.note.endswith("the mean of 2D and 3D")]
    assert said
    for row in said:
        parts = [of(row.model, split=split, metric=NO_FORMULA, source=row.source).value for split in ("2D", "3D")]
        assert abs(sum(parts) / 2 - row.value) <= Decimal("0.1")  # each part is rounded to one digit


def test_the_wheel_holds_the_file():
    wheel = pytest.importorskip("hatchling.builders.wheel")
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not run from a checkout")
    builder = wheel.WheelBuilder(str(root))
    held = {one.distribution_path for one in builder.recurse_included_files()}
    assert "reports/published.py" in held
    assert "reports/published.csv" in held


# --- which figures may stand beside which -----------------------------------------------------------------------------

MEAN = replace(of("LLaVA-1.5-7B", metric=F1_MEAN), value=Decimal("85.9"))
TRUTH = [
    (F1_MEAN, OLD, MEAN, True),
    (F1_MEAN, NEW, MEAN, False),  # 2,910 questions in random, not 3,000
    (F1_MEAN, NEW, replace(MEAN, data_version=""), True),  # the source does not say which
    (F1_MEAN, REPOPE_DATA, replace(MEAN, data_version=""), False),
    (F1_MEAN, "pope-aokvqa@3df3ba1", replace(MEAN, data_version=""), False),
    (F1_MEAN, "pope-gqa@3df3ba1", replace(MEAN, data_version=""), False),
    (F1_MEAN, "pope-scenes@2", replace(MEAN, data_version=""), False),
    (F1_MEAN, "custom:0123456789ab", replace(MEAN, data_version=""), False),
    (F1_MEAN, f"{NEW} limit 100 seed 0", replace(MEAN, data_version=""), False),
    (F1_MEAN, OLD, replace(MEAN, value=None), False),
    ("accuracy mean of three splits", OLD, MEAN, False),
    ("F1 pooled", OLD, MEAN, False),
    ("F1 random", OLD, MEAN, False),
    ("F1 popular", OLD, MEAN, False),
    ("F1 adversarial", OLD, MEAN, False),
    ("accuracy, official formula", OLD, MEAN, False),
    ("accuracy mean of three splits", NEW, of("TinyLLaVA Qwen2-0.5B SigLIP"), True),
    (F1_MEAN, NEW, of("TinyLLaVA Qwen2-0.5B SigLIP"), False),
    ("accuracy pooled", NEW, of("TinyLLaVA Qwen2-0.5B SigLIP"), False),
    ("F1 pooled", REPOPE_DATA, of("Qwen2-VL-2B-Instruct 4-bit", metric="F1 pooled"), True),
    ("F1 pooled", NEW, of("Qwen2-VL-2B-Instruct 4-bit", metric="F1 pooled"), False),
    ("accuracy pooled", REPOPE_DATA, of("Qwen2-VL-2B-Instruct 4-bit", metric="F1 pooled"), False),
    ("accuracy, official formula", "cv-bench@0123456789ab", of("OLA-VLM Phi-3-mini CLIP-ViT-L"), True),
    ("accuracy, over questions", "cv-bench@0123456789ab", of("OLA-VLM Phi-3-mini CLIP-ViT-L"), False),
    ("accuracy, official formula", "cv-bench 2D@0123456789ab", of("OLA-VLM Phi-3-mini CLIP-ViT-L"), False),
    ("accuracy, official formula", "cv-bench@0123456789ab task Count", of("OLA-VLM Phi-3-mini CLIP-ViT-L"), False),
    ("accuracy, official formula", "cv-bench@0123456789ab limit 9 seed 0", of("OLA-VLM Phi-3-mini CLIP-ViT-L"), False),
    ("accuracy, official formula", "cv-scenes@2", of("OLA-VLM Phi-3-mini CLIP-ViT-L"), False),
    ("accuracy, official formula", "custom@0123456789ab", of("OLA-VLM Phi-3-mini CLIP-ViT-L"), False),
    ("accuracy 3D, over questions", "cv-bench@0123456789ab", of("SpatialThinker-3B", split="3D"), False),
    (
        "accuracy 3D, over questions",
        "cv-bench 3D@0123456789ab",
        replace(of("SpatialThinker-3B", split="3D"), metric="accuracy 3D, over questions"),
        True,
    ),
    (
        "accuracy 3D, over questions",
        "cv-bench 2D@0123456789ab",
        replace(of("SpatialThinker-3B", split="3D"), metric="accuracy 3D, over questions"),
        False,
    ),
]


@pytest.mark.parametrize(("metric", "version", "row", "may"), TRUTH)
def test_a_figure_stands_only_beside_the_same_metric_split_benchmark_and_data(metric, version, row, may):
    assert comparable(metric, version, row) is may
    assert (why_not(metric, version, row) is None) is may


VERSIONS = [OLD, NEW, REPOPE_DATA, "pope-scenes@2", "cv-bench@0123456789ab", "cv-bench 2D@0123456789ab", "cv-scenes@2"]


@given(st.sampled_from(ROWS), st.sampled_from(MEASURED), st.sampled_from(VERSIONS))
def test_nothing_mixes(row, metric, version):
    if comparable(metric, version, row):
        assert row.metric == metric
        assert row.metric not in UNDEFINED
        assert row.value is not None
        assert row.data_version in ("", version)
        assert {POPE: "pope-coco", REPOPE: "repope-coco", CV_BENCH: "cv-bench"}[row.benchmark] in version


@pytest.mark.parametrize("undefined", sorted(UNDEFINED))
def test_what_is_not_stated_stands_beside_nothing(undefined):
    bare = [replace(row, metric=undefined, data_version="", value=Decimal(90)) for row in ROWS]
    for row, metric, version in product(bare, MEASURED, VERSIONS):
        assert undefined in (why_not(metric, version, row) or "")


@pytest.mark.parametrize("metric", ["f1", "F1", "", NOT_STATED, NO_FORMULA])
def test_a_measured_metric_has_a_name_of_the_list(metric):
    with pytest.raises(ValueError, match="no metric that is measured"):
        comparable(metric, OLD, MEAN)


# --- the names of our own numbers -------------------------------------------------------------------------------------


def pope_rows(splits):
    """Scores of two questions of each split, the first right and the second a false alarm in one split only."""
    questions, answers = [], {}
    for place, split in enumerate(splits):
        for number, label in enumerate((True, False)):
            name = f"{split}{number}"
            text = f"Is there a {name}?"
            questions.append(Question(split, name, f"{name}.jpg", text, label, name, name, "x, line 1"))
            answers[split, name] = Answer("Yes" if label or not place else "No")
    one = QuestionSet("POPE", "custom:x", "x", tuple(questions))
    scored = score_pope([Answered(one, {"image": answers}, "default")], [PROTOCOLS["default"]], draws=10)
    return {r.split: r for r in scored.rows if r.condition == "image"}


def test_our_mean_is_the_mean_of_three_f1s_and_our_pool_is_not():
    rows = pope_rows(THREE)
    assert rows["mean"].scores["f1"].value == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert rows["pooled"].scores["f1"].value == pytest.approx(6 / 7)
    assert pope_metric("f1", "mean", THREE) == F1_MEAN
    assert pope_metric("f1", "pooled", THREE) == "F1 pooled"
    assert pope_metric("accuracy", "mean", THREE) == "accuracy mean of three splits"
    assert pope_metric("f1", "adversarial", ["adversarial"]) == "F1 adversarial"
    named = {pope_metric(score, split, THREE) for split in rows for score in ("f1", "accuracy")}
    assert named == set(METRICS[POPE])


def test_a_mean_of_two_splits_is_no_published_metric():
    assert "mean" in pope_rows(THREE[:2])  # a measured row of that name is there
    assert pope_metric("f1", "mean", THREE[:2]) is None
    assert pope_metric("f1", "pooled", THREE[:2]) is None
    assert pope_metric("f1", "pooled", [*THREE, "popev2"]) is None


def test_other_scores_have_no_published_name():
    assert pope_metric("recall", "random", THREE) is None
    assert pope_metric("f1", "popev2", THREE) is None
    assert cvbench_metric("task Count") is None
    assert cvbench_metric("source COCO") is None


def test_names_of_cv_bench_are_those_of_its_formulas():
    right = {"ADE20K": [True], "COCO": [True, False, False, False], "Omni3D": [True, False, False, False, False]}
    rows = [
        CvRow(f"{source}{n}", source, "3D" if source == "Omni3D" else "2D", "Count", 2, 0, Reading(0 if ok else 1, "x"))
        for source, answers in right.items()
        for n, ok in enumerate(answers)
    ]
    scores = {cvbench_metric(s.name): s.accuracy.value for s in score_cvbench(rows, draws=10)}
    assert scores["accuracy, official formula"] == pytest.approx(((1 + 0.25) / 2 + 0.2) / 2)
    assert scores["accuracy, official formula"] == pytest.approx(official_mean((r.source, r.correct) for r in rows))
    assert scores["accuracy 2D, mean of ADE20K and COCO"] == pytest.approx((1 + 0.25) / 2)
    assert scores["accuracy 3D, over questions"] == pytest.approx(0.2)
    assert scores["accuracy, over questions"] == pytest.approx(3 / 10)
    assert set(scores) - {None} == set(METRICS[CV_BENCH])


# --- errors of the loader ---------------------------------------------------------------------------------------------

GOOD = {field: str(getattr(MEAN, field)) for field in FIELDS}


def written(path, *rows, header=FIELDS):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def test_a_good_row_is_read_as_it_stands(tmp_path):
    assert load(written(tmp_path / "own.csv", GOOD.values())) == (MEAN,)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": ""}, "model: empty"),
        ({"model": " LLaVA"}, "model: .* white space"),
        ({"size": "small"}, "size: 'small'"),
        ({"benchmark": "pope"}, "benchmark: 'pope'"),
        ({"metric": "F1"}, "metric: 'F1'"),
        ({"metric": NO_FORMULA}, "metric: 'accuracy, formula not stated'; of POPE"),
        ({"benchmark": CV_BENCH}, "metric: .*; of CV-Bench"),
        ({"split": "pooled"}, "split: 'pooled'"),
        ({"value": "0.859"}, "value: '0.859'; give percent"),
        ({"value": "859"}, "value: '859'"),
        ({"value": "-3"}, "value: '-3'"),
        ({"value": "nan"}, "value: 'nan'"),
        ({"value": "inf"}, "value: 'inf'"),
        ({"value": "85,9"}, "value: '85,9'"),
        ({"value": "", "note": ""}, "note: empty"),
        ({"data_version": "pope"}, "data_version: 'pope'"),
        ({"data_version": "pope-gqa@3df3ba1"}, "data_version: .* no known version of POPE"),
        ({"data_version": REPOPE_DATA}, "data_version: .* no known version of POPE"),
        ({"source": ""}, "source: empty"),
        ({"source": "LLaVA README"}, "source: 'LLaVA README'"),
        ({"source": "http://example.org/a"}, "source: .* https"),
        ({"source": "https://[broken"}, "source: "),
        ({"metric_source": "issue 626"}, "metric_source: 'issue 626'"),
        ({"metric_source": ""}, "metric_source: ''"),
        ({"metric": NOT_STATED, "split": NOT_STATED}, "metric_source: 'https"),
        ({"date": ""}, "date: empty"),
        ({"date": "2024"}, "date: '2024'"),
        ({"date": "2024-02-30"}, "date: '2024-02-30'"),
        ({"date": "20240401"}, "date: '20240401'"),
        ({"date": "2024-13"}, "date: '2024-13'"),
    ],
)
def test_a_bad_field_is_named_with_file_and_line(tmp_path, changed, said):
    other = {**GOOD, "model": "another"}
    path = written(tmp_path / "own.csv", other.values(), {**GOOD, **changed}.values())
    with pytest.raises(DataError, match=rf"own\.csv, line 3, {said}"):
        load(path)


def test_a_short_row_is_named(tmp_path):
    with pytest.raises(DataError, match=r"own\.csv, line 3: 3 fields; give 12"):
        load(written(tmp_path / "own.csv", GOOD.values(), ["a", "b", "c"]))


def test_a_figure_given_twice_is_named_with_both_lines(tmp_path):
    twice = {**GOOD, "value": "86.0"}
    with pytest.raises(DataError, match=r"own\.csv, line 3: the same model.* as line 2"):
        load(written(tmp_path / "own.csv", GOOD.values(), twice.values()))


def test_other_columns_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"own\.csv, line 1: columns model, value; give model, size"):
        load(written(tmp_path / "own.csv", header=["model", "value"]))


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"own\.csv: no published results"):
        load(written(tmp_path / "own.csv"))


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "own.csv"
    path.touch()
    with pytest.raises(DataError, match=r"own\.csv, line 1: columns"):
        load(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", ",".join(FIELDS).encode() + b'\n"open'])
def test_a_file_that_is_no_table_is_named(tmp_path, content):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own\.csv: cannot be read"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"own\.csv: cannot be read"):
        load(tmp_path / "own.csv")
