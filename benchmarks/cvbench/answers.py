"""CV-Bench answers that already exist: our run folders, lmms-eval samples, and plain JSON lines.

A foreign row is joined to its question by idx; where it records what was asked, that must hold the question's prompt,
or be its beginning: the hub's `question` column has no options.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.errors import DataError, RunFolderError
from benchmarks.answer_files import answer_files, answer_rows
from benchmarks.controls import IMAGE
from benchmarks.cvbench.prompts import NOT_STATED, prompt_of_answers
from benchmarks.cvbench.questions import Question, QuestionSet
from benchmarks.cvbench.results import Answered
from benchmarks.records import Answer, AnswerRecord
from benchmarks.run_folder import RunFolder

ID_KEYS = ("idx", "question_id", "index", "id")
TEXT_KEYS = ("text", "prediction", "response", "pred")
PROMPT_KEYS = ("prompt", "question")
MIXED = "mixed"


@dataclass(frozen=True)
class _AnswerRow:
    idx: str
    text: str
    prompt: str | None
    """What the model was asked, as the file records it."""
    where: str


def load_run(folder: Path) -> Answered:
    """The answers of a run folder, under every condition that was run. Raises RunFolderError if it is damaged."""
    run = RunFolder(folder)
    return join_run(folder, run.manifest(), run.questions(), run.answers())


def join_run(
    folder: Path,
    manifest: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    records: Mapping[str, AnswerRecord],
) -> Answered:
    """The same of what was read of a run folder: its manifest, the rows of questions.jsonl, its records by key."""
    try:
        if manifest["benchmark"] != "cvbench":
            raise RunFolderError(f"{folder}: a run of {manifest['benchmark']}; give it to its own command")
        (data,) = manifest["data"]
        answers: dict[str, dict[str, Answer]] = {condition: {} for condition in manifest["conditions"]}
        questions = []
        for row in rows:
            fields = {**row["question"], "options": tuple(row["question"]["options"])}
            questions.append(Question(**fields, where=f"{folder}/questions.jsonl"))
            for condition, key in row["keys"].items():
                if (record := records.get(key)) is not None:
                    answers[condition][questions[-1].idx] = Answer(record.text, record.logprobs)
        found = QuestionSet(data["data_version"], data["content_sha256"], tuple(questions))
        return Answered(found, answers, manifest["prompt"]["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{folder}: run.json or questions.jsonl is damaged or of another version ({error!r}); "
            "give the benchmark's command again to rewrite them, the answers are kept"
        ) from None


def load_answered(paths: Sequence[Path], questions: QuestionSet) -> Answered:
    """Answer files (or folders of them) joined with their questions.

    Raises:
        DataError: unreadable rows, rows that answer none of the questions, questions answered twice.
    """
    by_idx = {q.idx: q for q in questions.questions}
    found: dict[str, tuple[Answer, str]] = {}
    prompts = set()
    for path in answer_files(paths):
        for row in _file(path):
            question = by_idx.get(row.idx)
            if question is None:
                raise DataError(
                    f"{row.where}: idx {row.idx} is none of the {len(by_idx)} questions of {questions.data_version}; "
                    "give the questions that were asked with --questions"
                )
            prompt = NOT_STATED
            if row.prompt is not None:
                named = prompt_of_answers(row.prompt, question.prompt, len(question.options))
                if named is None:
                    raise DataError(
                        f"{row.where}: idx {row.idx} was asked {row.prompt[:80]!r}, the question is "
                        f"{question.prompt[:80]!r}; give the questions that were asked with --questions"
                    )
                prompt = named
            if row.idx in found:
                raise DataError(
                    f"{row.where}: idx {row.idx} is answered twice, first at {found[row.idx][1]}; give one answer file "
                    "per model"
                )
            prompts.add(prompt)
            found[row.idx] = Answer(row.text), row.where
    answers = {idx: answer for idx, (answer, _) in found.items()}
    return Answered(questions, {IMAGE: answers}, prompts.pop() if len(prompts) == 1 else MIXED)


def _file(path: Path) -> Iterator[_AnswerRow]:
    some = False
    for row, where in answer_rows(path):
        some = True
        yield _sample(row, where) if "doc_id" in row else _plain(row, where)
    if not some:
        raise DataError(f"answers {path}: the file is empty")


def _plain(row: Mapping[str, Any], where: str) -> _AnswerRow:
    idx, text = (next((k for k in keys if k in row), None) for keys in (ID_KEYS, TEXT_KEYS))
    if idx is None or text is None:
        lacking = f"one of {', '.join(ID_KEYS if idx is None else TEXT_KEYS)}"
        raise DataError(
            f"{where}: no field {lacking}; an answer is a JSON object with the question's idx and the answer's text"
        )
    if not isinstance(row[text], str):
        raise DataError(f"{where}: the answer is {type(row[text]).__name__}, not text")
    prompt = next((row[k] for k in PROMPT_KEYS if isinstance(row.get(k), str)), None)
    # pandas writes whole numbers as 3.0 where a row lacks one
    number = row[idx]
    name = str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)
    return _AnswerRow(name, row[text], prompt, where)


def _sample(row: Mapping[str, Any], where: str) -> _AnswerRow:
    """A row of lmms-eval's `--log_samples`: the first filtered response, and the idx of its document or metrics."""
    try:
        response = row["filtered_resps"]
        text = response if isinstance(response, str) else response[0]
        text = text[0] if isinstance(text, list) else text
        doc = row.get("doc")
        held = [doc.get("idx") if isinstance(doc, dict) else None]
        held += [value.get("id") for value in row.values() if isinstance(value, dict)]
        idx = next(str(int(value)) for value in held if value is not None)
        prompt = row.get("input", doc.get("prompt") if isinstance(doc, dict) else None)
    except (KeyError, IndexError, TypeError, ValueError, StopIteration) as error:
        raise DataError(
            f"{where}: not a CV-Bench sample of lmms-eval ({error!r}); expected doc_id, filtered_resps, and the "
            "question's idx in doc or cv_bench_acc"
        ) from None
    return _AnswerRow(idx, str(text), prompt if isinstance(prompt, str) else None, where)
