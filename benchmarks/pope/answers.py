"""Answers that already exist: LLaVA-style JSON lines, lmms-eval samples, and our own run folders.

Published question files restart their ids in every split, and answer files rarely say which split they are for, so an
answer file is matched to questions by its content: every id must be there and, where the file records its prompts,
every prompt must hold the question's text. A file that fits no questions, or several, is an error that says so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.errors import DataError, RunFolderError
from benchmarks.answer_files import answer_files, answer_rows
from benchmarks.pope.rows import IMAGE, Answer, Answered, QuestionKey
from benchmarks.pope.types import SPLITS, Question, QuestionSet
from benchmarks.prompts import SUFFIX, strip_suffix
from benchmarks.records import AnswerRecord
from benchmarks.run_folder import RunFolder

SPLIT_WORDS = {s: s for s in SPLITS} | {"pop": "popular", "adv": "adversarial"}
"""Words of file names that tell the split; the short ones are lmms-eval's task names."""
WHOLE = "all splits"


@dataclass(frozen=True)
class AnswerRow:
    """One line of a foreign answer file."""

    question_id: str
    text: str
    prompt: str | None
    """What the model was asked, as the file records it."""
    where: str


def load_answered(paths: Sequence[Path], sets: Sequence[QuestionSet]) -> list[Answered]:
    """Answer files (or folders of them) joined with their questions.

    Raises:
        DataError: unreadable rows, answers that fit no questions or several, questions answered twice.
    """
    found: dict[tuple[int, str], list[tuple[Question, AnswerRow]]] = {}
    for path in answer_files(paths):
        for hint, rows in _segments(path):
            for number, pairs in _match(path, hint, rows, sets).items():
                for question, row in pairs:
                    found.setdefault((number, question.split), []).append((question, row))
    answered = []
    for number, one in enumerate(sets):
        splits = {split: pairs for (n, split), pairs in found.items() if n == number}
        if not splits:
            continue
        answers: dict[QuestionKey, Answer] = {}
        origin: dict[QuestionKey, str] = {}
        for pairs in splits.values():
            for question, row in pairs:
                key = (question.split, question.question_id)
                if key in answers:
                    raise DataError(
                        f"{row.where}: question {question.question_id} of {question.split} is answered twice, "
                        f"first at {origin[key]}; give one answer file per model"
                    )
                answers[key] = Answer(row.text)
                origin[key] = row.where
        kept = tuple(q for q in one.questions if q.split in splits)
        questions = QuestionSet(one.name, one.data_version, one.content_sha256, kept)
        prompt = _prompt_name((q, r) for pairs in splits.values() for q, r in pairs)
        answered.append(Answered(questions, {IMAGE: answers}, prompt))
    return answered


def remarks(answered: Sequence[Answered], sets: Sequence[QuestionSet]) -> list[str]:
    """What a user should know of how answers and questions were joined."""
    found = []
    for one in answered:
        if one.prompt == "not stated":
            found.append(
                f"warning: {one.questions.data_version}: the answers record no prompts, so they were matched by "
                "question id alone, and POPE's ids restart in every split; make sure that they answer these questions"
            )
    covered = {(one.questions.data_version, q.split) for one in answered for q in one.questions.questions}
    left = [
        f"{s.data_version} {split}" for s in sets for split in s.split_counts if (s.data_version, split) not in covered
    ]
    if left:
        found.append(f"no answers for {', '.join(left)}: left out")
    return found


def load_run(folder: Path) -> list[Answered]:
    """The answers of a run folder, under every condition that was run. Raises RunFolderError if it is damaged."""
    run = RunFolder(folder)
    return join_run(folder, run.manifest(), run.questions(), run.answers())


def join_run(
    folder: Path,
    manifest: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    records: Mapping[str, AnswerRecord],
) -> list[Answered]:
    """The same of what was read of a run folder: its manifest, the rows of questions.jsonl, its records by key."""
    where = f"{folder}/questions.jsonl"
    answered = []
    try:
        questions: list[list[Question]] = [[] for _ in manifest["data"]]
        answers: list[dict[str, dict[QuestionKey, Answer]]] = [
            {c: {} for c in manifest["conditions"]} for _ in manifest["data"]
        ]
        # Row by row: the rows themselves take more memory than all that is made of them.
        for row in rows:
            fields: dict[str, Any] = {k: sys.intern(v) if isinstance(v, str) else v for k, v in row["question"].items()}
            question = Question(**fields, where=where)
            questions[row["set"]].append(question)
            for condition, key in row["keys"].items():
                if (record := records.get(key)) is not None:
                    answer = Answer(record.text, record.logprobs)
                    answers[row["set"]][condition][question.split, question.question_id] = answer
        for meta, mine, given in zip(manifest["data"], questions, answers, strict=True):
            one = QuestionSet(meta["name"], meta["data_version"], meta["content_sha256"], tuple(mine))
            answered.append(Answered(one, given, manifest["prompt"]["name"]))
    except (KeyError, IndexError, TypeError) as error:
        raise RunFolderError(
            f"{folder}: run.json or questions.jsonl is damaged or of another version ({error!r}); "
            "give the benchmark's command again to rewrite them, the answers are kept"
        ) from None
    return answered


