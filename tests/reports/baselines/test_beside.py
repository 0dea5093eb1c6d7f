"""No table holds two metrics, and published figures keep their digits."""

from __future__ import annotations

import csv
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError
from reports.baselines.beside import Chosen, arrange, billions, size_range
from reports.baselines.measured import Measured
from reports.baselines.tables import plain, short, table, title
from reports.published import CSV, METRICS, UNDEFINED, load

ROWS = load()
OLD, NEW, REPOPE, CV, CV2D = (
    "pope-coco@e3e3926",
    "pope-coco@3df3ba1",
    "repope-coco@bcf22e5",
    "cv-bench@aaaaaaaaaaaa",
    "cv-bench 2D@bbbbbbbbbbbb",
)
VERSIONS = {"POPE": (OLD, NEW), "RePOPE": (REPOPE,), "CV-Bench": (CV, CV2D)}


def one(benchmark: str, metric: str, version: str, value: float = 0.8765) -> Measured:
    row = {"f1": value, "f1_low": value - 0.01, "f1_high": value + 0.01, "n": 9000, "missing": 0, "unparsed": 3}
    return Measured("model A", benchmark, metric, row, "f1", version, "", "default", "0123456789", "2026-11-22")


EVERY = [one(b, m, v) for b, metrics in METRICS.items() for m in metrics for v in VERSIONS[b]]


@given(st.lists(st.sampled_from(EVERY), unique_by=id), st.lists(st.sampled_from(ROWS), unique=True))
def test_a_table_holds_one_metric_of_one_benchmark_on_comparable_questions(found, rows):
    groups = arrange(found, rows)
    for group in groups:
        assert {(m.benchmark, m.metric) for m in group.measured} <= {(group.benchmark, group.metric)}
        assert {(r.benchmark, r.metric, r.split) for r in group.published} <= {
            (group.benchmark, group.metric, group.split)
        }
        assert all(r.value is None and r.benchmark == group.benchmark for r in group.unavailable)
        if group.measured:
            assert group.metric not in UNDEFINED
            assert {m.data_version for m in group.measured} == {group.data_version}
            assert {r.data_version for r in group.published} <= {"", group.data_version}
    # Nothing is lost, and nothing stands twice but where the source does not say which questions it asked.
    assert Counter(map(id, found)) == Counter(id(m) for g in groups for m in g.measured)
    shown = Counter(r for g in groups for r in g.published)
    assert set(shown) == {r for r in rows if r.value is not None}
    assert all(count == 1 or not row.data_version for row, count in shown.items())
    titles = [table(g).id for g in groups]
    assert len(set(titles)) == len(titles)


def test_the_printed_digits_are_those_of_the_file():
    with CSV.open(encoding="utf-8", newline="") as file:
        wanted = {(r["model"], r["source"], r["metric"], r["split"]): r["value"] for r in csv.DictReader(file)}
    seen = {}
    for group in arrange(EVERY, ROWS):
        made = table(group)
        place = next(i for i, column in enumerate(made.columns) if column.name == "%")
        published = made.rows[len(group.measured) :]
        for row, cells in zip((*group.published, *group.unavailable), published, strict=True):
            assert cells[0].text == row.model
            seen[row.model, row.source, row.metric, row.split] = cells[place].text
    assert seen == {key: value or "not available to us" for key, value in wanted.items()}
    # The file has values of one, two and four decimals, one of them with a last zero.
    assert {len(v.partition(".")[2]) for v in wanted.values() if v} == {1, 2, 4}
    assert any(v.endswith("0") and len(v) > 4 for v in wanted.values())


def test_what_is_not_stated_says_so_beside_nothing_measured():
    groups = arrange(EVERY, ROWS)
    places = [g.metric in UNDEFINED for g in groups]
    assert places == sorted(places)
    undefined = [g for g in groups if g.metric in UNDEFINED]
    assert len(undefined) == 5
    for group in undefined:
        made = table(group)
        assert "not stated" in made.title
        assert "beside nothing measured" in made.title
        assert "is" not in [c.name for c in made.columns]
        assert made.notes[0].startswith("Nobody says")


