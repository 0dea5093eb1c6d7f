"""Existing answer files: matched to their questions by content, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agevlm.errors import DataError
from benchmarks.pope.answers import load_answered
from benchmarks.pope.questions import load_questions
from benchmarks.pope.rows import IMAGE
from benchmarks.prompts import SUFFIX

NAMES = ["dog", "cat", "car", "bus", "cup", "bed"]


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def ask(name: str) -> str:
    return f"Is there a {name} in the image?"


@pytest.fixture
def questions(tmp_path):
    """Two splits with the same positives under the same ids, as POPE's are, and different negatives."""
    folder = tmp_path / "questions"
    folder.mkdir()
    for split, negative in (("random", "boat"), ("popular", "chair")):
        rows = []
        for i, name in enumerate(NAMES):
            rows.append({"question_id": 2 * i + 1, "image": f"{i}.jpg", "text": ask(name), "label": "yes"})
            rows.append({"question_id": 2 * i + 2, "image": f"{i}.jpg", "text": ask(negative), "label": "no"})
        write_lines(folder / f"coco_pope_{split}.json", rows)
    return folder


def answer_rows(questions: Path, split: str, suffix: str = SUFFIX):
    rows = [json.loads(line) for line in (questions / f"coco_pope_{split}.json").read_text().splitlines()]
    return [{"question_id": r["question_id"], "prompt": r["text"] + suffix, "text": "Yes"} for r in rows]


def load(path, questions):
    return load_answered([path], load_questions([questions]))


def test_an_answer_file_finds_its_split_by_what_was_asked(tmp_path, questions):
    for split in ("random", "popular"):
        (found,) = load(write_lines(tmp_path / "a.jsonl", answer_rows(questions, split)), questions)
        assert {q.split for q in found.questions.questions} == {split}
        assert len(found.answers[IMAGE]) == 12
        assert found.prompt == "default"


def test_the_prompt_is_named_by_what_the_file_records(tmp_path, questions):
    for suffix, name in (("", "official"), (SUFFIX, "default"), (" Please answer.", "other")):
        (found,) = load(write_lines(tmp_path / "a.jsonl", answer_rows(questions, "random", suffix)), questions)
        assert found.prompt == name
    rows = [{k: v for k, v in r.items() if k != "prompt"} for r in answer_rows(questions, "random")]
    (found,) = load(write_lines(tmp_path / "coco_random.jsonl", rows), questions)
    assert found.prompt == "not stated"


def test_without_prompts_the_file_name_decides_and_without_both_it_is_refused(tmp_path, questions):
    rows = [{"question_id": r["question_id"], "text": "No"} for r in answer_rows(questions, "random")]
    (found,) = load(write_lines(tmp_path / "my_popular.jsonl", rows), questions)
    assert {q.split for q in found.questions.questions} == {"popular"}
    with pytest.raises(DataError, match=r"fit more than one set of questions .*random.*popular"):
        load(write_lines(tmp_path / "answers.jsonl", rows), questions)


def test_a_partly_answered_split_keeps_its_missing_questions(tmp_path, questions):
    (found,) = load(write_lines(tmp_path / "a.jsonl", answer_rows(questions, "random")[:4]), questions)
    assert len(found.questions.questions) == 12
    assert len(found.answers[IMAGE]) == 4


def test_a_folder_of_answer_files_is_one_model(tmp_path, questions):
    folder = tmp_path / "answers"
    folder.mkdir()
    for split in ("random", "popular"):
        write_lines(folder / f"{split}.jsonl", answer_rows(questions, split))
    (found,) = load(folder, questions)
    assert len(found.answers[IMAGE]) == 24
    write_lines(folder / "again_random.jsonl", answer_rows(questions, "random"))
    with pytest.raises(DataError, match=r"question 1 of random is answered twice, first at .*again_random.jsonl:1"):
        load(folder, questions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows[:3], {"question_id": 99, "text": "Yes"}], r"a.jsonl:4: question 99 is not among them"),
        (
            lambda rows: [*rows[:3], {**rows[3], "prompt": "Is there a zebra in the image?"}],
            r"a.jsonl:4: question 4 asks 'Is there a zebra in the image\?', the question file 'Is there a boat",
        ),
        (lambda rows: [*rows, rows[0]], "question 1 of random is answered twice"),
        (lambda rows: [{"question_id": 1, "answer": "Yes"}], r"a.jsonl:1: no field 'text'"),
        (lambda rows: [{"question_id": 1, "text": None}], r"a.jsonl:1: the answer is NoneType, not text"),
        (lambda rows: [[1, 2]], r"a.jsonl:1: not a JSON object"),
        (lambda rows: [], "the file is empty"),
        (lambda rows: [{"doc_id": 0, "filtered_resps": "Yes"}], r"a.jsonl:1: not a POPE sample of lmms-eval"),
    ],
)
def test_answers_that_do_not_fit_are_refused_with_file_and_line(tmp_path, questions, change, message):
    path = write_lines(tmp_path / "a.jsonl", change(answer_rows(questions, "random")))
    with pytest.raises(DataError, match=message):
        load(path, questions)


