"""The questions of a POPE or CV-Bench run with what the model said and what that was read as.

From the run folder alone: no image, no model and no data set is needed. Reading an answer is what scoring does, so that
what is shown as wrong is what the scores count as wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agevlm.errors import DataError, NotSupported
from benchmarks.plan import lot
from benchmarks.records import Answer, AnswerRecord
from benchmarks.run_folder import RunFolder
from reports.runs.files import answers_of, json_lines, manifest_of, printable
from reports.runs.questions import questions_of

if TYPE_CHECKING:
    from benchmarks.cvbench.questions import Question as CvQuestion
    from benchmarks.pope.protocols import Effect
    from benchmarks.pope.types import Question as PopeQuestion

Verdict = Literal["right", "wrong", "not counted", "error", "missing"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "not counted", "error", "missing")


@dataclass(frozen=True)
class Read:
    """What a protocol or reading makes of an answer."""

    label: str
    rule: str
    verdict: Verdict
    """not counted: the protocol drops it, or the record holds nothing that the reading reads."""
    unparsed: bool
    option: int | None = None
    """Of CV-Bench: the place of the option that the answer was read as."""


@dataclass(frozen=True)
class Shown:
    """A question, its answer, and the reading of that."""

    number: str
    """The question's id within its split."""
    split: str
    category: str
    """The object of POPE; the task of CV-Bench."""
    image: str
    text: str
    official: str
    answer: str | None
    """None where there is none: `error` has the reason if the model failed."""
    error: str | None
    read: Read
    logprobs: Mapping[str, float]
    shown: str | None
    """Content identity of the image as the model saw it: the SHA-256 of its file; None where there is no record."""
    right: str
    """The right answer as readings label it: yes or no, or an option's letter."""
    options: Mapping[str, float]
    """Log-probability of each answer by its label, in nats; empty unless all have one."""
    question: PopeQuestion | CvQuestion
    """As the benchmark keeps it."""
    part: int = 0
    """Which of the run's data sets it is of, in the manifest's order."""
    effect: Effect | None = None
    """Of POPE: what the answer adds to the counts; None where there is no answer."""

    @property
    def likeliest(self) -> list[tuple[str, float]]:
        """What has a log-probability, the likeliest first."""
        numbers = [(str(k), float(v)) for k, v in self.logprobs.items() if isinstance(v, (int, float))]
        return sorted(numbers, key=lambda one: -one[1])


@dataclass(frozen=True)
class Opened:
    """A run's questions in their order, read in one way."""

    title: str
    questions: Sequence[Shown]
    remarks: Sequence[str]
    """Lines that are damaged, by file and number."""
    manifest: Mapping[str, Any]
    reading: str
    """The protocol's or reading's name."""
    condition: str

    def count(self) -> Counter[str]:
        """Questions of each verdict, and `unparsed`."""
        return Counter(q.read.verdict for q in self.questions) + Counter(
            {"unparsed": sum(q.read.unparsed for q in self.questions)}
        )


@dataclass(frozen=True)
class Choice:
    """Which questions to print."""

    wrong: bool = False
    right: bool = False
    unparsed: bool = False
    split: str | None = None
    category: str | None = None
    search: str | None = None
    limit: int = 20
    seed: int | None = None

    def of(self, questions: Sequence[Shown]) -> list[Shown]:
        """All questions that fit, in their order, whatever the limit.

        Raises:
            DataError: no question is of that split or category.
        """
        found = _named(questions, "split", self.split)
        found = _named(found, "category", self.category)
        if self.wrong or self.right or self.unparsed:
            found = [q for q in found if self._verdict(q.read)]
        if self.search is not None:
            text = self.search.casefold()
            found = [q for q in found if text in q.text.casefold() or text in (q.answer or "").casefold()]
        return found

    def _verdict(self, read: Read) -> bool:
        return (
            (self.wrong and read.verdict == "wrong")
            or (self.right and read.verdict == "right")
            or (self.unparsed and read.unparsed)
        )

    def limited(self, found: Sequence[Shown]) -> list[Shown]:
        """The first ones, or by a seed a sample of them; in their order. A larger limit holds the same and more."""
        if self.seed is None or len(found) <= self.limit:
            return list(found[: self.limit])
        seed = self.seed
        drawn = sorted(range(len(found)), key=lambda i: lot(seed, found[i].split, found[i].number, found[i].text))
        return [found[i] for i in sorted(drawn[: self.limit])]


