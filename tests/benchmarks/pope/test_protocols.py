from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from dataclasses import astuple, fields
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError
from benchmarks.pope.protocols import PROTOCOLS, Effect, bounds_effects, protocol
from benchmarks.reading import Label
from tests.oracles.pope_rules import EVALUATORS

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "pope"
LETTERS = {
    Label.YES: "Y",
    Label.NO: "N",
    Label.UNPARSED: "U",
    Label.REFUSED: "R",
    Label.EMPTY: "E",
    Label.ERROR: "!",
}
COLUMNS = (
    ("default", True),
    ("official", True),
    ("lmms-eval", True),
    ("vlmevalkit", True),
    ("vcd", True),
    ("vcd", False),
    ("repope", True),
    ("opera", True),
    ("cambrian", True),
    ("strict", True),
)

# one letter per column of COLUMNS, derived by hand from the reference rules
GOLDEN = [
    ("Yes", "YYYYYYYYYY"),
    ("No", "NNNNNNNNNN"),
    ("yes", "YYYYYYYYYY"),
    ("no", "NNNNNNNNNN"),
    ("YES", "YYYYYYYYYY"),
    ("NO", "NYNNNNNNNN"),
    ("Yes.", "YYUYYYYYYY"),
    ("No.", "NNUNNNNNNN"),
    ("NO.", "NYUNNNNNNN"),
    ("yes!", "YYUYYYYYUU"),
    ("No!", "NYUNNNNYUU"),
    ("yes ", "YYYYYYYYYY"),
    ("\nNo\n", "NYNNNNNYNN"),
    ("\u00a0No", "NYNNNNNYNN"),
    ("yes\u200b", "YYUUYYYYUU"),
    ("Ｙｅｓ", "YYUUNYUYUU"),
    ("Yes..", "YYUYYYYYYU"),
    ("yes" + "." * 40, "YYUUYYYYYU"),
    ("No .", "NNUNNNNNNU"),
    ("no,", "NNUNNNNNNU"),
    ("Yes, there is a dog.", "YYUYYYYYYU"),
    ("No, there is no dog.", "NNUNNNNNNU"),
    ("No\nbecause it is a cat", "NYUNNNNYNU"),
    ("There is no dog.", "NNUNNNNNUU"),
    ("There isn't a dog.", "NYUUNYUNUU"),
    ("There isn\u2019t a dog", "NYUUNYUYUU"),
    ("There is a dog in the image.", "YYUUNYUYUU"),
    ("The image shows a cat. There is no dog.", "NYUNNNNNUU"),
    ("I think there is. Yes", "YYUYYYYYUU"),
    ("It is not present, yes", "UNUYYNYNUU"),
    ("", "EYUUNYUYUU"),
    ("   ", "EYUUNYUYUU"),
    ("...", "EYUUNYUYUU"),
    ("I don't know", "UYUUNNNNUU"),
    ("I cannot see the image.", "RYUUNNNYUU"),
    ("I'm sorry, I can't help with that.", "RYUUNYUNUU"),
    ("snow", "UYUUNNNYUU"),
    ("Nothing", "UYUUNNNYUU"),
    ("eyes", "UYUUYYYYUU"),
    ("Noted, there are eyes", "YYUUYNYYUU"),
    ("not", "UNUUNNNNUU"),
    ("Not visible", "NYUUNNNYUU"),
    ("yes or no", "UNUUYNYNYU"),
    ("Yes and no.", "UNUUYNYNYU"),
    ("Yes. No.", "UYUUYNYNYU"),
    ("no yes", "UNUUYNYNNU"),
    ("yes/no", "UYUUYNYYUU"),
    ("Yes, there is no doubt about it.", "YNUUYNYNYU"),
    ("No, yes is wrong", "NNUUYNYNNU"),
    ("no-one / nobody", "NYUNNNNYUU"),
    ("yes - Yes-no", "YYUYYNYYYU"),
    ("No dog, 1,000 cats", "NNUNNNNNNU"),
    ("no,2,3", "NYUUNNNYUU"),
    ("No.5 bus", "NNUUNNNYUU"),
    ("Nope", "NYUUNNNYUU"),
    ("Yeah", "YYUUNYUYUU"),
    ("True", "YYUUNYUYUU"),
    ("**Yes**", "YYUUYYYYUU"),
    ("**No**", "NYUUNNNYUU"),
    ('"No"', "NYUNNNNYUU"),
    ("(yes)", "YYUYYYYYUU"),
    ("Answer: no", "NNUNNNNNUU"),
    ("Answer: Yes.", "YYUYYYYYUU"),
    ("A: No.", "NNUNNNNNUU"),
    ("The answer is no.", "NNUNNNNNUU"),
    ('{"answer": "yes"}', "YYUYYYYYUU"),
    ("\\boxed{no}", "NYUNNNNYUU"),
    ("<answer>No</answer>", "NYUNNNNYUU"),
    ("Maybe", "UYUUNYUYUU"),
    ("I'm not sure.", "UNUUNNNNUU"),
    ("Unable to tell", "UYUUNYUYUU"),
]


