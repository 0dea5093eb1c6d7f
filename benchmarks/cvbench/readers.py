"""All ways to read an answered question: the rules of `readings`, which read its text, and those of `ranked`.

A judge's verdicts are one more `Reader` (`judged`): scoring knows no other kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agevlm.errors import DataError
from benchmarks.cvbench.prompts import KNOWN
from benchmarks.cvbench.questions import Question
from benchmarks.cvbench.ranked import RANKINGS, Ranking, read_ranking
from benchmarks.cvbench.readings import PROTOCOLS, Aggregate, Protocol
from benchmarks.cvbench.score import OFFICIAL, ROW_MEAN, TYPES
from benchmarks.cvbench.types import NO_ANSWER, Reading
from benchmarks.records import Answer

OWN = ("rules", "strict")
"""Protocols of this suite: nobody has published numbers with them."""
HEADLINES: dict[Aggregate, tuple[str, ...]] = {
    "official mean": (OFFICIAL,),
    "row mean": (ROW_MEAN,),
    "mean of sources in 2D, row mean in 3D": TYPES,
}
"""The numbers of `score` in which an evaluator's aggregate stands."""
MAIN = "rules"
"""The reading that leads unless another is named, and against which others are counted as different."""


@dataclass(frozen=True)
class Reader:
    """A way to read an answered question."""

    name: str
    headline: tuple[str, ...]
    """The numbers that its evaluator publishes; none where nothing is published."""
    prompt: str | None
    """Name of the prompt that its published numbers are made with; None where none are published."""
    read: Callable[[Question, Answer], Reading | None]
    """A pure function of the question and the answer's record; None where the record lacks what it reads."""


def _of_protocol(protocol: Protocol) -> Reader:
    def read(question: Question, answer: Answer) -> Reading:
        return NO_ANSWER if answer.text is None else protocol.rule(answer.text, question.options)

    if protocol.name in OWN:
        return Reader(protocol.name, (), None, read)
    prompt = next(p.name for p in KNOWN if p.template == protocol.prompt)
    return Reader(protocol.name, HEADLINES[protocol.aggregate], prompt, read)


def _of_ranking(ranking: Ranking) -> Reader:
    def read(question: Question, answer: Answer) -> Reading | None:
        return NO_ANSWER if answer.text is None else read_ranking(ranking, answer.logprobs, question.options)

    return Reader(ranking.name, (), None, read)


READERS: dict[str, Reader] = {
    reader.name: reader for reader in (*map(_of_protocol, PROTOCOLS.values()), *map(_of_ranking, RANKINGS.values()))
}
"""Every reader by name, in the order tables print them."""


def chosen_readers(names: tuple[str, ...]) -> tuple[Reader, ...]:
    """The readers of these names in their order, each once; all where none (or "all") is named. Raises DataError."""
    wanted = tuple(dict.fromkeys(name for name in names if name != "all"))
    if unknown := [name for name in wanted if name not in READERS]:
        raise DataError(f"there is no CV-Bench reading {', '.join(unknown)}; choose from {', '.join(READERS)}")
    return tuple(READERS[name] for name in wanted) or tuple(READERS.values())