def _named(questions: Sequence[Shown], what: str, name: str | None) -> list[Shown]:
    if name is None:
        return list(questions)
    found = [q for q in questions if getattr(q, what).casefold() == name.casefold()]
    if not found:
        known = sorted({getattr(q, what) for q in questions})
        more = f" and {len(known) - 30} more" if len(known) > 30 else ""
        raise DataError(f"--{what} {name}: no such questions; there are {printable(', '.join(known[:30]))}{more}")
    return found


def open_run(folder: Path, protocol: str | None, reading: str | None, condition: str) -> Opened:
    """The questions of a run.

    Args:
        folder: the run folder.
        protocol: of POPE; None for the first one that the run was scored by.
        reading: of CV-Bench; likewise.
        condition: "image" or one of the controls that were run.

    Raises:
        RunFolderError: no run folder, its manifest is damaged, or a newer version wrote it.
        NotSupported: the run is of another kind.
        DataError: an unknown protocol, reading or condition, or one that is not of this benchmark.
    """
    manifest = manifest_of(folder)
    benchmark = str(manifest.get("benchmark"))
    if benchmark not in KINDS:
        raise NotSupported(
            f"{folder}: a run of {printable(benchmark)}; show prints the questions of pope and cvbench runs. "
            "`agevlm-eval runs` has the headline of others, and the run's own command prints its tables again"
        )
    other, name = ("reading", reading) if benchmark == "pope" else ("protocol", protocol)
    if name is not None:
        own = "--protocol" if benchmark == "pope" else "--reading"
        raise DataError(f"--{other} {name}: {folder} is a run of {benchmark}, whose answers are read under {own}")
    conditions = [str(c) for c in manifest.get("conditions", ())]
    if condition not in conditions:
        raise DataError(f"--condition {condition}: {folder} has {printable(', '.join(conditions))}")
    remarks: list[str] = []
    answers = answers_of(folder, remarks)
    how, read = KINDS[benchmark](folder, protocol if benchmark == "pope" else reading, condition, remarks)
    shown = []
    path = folder / "questions.jsonl"
    if not path.exists():
        remarks.append(f"{path}: not there; give the benchmark's command again to write it")
    else:
        for line, row in questions_of(folder, manifest, remarks):
            # A question that was not asked under this condition has no key.
            shown.append(read(row, answers.get(row["keys"].get(condition)), f"{path}:{line}"))
    model = manifest.get("model", {}).get("ckpt", "?")
    data = ", ".join(str(one.get("data_version")) for one in manifest.get("data", ()))
    prompt = manifest.get("prompt", {}).get("name", "not stated")
    title = f"{benchmark} · {model} · data {data} · prompt {prompt} · {condition} · {how}"
    return Opened(title, shown, remarks, manifest, how.partition(" ")[2], condition)


Reads = Callable[[Mapping[str, Any], AnswerRecord | None, str], Shown]


def _pope(folder: Path, name: str | None, _condition: str, _remarks: list[str]) -> tuple[str, Reads]:
    from benchmarks.judge.cases import JUDGED
    from benchmarks.pope.protocols import protocol
    from benchmarks.pope.types import Question

    if name in JUDGED.values():
        raise DataError(
            f"--protocol {name}: a judge's verdicts on POPE's answers are not kept question by question; `agevlm-eval "
            f"score pope --answers {folder} --judge ...` scores by them, judge.jsonl has every call"
        )
    chosen = protocol(name or next(iter(RunFolder(folder).last_scored("protocols")), "default"))

    def read(row: Mapping[str, Any], record: AnswerRecord | None, where: str) -> Shown:
        question = Question(**row["question"], where=where)
        text = None if record is None else record.text
        reading = chosen.read(text, question.label)
        effect = chosen.count(reading.label, question.label)
        counted: Verdict = "not counted" if not effect.n else "right" if effect.correct else "wrong"
        lacking = _missing(record)
        found = lacking or Read(reading.label, reading.rule, counted, bool(effect.unparsed))
        return Shown(
            question.question_id,
            question.split,
            question.object_name,
            question.image,
            question.text,
            "yes" if question.label else "no",
            text,
            None if record is None else record.error,
            found,
            **_recorded(record, {"yes": "yes", "no": "no"}),
            right="yes" if question.label else "no",
            question=question,
            part=int(row["set"]),
            effect=None if lacking else effect,
        )

    return f"protocol {chosen.name}", read