@pytest.mark.parametrize(("answer", "letters"), GOLDEN, ids=[repr(answer) for answer, _ in GOLDEN])
def test_golden(answer: str, letters: str) -> None:
    read = "".join(LETTERS[PROTOCOLS[name].read(answer, gold).label] for name, gold in COLUMNS)
    assert read == letters
    assert PROTOCOLS["llava"].read(answer, True) == PROTOCOLS["official"].read(answer, True)


def test_only_the_declared_protocol_sees_the_label() -> None:
    dependent = set()
    for name, entry in PROTOCOLS.items():
        if any(entry.read(answer, True) != entry.read(answer, False) for answer, _ in GOLDEN):
            dependent.add(name)
    assert dependent == {name for name, entry in PROTOCOLS.items() if entry.sees_label} == {"vcd"}


READ = {
    (Label.YES, True): Effect(n=1, correct=1, tp=1, yes=1),
    (Label.YES, False): Effect(n=1, fp=1, yes=1),
    (Label.NO, True): Effect(n=1, fn=1),
    (Label.NO, False): Effect(n=1, correct=1, tn=1),
}
UNREADABLE = {
    "default": (Effect(n=1, unparsed=1, missed=1), Effect(n=1, unparsed=1)),
    "cambrian": (Effect(n=1, unparsed=1, missed=1), Effect(n=1, unparsed=1)),
    "lmms-eval": (Effect(n=1, unparsed=1), Effect(n=1, unparsed=1)),
    "vlmevalkit": (Effect(n=1, fn=1, unparsed=1), Effect(n=1, tn=1, unparsed=1)),
    "repope": (Effect(unparsed=1), Effect(unparsed=1)),
    "strict": (Effect(n=1, fn=1, unparsed=1), Effect(n=1, fp=1, unparsed=1)),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_effects_of_what_was_read(name: str) -> None:
    for (label, gold), effect in READ.items():
        assert PROTOCOLS[name].count(label, gold) == effect


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("label", [Label.UNPARSED, Label.REFUSED, Label.EMPTY])
def test_effects_of_the_unreadable(name: str, label: Label) -> None:
    assert (PROTOCOLS[name].count(label, True), PROTOCOLS[name].count(label, False)) == UNREADABLE[name]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("gold", [True, False])
def test_a_missing_answer_never_counts(name: str, gold: bool) -> None:
    reading = PROTOCOLS[name].read(None, gold)
    assert (reading.label, reading.rule) == (Label.ERROR, "no-answer")
    assert PROTOCOLS[name].count(reading.label, gold) == Effect()
    assert bounds_effects(reading.label, gold) == (Effect(), Effect())


def test_effect_fields_keep_their_order() -> None:
    names = [field.name for field in fields(Effect)]
    assert names == ["n", "correct", "tp", "fp", "tn", "fn", "unparsed", "missed", "yes"]


def test_unknown_protocol_lists_the_names() -> None:
    assert protocol("vcd") is PROTOCOLS["vcd"]
    with pytest.raises(DataError, match=r"'pope'.*default, official, llava, lmms-eval.*strict"):
        protocol("pope")


# --- against the evaluators -------------------------------------------------------------------------------------------

FRAGMENTS = (
    *("yes", "no", "Yes", "No", "NO", "YES", "not", "Not", "isn't", "n't", "know", "cannot", "eyes", "nope", "maybe"),
    *("There is", "a dog", "1", "2", "I", "don't", "see", "İ", "ſ", "K", "é", "\u2019", "\u200b", "١"),
    *(" ", " ", " ", "\n", "\t", "\u00a0", ".", ".", ",", ",", "!", "?", ":", ";", "/", "-", "_", '"', "'", "(", "{"),
    *("*", "`", "\\", "<", ">", "@", "=", "+", "." * 33),
)
ANSWERS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join), st.sampled_from([a for a, _ in GOLDEN])
)
ROWS = st.lists(st.tuples(ANSWERS, st.booleans()), max_size=12)


