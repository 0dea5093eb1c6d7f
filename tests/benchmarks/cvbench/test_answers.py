"""Answers from elsewhere: joined with their questions, or refused with what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agevlm.errors import DataError
from benchmarks.cvbench.answers import load_answered
from benchmarks.cvbench.prompts import LMMS_EVAL, OFFICIAL, PLAIN, load_prompt, prompt_of_answers
from benchmarks.cvbench.questions import Question, QuestionSet
from benchmarks.lmms import cvbench_task

QUESTIONS = tuple(
    Question(
        str(number),
        "COCO",
        "2D",
        "Count",
        f"{number}.png",
        f"{number}.png",
        f"How many of {number}? Select from the following choices.\n(A) 1\n(B) 2",
        ("1", "2"),
        0,
        "here",
    )
    for number in (7, 8, 9)
)
SET = QuestionSet("custom@test", "", QUESTIONS)
PRE_PROMPT = {
    "pre_prompt": "Note: You only need to respond with {} without providing any additional information.\n",
    "post_prompt": "",
}
"""Of its task file cv_bench_2d.yaml."""


def answers(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_plain_json_lines(tmp_path: Path) -> None:
    path = answers(tmp_path / "a.jsonl", {"idx": 7, "text": "(A)"}, {"question_id": "9", "prediction": "B"})
    found = load_answered([path], SET)
    assert {idx: a.text for idx, a in found.answers["image"].items()} == {"7": "(A)", "9": "B"}
    assert found.prompt == "not stated"
    assert found.questions is SET


@pytest.mark.parametrize("prompt", [OFFICIAL, PLAIN, LMMS_EVAL])
def test_the_prompt_is_told_by_what_was_recorded(tmp_path: Path, prompt: Any) -> None:
    rows = [{"idx": q.idx, "text": "A", "prompt": prompt.of(q.prompt, 2)} for q in QUESTIONS]
    assert load_answered([answers(tmp_path / "a.jsonl", *rows)], SET).prompt == prompt.name
    rows[0]["prompt"] = f"Look closely. {QUESTIONS[0].prompt}"
    assert load_answered([answers(tmp_path / "b.jsonl", *rows)], SET).prompt == "mixed"
    assert load_answered([answers(tmp_path / "c.jsonl", rows[0])], SET).prompt == "other"


def test_a_question_without_its_options_is_known_but_is_no_prompt(tmp_path: Path) -> None:
    """As in the hub's `question` column."""
    rows = [{"idx": q.idx, "text": "A", "question": f"How many of {q.idx}?"} for q in QUESTIONS]
    assert load_answered([answers(tmp_path / "a.jsonl", *rows)], SET).prompt == "not stated"
    rows[2]["question"] = rows[1]["question"]
    with pytest.raises(DataError, match=r"a\.jsonl:3: idx 9 was asked 'How many of 8\?'"):
        load_answered([answers(tmp_path / "a.jsonl", *rows)], SET)


def test_pandas_writes_whole_numbers_as_fractions(tmp_path: Path) -> None:
    found = load_answered([answers(tmp_path / "a.jsonl", {"idx": 7.0, "text": "A"})], SET)
    assert set(found.answers["image"]) == {"7"}
    with pytest.raises(DataError, match=r"idx 7\.5 is none"):
        load_answered([answers(tmp_path / "a.jsonl", {"idx": 7.5, "text": "A"})], SET)


def by_lmms_eval(module: ModuleType, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """What cv_bench's own functions of 0.7.3 log."""
    return {
        "input": module.cv_bench_doc_to_text(doc, PRE_PROMPT),
        "filtered_resps": [answer],
        **module.cv_bench_process_results(doc, [answer]),
    }


def by_our_tasks(_: ModuleType, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """What agevlm_cvbench_* log under lmms-eval."""
    return {
        "input": cvbench_task.doc_to_text(doc),
        "filtered_resps": answer,
        **cvbench_task.process_results(doc, [answer]),
    }


@pytest.mark.parametrize(("logged", "prompt"), [(by_lmms_eval, "lmms-eval"), (by_our_tasks, "official")])
def test_lmms_eval_samples(
    tmp_path: Path, lmms_eval: ModuleType, logged: Callable[..., dict[str, Any]], prompt: str
) -> None:
    """Its sample files have no document; its idx is in the metrics."""
    docs = [
        {"idx": int(q.idx), "prompt": q.prompt, "choices": list(q.options), "answer": "(A)", "source": "COCO"}
        | {"type": "2D", "task": "Count"}
        for q in QUESTIONS
    ]
    texts = ["B.", "(A)", "one"]
    rows = [
        {"doc_id": number, "target": "(A)", **logged(lmms_eval, doc, text)}
        for number, (doc, text) in enumerate(zip(docs, texts, strict=True))
    ]
    found = load_answered([answers(tmp_path / "samples_cv_bench_2d.jsonl", *rows)], SET)
    assert {idx: a.text for idx, a in found.answers["image"].items()} == dict(zip("789", texts, strict=True))
    assert found.prompt == prompt


WRONG = [
    ([{"idx": 3, "text": "A"}], r"a\.jsonl:1: idx 3 is none of the 3 questions of custom@test"),
    ([{"idx": 7, "text": "A"}, {"idx": "7", "text": "B"}], r"a\.jsonl:2: idx 7 is answered twice, first at .*:1"),
    ([{"idx": 7, "text": None}], r"a\.jsonl:1: the answer is NoneType, not text"),
    ([{"idx": 7, "answer": "(A)"}], r"a\.jsonl:1: no field one of text, prediction, response, pred"),
    ([{"text": "(A)"}], r"a\.jsonl:1: no field one of idx, question_id, index, id"),
    ([{"idx": 7, "text": "A", "prompt": "Is there a dog?"}], r"a\.jsonl:1: idx 7 was asked 'Is there a dog\?'"),
    ([{"doc_id": 0, "filtered_resps": ["A"]}], r"a\.jsonl:1: not a CV-Bench sample of lmms-eval"),
    (["{"], r"a\.jsonl:1: not valid JSON"),
    (["[1]"], r"a\.jsonl:1: not a JSON object"),
    ([], r"a\.jsonl: the file is empty"),
]


@pytest.mark.parametrize(("rows", "message"), WRONG)
def test_a_wrong_answer_file_says_what_is_wrong(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_answered([answers(tmp_path / "a.jsonl", *rows)], SET)


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_answered([tmp_path / "nowhere"], SET)
    with pytest.raises(DataError, match=r"no \.jsonl files"):
        load_answered([tmp_path], SET)


def test_prompts(tmp_path: Path) -> None:
    assert load_prompt("official").of("Q", 2) == "Q\nAnswer with the option's letter from the given choices directly."
    assert "A, B, C without" in load_prompt("lmms-eval").of("Q", 3)
    own = tmp_path / "own.txt"
    own.write_text("Think. {prompt} One of {letters}.\n")
    made = load_prompt(str(own))
    assert made.name.startswith("own:")
    assert made.of("Where?", 2) == "Think. Where? One of A, B."
    # a question that speaks of letters keeps its own words
    assert load_prompt("lmms-eval").of("{letters}?", 2).endswith("{letters}?")
    own.write_text("{prompt}")
    assert load_prompt(str(own)) == PLAIN
    own.write_text("{prompt}{prompt}")
    with pytest.raises(DataError, match="exactly once, found 2"):
        load_prompt(str(own))
    with pytest.raises(DataError, match="none of official, plain, lmms-eval, nor a readable text file"):
        load_prompt(str(tmp_path / "nowhere"))
    assert prompt_of_answers("something else", "Q?", 2) is None
