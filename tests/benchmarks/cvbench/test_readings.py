from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError
from benchmarks.cvbench.readings import PROTOCOLS, Reading, protocol_named, read
from tests.benchmarks.cvbench import table
from tests.oracles import cvbench_rules

LETTERS = string.ascii_uppercase


@pytest.mark.parametrize(("options", "answer", "letters", "rule"), table.ANSWERS)
def test_table(options: tuple[str, ...], answer: str, letters: str, rule: str) -> None:
    readings = [read(name, answer, options) for name in table.PROTOCOLS]
    assert "".join("-" if r.option is None else LETTERS[r.option] for r in readings) == letters
    assert readings[0].rule == rule


def test_the_table_is_wide() -> None:
    assert len({answer for _, answer, _, _ in table.ANSWERS}) >= 60
    assert set(table.PROTOCOLS) == set(PROTOCOLS)
    # every protocol is told apart from every other by some answer
    columns = list(zip(*(letters for _, _, letters, _ in table.ANSWERS), strict=True))
    assert len(set(columns)) == len(PROTOCOLS)


def test_rule_names_say_what_strict_and_the_presets_did() -> None:
    assert read("strict", " \n", table.SIDE) == Reading(None, "empty")
    assert read("strict", "(G)", table.SIDE) == Reading(None, "letter-not-offered")
    assert read("strict", "B.", table.SIDE) == Reading(1, "letter")
    assert read("official", "above", table.VERT) == Reading(0, "first-character")
    assert read("official", "so the answer is (B)", table.VERT) == Reading(1, "after-answer")
    assert read("official", "3", table.COUNT) == Reading(None, "no-letter-first")
    assert read("lmms-eval", "The answer is (A)", table.SIDE) == Reading(None, "letter-not-offered")
    assert read("vlmevalkit", "10", ("1", "3", "5", "7")) == Reading(0, "text-inside")
    assert read("vlmevalkit", "I can't process this file. A", table.SIDE) == Reading(None, "rejection")
    assert read("vlmevalkit", "Z", table.SIDE) == Reading(None, "letter-z")
    assert read("vlmevalkit", "the answer is above", table.VERT) == Reading(0, "after-answer")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_missing_answer_has_its_own_rule(name: str) -> None:
    assert read(name, None, table.SIDE) == Reading(None, "no-answer")


def test_bad_arguments() -> None:
    assert protocol_named("strict") is PROTOCOLS["strict"]
    with pytest.raises(DataError, match=r"'pope'.*rules, strict, official, lmms-eval, vlmevalkit"):
        read("pope", "A", table.SIDE)
    with pytest.raises(ValueError, match="got 0"):
        read("rules", "A", ())
    with pytest.raises(ValueError, match="got 27"):
        read("rules", "A", [str(i) for i in range(27)])


# --- against the evaluators -------------------------------------------------------------------------------------------

FRAGMENTS = (
    *(
        "A",
        "B",
        "C",
        "G",
        "Z",
        "a",
        "b",
        "c",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "*",
        "**",
        "#",
        ".",
        ",",
        ":",
        "!",
        " ",
        " ",
    ),
    *("answer is", "Answer is ", "ANSWER  IS ", "answer:", "answer is:", "correct answer is ", "\n", "\t", "\u00a0"),
    *("3", "13", "1", "left", "right", "above", "sofa", "the", "x", "ı", "ſ", "\u212a", "İ", "ß", "ﬁ", "\x1c", "Ｂ"),
    *("Cannot determine the answer", "Failed to obtain answer via API", "I can't process this file."),
)
ANSWERS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join),
    st.sampled_from([answer for _, answer, _, _ in table.ANSWERS]),
    st.text(max_size=12),
)
OPTIONS = st.sampled_from([table.COUNT, table.SIDE, table.DEPTH, table.NEST, ("a", "b", "c"), ("Left", "ABOVE", "0")])


def marked_right(module: ModuleType, answer: str, n_options: int) -> int | None:
    def marks(gold: int) -> bool:
        doc = {"answer": f"({LETTERS[gold]})", "idx": 0, "type": "2D", "task": "Count", "source": "COCO"}
        return bool(module.cv_bench_process_results(doc, [answer])["cv_bench_acc"]["is_correct"])

    return cvbench_rules.option(marks, n_options)


def test_lmms_eval_reads_the_table_alike(lmms_eval: ModuleType) -> None:
    assert marked_right(lmms_eval, "Answer: (C)", 4) == 0  # what its code is known for, so the comparison is live
    for options, answer, _, _ in table.ANSWERS:
        assert read("lmms-eval", answer, options).option == marked_right(lmms_eval, answer, len(options)), answer


@given(ANSWERS, st.integers(1, 26))
def test_lmms_eval_reads_anything_alike(lmms_eval: ModuleType, answer: str, n_options: int) -> None:
    options = [str(i) for i in range(n_options)]
    assert read("lmms-eval", answer, options).option == marked_right(lmms_eval, answer, n_options)


@given(ANSWERS, OPTIONS)
def test_official_reads_as_both_of_its_evaluators(answer: str, options: Sequence[str]) -> None:
    for ending in (".", ".:,"):
        expected = cvbench_rules.option(lambda gold: cvbench_rules.cambrian(answer, gold, ending), len(options))  # noqa: B023
        assert read("official", answer, options).option == expected


@given(ANSWERS, OPTIONS)
def test_vlmevalkit_reads_as_its_matching(answer: str, options: Sequence[str]) -> None:
    expected = cvbench_rules.option(lambda gold: cvbench_rules.vlmevalkit(answer, options, gold), len(options))
    assert read("vlmevalkit", answer, options).option == expected