def total(name: str, rows: Iterable[tuple[str, bool]]) -> Effect:
    entry = PROTOCOLS[name]
    effects = [astuple(entry.count(entry.read(answer, gold).label, gold)) for answer, gold in rows]
    return Effect(*map(sum, zip(*effects, strict=True))) if effects else Effect()


def scores(sums: Effect) -> dict[str, Fraction | None]:
    def ratio(above: int, below: int) -> Fraction | None:
        return Fraction(above, below) if below else None

    return {
        "accuracy": ratio(sums.correct, sums.n),
        "precision": ratio(sums.tp, sums.tp + sums.fp),
        "recall": ratio(sums.tp, sums.tp + sums.fn + sums.missed),
        "f1": ratio(2 * sums.tp, 2 * sums.tp + sums.fp + sums.fn + sums.missed),
        "yes_ratio": ratio(sums.yes, sums.n),
    }


@pytest.mark.parametrize("name", EVALUATORS)
@given(rows=ROWS)
def test_scores_equal_the_evaluators(name: str, rows: list[tuple[str, bool]]) -> None:
    ours = scores(total(name, rows))
    for metric, theirs in EVALUATORS[name](rows).items():
        if theirs is not None:
            assert ours[metric] == theirs, metric


def test_every_published_protocol_has_an_evaluator() -> None:
    assert set(EVALUATORS) == set(PROTOCOLS) - {"default"}