def test_age_vlm_stands_in_every_table_of_its_benchmarks_and_says_why_not():
    for group in arrange(EVERY, ROWS):
        made = table(group)
        own = [row for row in made.rows if row[0].text == "AGE-VLM"]
        if group.benchmark == "RePOPE":
            assert not own
        else:
            (row,) = own
            assert "not available to us" in [cell.text for cell in row]
            assert any(note.startswith("AGE-VLM: AGE-VLM's own numbers are not available") for note in made.notes)


def test_measured_rows_come_first_and_published_ones_fall():
    (group,) = [g for g in arrange([one("POPE", "F1 mean of three splits", OLD)], ROWS) if g.measured]
    made = table(group)
    assert title(group) == "POPE, F1 mean of three splits, % on pope-coco@e3e3926: measured and published"
    first, *others = made.rows
    assert [c.text for c in first][:4] == ["model A", "–", "87.6", "measured, default"]
    assert str(first[2]) == "87.6 [86.6, 88.6]"
    assert [c.text for c in first][5:7] == ["nothing added", "model 01234567"]
    values = [Decimal(row[2].text) for row in others[:-1]]
    assert values == sorted(values, reverse=True)
    # Two ties of 85.9 and 90.6 are there as printed.
    assert [str(v) for v in values].count("90.6") == 2
    assert {row[5].text for row in others[:-1]} == {"prompt 1"}
    assert "prompt 1: “Answer the question using a single word or phrase.”" in made.notes
    assert "model A, read by default: 9,000 questions, 3 unparsed." in made.notes
    addresses = {row.source for row in group.published}
    assert all(any(note.endswith(f": {url}") for note in made.notes) for url in addresses)


def test_figures_on_other_questions_have_a_table_of_their_own():
    groups = arrange([one("POPE", "F1 mean of three splits", NEW)], ROWS)
    own = [g for g in groups if g.metric == "F1 mean of three splits" and g.benchmark == "POPE"]
    assert [(g.data_version, len(g.measured), len(g.published)) for g in own] == [(NEW, 1, 0), (None, 0, 12)]
    assert "on other data than was measured" in title(own[1])


def test_plain_rows_say_the_same():
    for group in arrange(EVERY, ROWS):
        made = table(group)
        place = next(i for i, column in enumerate(made.columns) if column.name == "%")
        rows = plain(group)
        assert [row["printed"] for row in rows] == [str(cells[place]) for cells in made.rows]
        assert {(row["benchmark"], row["metric"]) for row in rows} == {(group.benchmark, group.metric)}


@pytest.mark.parametrize(
    ("text", "size"),
    [("1.7B", 1.7), ("450M LLM", 0.45), ("1.8Bx4", 7.2), ("1.1B LLM", 1.1), ("not stated", None)],
)
def test_sizes(text, size):
    assert billions(text) == (None if size is None else pytest.approx(size))


def test_every_listed_size_is_understood():
    assert {row.size for row in ROWS if billions(row.size) is None} == {"not stated"}


def test_a_choice_of_sizes_keeps_the_row_without_a_figure():
    kept = Chosen(sizes=size_range("0-0.5B")).published(ROWS)
    assert {row.model for row in kept} == {
        "AGE-VLM",
        "Phantom-0.5B",
        "SmolVLM-500M-Instruct",
        *(row.model for row in ROWS if row.size in ("450M LLM", "0.5B LLM")),
    }


@pytest.mark.parametrize("text", ["3B", "3-1B", "0-3", "a-bB", ""])
def test_a_size_that_is_none(text):
    with pytest.raises(DataError, match="0-3B"):
        size_range(text)


def test_short_names_of_sources():
    assert short("https://arxiv.org/abs/2412.05271") == "arXiv 2412.05271"
    assert short("https://github.com/a/b/blob/c/README.md") == "GitHub a/b"
    assert short("https://www.zingnex.cn/forum/thread/cv-bench") == "zingnex.cn"