def _segments(path: Path) -> Iterator[tuple[str | None, list[AnswerRow]]]:
    """The file's rows with the split its name tells, if any; lmms-eval samples are cut where the ids restart."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    hint = next((SPLIT_WORDS[w] for w in words if w in SPLIT_WORDS), None)
    plain: list[AnswerRow] = []
    samples: list[tuple[int, AnswerRow]] = []
    for row, where in answer_rows(path):
        if "doc_id" in row:
            samples.append(_sample(row, where))
        else:
            plain.append(_llava_row(row, where))
    if not plain and not samples:
        raise DataError(f"answers {path}: the file is empty")
    if plain:
        yield hint, plain
    # Several processes write their rows rank by rank; the document number restores the data set's order, in which
    # each split counts its questions from one again.
    ordered = [row for _, row in sorted(samples, key=lambda s: s[0])]
    start = 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or int(ordered[i].question_id) <= int(ordered[i - 1].question_id):
            yield hint, ordered[start:i]
            start = i


def _llava_row(row: Mapping[str, Any], where: str) -> AnswerRow:
    missing = [k for k in ("question_id", "text") if k not in row]
    if missing:
        raise DataError(
            f"{where}: no field {missing[0]!r}; known are LLaVA answers (question_id, text) and lmms-eval samples"
        )
    if not isinstance(row["text"], str):
        raise DataError(f"{where}: the answer is {type(row['text']).__name__}, not text")
    prompt = row.get("prompt")
    return AnswerRow(str(row["question_id"]), row["text"], prompt if isinstance(prompt, str) else None, where)


def _sample(row: Mapping[str, Any], where: str) -> tuple[int, AnswerRow]:
    """A row of lmms-eval's `--log_samples`: the first filtered response, and the id its POPE metrics carry."""
    try:
        response = row["filtered_resps"]
        text = response if isinstance(response, str) else response[0]
        text = text[0] if isinstance(text, list) else text
        identity = str(int(row["pope_accuracy"]["question_id"]))
        prompt = row.get("input")
        return int(row["doc_id"]), AnswerRow(identity, str(text), prompt if isinstance(prompt, str) else None, where)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: not a POPE sample of lmms-eval ({error!r}); expected doc_id, filtered_resps, pope_accuracy"
        ) from None


def _match(
    path: Path, hint: str | None, rows: Sequence[AnswerRow], sets: Sequence[QuestionSet]
) -> dict[int, list[tuple[Question, AnswerRow]]]:
    """Set number -> pairs of question and answer, for the one set and split (or whole set) that fits all rows."""
    fits: list[tuple[int, str, list[tuple[Question, AnswerRow]]]] = []
    best = (-1, f"none: its name says {hint}, and no such split is given")
    for number, one in enumerate(sets):
        for name, questions in _candidates(one):
            if hint is not None and name in SPLITS and name != hint:
                continue
            pairs, problem = _join(rows, questions)
            if problem is None:
                fits.append((number, f"{one.data_version} {name}", pairs))
            elif len(pairs) > best[0]:
                best = (len(pairs), f"against {one.data_version} {name}: {problem}")
    if not fits:
        raise DataError(f"answers {path}: fit none of the given questions. The closest try: {best[1]}")
    # Some of a release's answers may all be of one split: then that is what they answer.
    by_split = [fit for fit in fits if not fit[1].endswith(WHOLE)]
    fits = by_split or fits
    if len(fits) > 1:
        names = "; ".join(name for _, name, _ in fits)
        raise DataError(
            f"answers {path}: fit more than one set of questions ({names}); give the one question file they answer "
            "with --questions"
        )
    number, _, pairs = fits[0]
    return {number: pairs}


def _candidates(one: QuestionSet) -> Iterator[tuple[str, list[Question]]]:
    """Each split of a set; and the whole set if its ids do not restart."""
    by_split: dict[str, list[Question]] = {}
    for question in one.questions:
        by_split.setdefault(question.split, []).append(question)
    yield from by_split.items()
    if len(by_split) > 1 and len({q.question_id for q in one.questions}) == len(one.questions):
        yield WHOLE, list(one.questions)


def _join(
    rows: Sequence[AnswerRow], questions: Sequence[Question]
) -> tuple[list[tuple[Question, AnswerRow]], str | None]:
    """Pairs by id, up to the first row that does not fit, and what is wrong with it."""
    by_id = {q.question_id: q for q in questions}
    pairs: list[tuple[Question, AnswerRow]] = []
    for row in rows:
        question = by_id.get(row.question_id)
        if question is None:
            return pairs, f"{row.where}: question {row.question_id} is not among them"
        if row.prompt is not None and _squeeze(question.text) not in _squeeze(row.prompt):
            asked = strip_suffix(row.prompt)
            return pairs, f"{row.where}: question {row.question_id} asks {asked!r}, the question file {question.text!r}"
        pairs.append((question, row))
    return pairs, None


def _squeeze(text: str) -> str:
    """White space and the misspelling of POPE's first release do not tell questions apart; later copies keep some."""
    return " ".join(text.split()).replace("imange", "image")


def _prompt_name(pairs: Iterable[tuple[Question, AnswerRow]]) -> str:
    """The prompt template that the recorded prompts follow."""
    names = set()
    for question, row in pairs:
        if row.prompt is None:
            names.add("not stated")
        elif _squeeze(row.prompt) == _squeeze(question.text):
            names.add("official")
        elif _squeeze(row.prompt).endswith(_squeeze(question.text + SUFFIX)):
            names.add("default")
        else:
            names.add("other")
    return names.pop() if len(names) == 1 else "mixed"