@pytest.fixture(scope="module")
def lmms_pope() -> ModuleType:
    found = importlib.util.find_spec("lmms_eval")
    path = Path(found.origin).parent / "tasks" / "pope" / "utils.py" if found and found.origin else None
    if path is None or not path.is_file():
        pytest.skip("lmms-eval is not installed")
    spec = importlib.util.spec_from_file_location("lmms_pope_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(rows=ROWS.filter(len))
def test_lmms_eval_itself_prints_the_same(lmms_pope: ModuleType, rows: list[tuple[str, bool]]) -> None:
    results = [
        lmms_pope.pope_process_results({"answer": "yes" if gold else "no", "question_id": 0}, [answer])
        for answer, gold in rows
    ]
    ours = scores(total("lmms-eval", rows))
    for metric, theirs in {
        "accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "f1_score",
    }.items():
        printed = getattr(lmms_pope, f"pope_aggregate_{theirs}")([result[f"pope_{theirs}"] for result in results])
        assert float(ours[metric] or 0) == pytest.approx(printed, abs=1e-12)


@given(rows=ROWS)
def test_default_counts_every_answer_once(rows: list[tuple[str, bool]]) -> None:
    sums = total("default", rows)
    assert sums.tp + sums.fp + sums.tn + sums.fn + sums.unparsed == sums.n == len(rows)
    assert sums.tp + sums.fn + sums.missed == sum(gold for _, gold in rows)
    assert sums.correct == sums.tp + sums.tn
    assert sums.yes == sums.tp + sums.fp


@given(rows=ROWS, meant=st.lists(st.booleans(), min_size=12, max_size=12))
def test_bounds_enclose_whatever_was_meant(rows: list[tuple[str, bool]], meant: list[bool]) -> None:
    low, high, true = [Effect()], [Effect()], [Effect()]
    for (answer, gold), yes in zip(rows, meant, strict=False):
        label = PROTOCOLS["default"].read(answer, gold).label
        lower, upper = bounds_effects(label, gold)
        low.append(lower)
        high.append(upper)
        if label not in (Label.YES, Label.NO):
            label = Label.YES if yes else Label.NO
        true.append(PROTOCOLS["default"].count(label, gold))
    sums = [scores(Effect(*map(sum, zip(*map(astuple, each), strict=True)))) for each in (low, true, high)]
    for metric in ("accuracy", "precision", "recall", "f1"):
        lower, middle, upper = (each[metric] for each in sums)
        if lower is not None and middle is not None and upper is not None:
            assert lower <= middle <= upper


@pytest.mark.parametrize("name", PROTOCOLS)
@given(answer=st.text(), gold=st.booleans())
def test_readings_are_total_and_point_into_the_answer(name: str, answer: str, gold: bool) -> None:
    reading = PROTOCOLS[name].read(answer, gold)
    assert reading.label is not Label.ERROR
    if reading.span is not None:
        start, end = reading.span
        assert 0 <= start < end <= len(answer)


@pytest.mark.parametrize(
    ("name", "answer", "stretch"),
    [
        ("official", "There is, no dog", "no"),
        ("opera", "I do.n't, think so", "do.n't,"),
        ("lmms-eval", " yes\n", "yes"),
        ("strict", " No. ", "No"),
        ("cambrian", " Yes: it is", "Yes"),
        ("repope", "EYES", "YES"),
        ("vcd", "eyes", "yes"),
    ],
)
def test_an_answer_is_read_at_the_stretch_that_decided(name: str, answer: str, stretch: str) -> None:
    span = PROTOCOLS[name].read(answer, True).span
    assert span is not None
    assert answer[slice(*span)] == stretch


DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "protocols.md"


def documented_readings() -> Iterable[tuple[str, list[str]]]:
    section = DOCUMENT.read_text(encoding="utf-8").split("## Fifteen telling answers")[1].split("\n## ")[0]
    for line in [line for line in section.splitlines() if line.startswith("|")][2:]:
        answer, *readings = (cell.strip() for cell in line.strip("|").split("|"))
        yield ("" if answer == "(empty)" else answer.strip("`").replace("\\n", "\n")), readings


def test_the_document_shows_how_answers_are_read() -> None:
    rows = list(documented_readings())
    assert len(rows) == 15
    names = [name for name in PROTOCOLS if name != "llava"]
    for answer, readings in rows:
        for name, shown in zip(names, readings, strict=True):
            labels = [
                PROTOCOLS[name].read(answer, gold).label for gold in ((True, False) if name == "vcd" else (True,))
            ]
            assert " / ".join("–" if label is Label.UNPARSED else label for label in labels) == shown, (name, answer)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_document_describes_every_protocol(name: str) -> None:
    assert f"### {name}\n" in DOCUMENT.read_text(encoding="utf-8")


# --- real answers -----------------------------------------------------------------------------------------------------

EXPECTED = DATA / "answers" / "expected_official.json"
needs_answers = pytest.mark.skipif(not EXPECTED.is_file(), reason=f"no published answers at {DATA}")
SPLITS = ("random", "popular", "adversarial")


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def check_confusion(rows: list[tuple[str, bool]], expected: dict[str, float]) -> None:
    sums = total("official", rows)
    printed = {"TP": sums.tp, "FP": sums.fp, "TN": sums.tn, "FN": sums.fn, "n": sums.n}
    assert printed == {key: expected[key] for key in printed}
    for metric, value in scores(sums).items():
        assert value is not None
        assert float(value) == pytest.approx(expected[metric], abs=1e-12)


@needs_answers
@pytest.mark.parametrize("split", SPLITS)
def test_official_confusion_of_the_7b_answers(split: str) -> None:
    labels = {row["question_id"]: row["label"] == "yes" for row in lines(DATA / "official" / f"coco_pope_{split}.json")}
    answers = lines(DATA / "answers" / "llava-1.5-7b-greedy" / f"coco_{split}.jsonl")
    expected = json.loads(EXPECTED.read_text())[f"cd_rethink/llava-7b-coco-{split}-greedy"]
    check_confusion([(row["text"], labels[row["question_id"]]) for row in answers], expected)


@needs_answers
@pytest.mark.parametrize("split", SPLITS)
def test_official_confusion_of_the_13b_answers(split: str) -> None:
    folder = DATA / "llava_variant"
    labels = {(row["image"], row["text"]): row["label"] == "yes" for row in lines(folder / f"coco_pope_{split}.json")}
    questions = {row["question_id"]: row for row in lines(folder / "llava_pope_test.jsonl") if row["category"] == split}
    rows = []
    for answer in lines(DATA / "answers" / "llava-1.5-13b" / "llava_pope_test_answers.jsonl"):
        question = questions.get(answer["question_id"])
        if question is not None:
            rows.append((answer["text"], labels[question["image"], question["text"].split("\n")[0]]))
    check_confusion(rows, json.loads(EXPECTED.read_text())[f"haoming2000/llava-v1.5-13b {split}"])