def test_a_broken_line_is_named(tmp_path, questions):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question_id": 1, "text": "Yes"}\n{"question_id": 2, "te')
    with pytest.raises(DataError, match=r"a.jsonl:2: not valid JSON"):
        load(path, questions)
    path.write_bytes(b'{"question_id": 1, "text": "\xff"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        load(path, questions)
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "nowhere.jsonl", questions)


def sample(doc_id: int, question_id: int, text: str, prompt: str):
    """A row as lmms-eval 0.7.3 writes it with --log_samples."""
    metric = {"question_id": str(question_id), "score": 1.0, "prediction": text.lower(), "ground_truth": "yes"}
    return {
        "doc_id": doc_id,
        "target": "yes",
        "filtered_resps": text,
        "token_counts": [None],
        "doc_hash": "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
        "pope_accuracy": metric,
        "pope_f1_score": metric,
        "input": prompt,
    }


def test_lmms_eval_samples_are_cut_into_splits_where_the_ids_restart(tmp_path, questions):
    rows, doc = [], 0
    for split in ("popular", "random"):
        for r in answer_rows(questions, split):
            rows.append(sample(doc, r["question_id"], f"Yes {split}", r["prompt"]))
            doc += 1
    rows = rows[1::2] + rows[0::2]  # two processes, written one after the other
    (found,) = load(write_lines(tmp_path / "20261120_samples_pope.jsonl", rows), questions)
    assert len(found.answers[IMAGE]) == 24
    assert all(a.text == f"Yes {split}" for (split, _), a in found.answers[IMAGE].items())


def test_the_llava_release_joins_asked_ids_with_labels(tmp_path):
    folder = tmp_path / "llava"
    folder.mkdir()
    asked = []
    for split, offset, negative in (("adversarial", 0, "boat"), ("random", 10_000_000, "tree")):
        rows = []
        for i, name in enumerate(NAMES):
            for k, (thing, label) in enumerate(((name, "yes"), (negative, "no"))):
                number = 2 * i + k + 1
                rows.append({"question_id": number, "image": f"{i}.jpg", "text": ask(thing), "label": label})
                asked.append(
                    {
                        "question_id": offset + number,
                        "image": f"{i}.jpg",
                        "text": ask(thing) + SUFFIX,
                        "category": split,
                    }
                )
        write_lines(folder / f"coco_pope_{split}.json", rows)
    write_lines(folder / "llava_pope_test.jsonl", asked)
    answers = [{"question_id": r["question_id"], "prompt": r["text"], "text": "No"} for r in asked]
    (found,) = load(write_lines(tmp_path / "a.jsonl", answers), folder)
    assert len(found.answers[IMAGE]) == 24
    labels = {(q.split, q.question_id): q.label for q in found.questions.questions}
    assert labels["random", "10000001"] is True
    assert labels["random", "10000002"] is False
    (folder / "coco_pope_random.json").unlink()
    with pytest.raises(DataError, match="10000001"):
        load(tmp_path / "a.jsonl", folder)


def test_part_of_a_release_is_matched_to_the_split_it_is_of(tmp_path):
    folder = tmp_path / "llava"
    folder.mkdir()
    rows = [{"question_id": i + 1, "image": f"{i}.jpg", "text": ask(n), "label": "yes"} for i, n in enumerate(NAMES)]
    asked = []
    for split, offset in (("adversarial", 0), ("random", 10_000_000)):
        write_lines(folder / f"coco_pope_{split}.json", rows)
        asked += [
            {
                "question_id": offset + r["question_id"],
                "image": r["image"],
                "text": r["text"] + SUFFIX,
                "category": split,
            }
            for r in rows
        ]
    write_lines(folder / "llava_pope_test.jsonl", asked)
    answers = [{"question_id": r["question_id"], "prompt": r["text"], "text": "No"} for r in asked[:4]]
    (found,) = load(write_lines(tmp_path / "a.jsonl", answers), folder)
    assert {q.split for q in found.questions.questions} == {"adversarial"}
    assert (len(found.questions.questions), len(found.answers[IMAGE])) == (6, 4)