# --- properties -------------------------------------------------------------------------------------------------------

WRAPPINGS = (
    *("{}", "({})", "{})", "{}.", "[{}]", "**{}**", "**({})**", "`{}`", "（{}）", "【{}】", "\\boxed{{{}}}", " {}\n"),
    *("Answer: {}", "The answer is ({}).", "the final answer is {}", "option {}", "Choice ({})", "<answer>{}</answer>"),
    *(
        '{{"answer": "{}"}}',
        "答案：{}",
        "So it is clear that the answer is ({})",
        "Final answer: **{}**",
        "ANSWER: ({})",
    ),
)
QUESTIONS = st.sampled_from(
    [table.COUNT, table.SIDE, table.VERT, table.DEPTH, table.CONE, ("0", "1", "2", "3", "4", "5")]
)


@given(QUESTIONS, st.integers(0, 5), st.sampled_from(WRAPPINGS), st.booleans())
def test_wrapping_and_case_do_not_matter(options: Sequence[str], place: int, wrapping: str, lower: bool) -> None:
    letter = LETTERS[place].lower() if lower else LETTERS[place]
    reading = read("rules", wrapping.format(letter), options)
    expected = place if place < len(options) else None
    assert reading.option == expected
    assert (reading.rule == "letter-not-offered") == (expected is None)


@given(QUESTIONS, st.integers(0, 5), st.sampled_from(["{}) {}", "({}) {}", "{}. {}", "{}: {}", "Answer: ({}) {}."]))
def test_a_letter_and_its_own_text_name_the_option(options: Sequence[str], place: int, form: str) -> None:
    place %= len(options)
    assert read("rules", form.format(LETTERS[place], options[place]), options).option == place
    other = options[(place + 1) % len(options)]
    assert read("rules", form.format(LETTERS[place], other), options) == Reading(None, "letter-text-conflict")


@given(QUESTIONS, st.data())
def test_two_letters_name_no_option(options: Sequence[str], data: st.DataObject) -> None:
    first, second = data.draw(st.permutations(range(len(options))))[:2]
    form = data.draw(st.sampled_from(["({}) or ({})", "{} or {}", "{}/{}", "Answer: {} and {}", "either {} or {}"]))
    assert read("rules", form.format(LETTERS[first], LETTERS[second]), options) == Reading(None, "two-letters")


TEXTS = ("{}", "The {}.", "{}!", "Answer: the {}", "**{}**", "It is the {} I think", "not the {}", "{} or so")


@given(QUESTIONS, st.data(), st.sampled_from(TEXTS), st.booleans())
def test_permuted_options_permute_the_reading(
    options: Sequence[str], data: st.DataObject, form: str, upper: bool
) -> None:
    named = data.draw(st.sampled_from([*options, "lamp", "7", "thirteen", "coffee"]))
    answer = form.format(named.upper() if upper else named)
    order = data.draw(st.permutations(range(len(options))))
    plain, permuted = read("rules", answer, options), read("rules", answer, [options[i] for i in order])
    assert permuted.rule == plain.rule
    assert (None if permuted.option is None else order[permuted.option]) == plain.option
    if named in options and form != TEXTS[-2]:
        assert plain.option == list(options).index(named)


@given(st.lists(st.integers(0, 130), min_size=2, max_size=6, unique=True), st.integers(0, 130))
def test_numbers_are_whole_numbers(numbers: list[int], said: int) -> None:
    for form in ("{}", "There are {} cars.", "**{}**", "Answer: {}"):
        reading = read("rules", form.format(said), [str(number) for number in numbers])
        assert reading.option == (numbers.index(said) if said in numbers else None)
        if said not in numbers:
            assert reading.rule == "number-not-offered"


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 3))
def test_a_sum_settles_several_numbers_only_if_it_is_one(parts: list[int], beside: int) -> None:
    said = sum(parts) + beside
    options = [str(number) for number in sorted({*parts, said, 0})]
    listed = ", ".join(f"{number} here" for number in parts)
    for form in (f"There are {said} cars: {listed}.", f"{listed}, which makes {said}", f"{said} ({listed})"):
        reading = read("rules", form, options)
        if not beside:
            assert reading == Reading(options.index(str(said)), "total")
        else:
            assert reading.rule != "total"


@given(ANSWERS, OPTIONS)
def test_any_answer_has_a_reading_and_strict_ones_are_undisputed(answer: str, options: Sequence[str]) -> None:
    readings = {name: read(name, answer, options) for name in PROTOCOLS}
    for reading in readings.values():
        assert reading.option is None or 0 <= reading.option < len(options)
        assert reading.rule
    if readings["strict"].option is not None:
        assert {reading.option for reading in readings.values()} == {readings["strict"].option}


def test_real_questions(shared: Path) -> None:
    rows = [json.loads(line) for line in (shared / "cvbench" / "questions_sample.jsonl").read_text().splitlines()]
    assert len(rows) == 64
    says: tuple[Callable[[str, str], str], ...] = (
        lambda letter, _: letter,
        lambda letter, _: f"The answer is {letter}.",
        lambda letter, text: f"{letter} {text}",
        lambda _, text: text,
        lambda _, text: f"Answer: the {text}.",
    )
    for row in rows:
        gold = LETTERS.index(row["answer"].strip("()"))
        assert all(read(name, row["answer"], row["choices"]).option == gold for name in PROTOCOLS)
        for place, text in enumerate(row["choices"]):
            for say in says:
                answer = say(f"({LETTERS[place]})", text)
                assert read("rules", answer, row["choices"]).option == place, (answer, row["choices"])
        # the prompt lists all options, so an answer that repeats it names none
        assert read("rules", row["prompt"], row["choices"]).option is None