def _cvbench(folder: Path, name: str | None, condition: str, remarks: list[str]) -> tuple[str, Reads]:
    from benchmarks.cvbench.questions import Question
    from benchmarks.cvbench.ranked import option_forms
    from benchmarks.cvbench.readers import MAIN, chosen_readers
    from benchmarks.cvbench.types import LETTERS
    from benchmarks.judge.cases import JUDGED

    name = name or next(iter(RunFolder(folder).last_scored("readings")), MAIN)
    judged = _judged(folder, name, condition, remarks) if name in JUDGED.values() else None
    if judged is None:
        (reader,) = chosen_readers((name,))

    def option(question: Question, place: int) -> str:
        return f"({LETTERS[place]}) {question.options[place]}"

    def read_by(question: Question, record: AnswerRecord) -> Read:
        if judged is not None:
            return judged.get(question.idx) or Read("–", "not judged", "not counted", False)
        reading = reader.read(question, Answer(record.text, record.logprobs))
        if reading is None:
            return Read("–", "no log-probabilities of all options", "not counted", False)
        return _option_read(reading.option, reading.rule, question.gold, reading.decided)

    def read(row: Mapping[str, Any], record: AnswerRecord | None, where: str) -> Shown:
        question = Question(**{**row["question"], "options": tuple(row["question"]["options"])}, where=where)
        found = _missing(record)
        if found is None:
            assert record is not None
            found = read_by(question, record)
        return Shown(
            question.idx,
            question.type,
            question.task,
            question.image,
            question.prompt,
            option(question, question.gold),
            None if record is None else record.text,
            None if record is None else record.error,
            found,
            **_recorded(record, *(option_forms(question.options))),
            right=LETTERS[question.gold],
            question=question,
        )

    return f"reading {name}", read


def _recorded(record: AnswerRecord | None, *forms: Mapping[str, str]) -> dict[str, Any]:
    """What a `Shown` has of its record; log-probabilities by label in the first of the `forms` (label -> its text) in
    which all have one."""
    if record is None:
        return {"logprobs": {}, "shown": None, "options": {}}
    held = record.logprobs
    found = next((f for f in forms if all(isinstance(held.get(text), (int, float)) for text in f.values())), {})
    options = {label: float(held[text]) for label, text in found.items()}
    return {"logprobs": held, "shown": record.shown, "options": options}


def _option_read(place: int | None, rule: str, gold: int, decided: bool) -> Read:
    from benchmarks.cvbench.types import LETTERS

    if not decided:
        return Read("undecided", rule, "not counted", False)
    label = "none" if place is None else LETTERS[place]
    return Read(label, rule, "right" if place == gold else "wrong", place is None, place)


def _judged(folder: Path, name: str, condition: str, remarks: list[str]) -> dict[str, Read]:
    """What the judge made of each answer, by idx, as the run's readings.jsonl has it."""
    from benchmarks.judge.cases import BY_JUDGE, NAMED_NONE

    path = folder / "readings.jsonl"
    if not path.exists():
        raise DataError(f"--reading {name}: {folder} has no readings.jsonl; score it with --judge first")
    found = {}
    for number, row in json_lines(path, remarks):
        try:
            if row["condition"] == condition and name in row["readings"]:
                place, rule = row["readings"][name]["option"], str(row["readings"][name]["rule"])
                # A judge that came to no verdict says so in the rule.
                decided = place is not None or rule == NAMED_NONE or not rule.startswith(f"{BY_JUDGE}-")
                found[row["idx"]] = _option_read(place, rule, row["gold"], decided)
        except (KeyError, TypeError, IndexError) as error:
            remarks.append(f"{path}:{number}: not a row of readings ({error!r}); left out")
    if not found:
        raise DataError(f"--reading {name}: {path} has none of it under {condition}; score the run with --judge")
    return found


def _missing(record: AnswerRecord | None) -> Read | None:
    """The reading where there is no answer; None if there is one."""
    if record is None:
        return Read("–", "not answered", "missing", False)
    return None if record.error is None else Read("–", "the model failed", "error", False)


KINDS: dict[str, Callable[[Path, str | None, str, list[str]], tuple[str, Reads]]] = {"pope": _pope, "cvbench": _cvbench}
