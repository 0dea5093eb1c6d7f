"""Answers to wanted requests: from the record store where they are, from the model where they are not.

Every image group is on disk before the next begins, so that a killed lmms-eval run loses at most the group in flight;
lmms-eval itself would lose everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agevlm.errors import AgeVlmError, NotSupported, RunFolderError
from agevlm.vlm.contract import Vlm
from benchmarks.append_only import InUse
from benchmarks.lmms.wanted import Images, Wanted
from benchmarks.plan import Planner, remaining
from benchmarks.records import AnswerRecord, AnswerWriter
from benchmarks.run import run_groups
from benchmarks.run_folder import RunFolder

WRITERS = 64
"""Most processes that may write one folder of records at a time."""


class AnswersMissing(AgeVlmError):
    """Some requests got no answer; all others are recorded."""

    exit_code = 3


@dataclass(frozen=True)
class Records:
    """A folder of answer records that any number of runs share; the answers' keys keep models and settings apart."""

    path: Path
    rank: int = 0

    @contextlib.contextmanager
    def writer(self) -> Iterator[AnswerWriter]:
        """An answers file of the folder that no other process is writing."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"records {self.path}: cannot be written: {error.strerror}; give another") from None
        problem: InUse | None = None
        for number in range(self.rank, self.rank + WRITERS):
            try:
                writer = AnswerWriter(self.path / f"answers-{number:05d}.jsonl")
            except InUse as error:
                problem = error
                continue
            try:
                yield writer
            finally:
                writer.close()
            return
        raise problem or RunFolderError(f"records {self.path}: no file left to write")

    def known(self) -> dict[str, AnswerRecord]:
        """All answers that are there."""
        return RunFolder(self.path).answers()


def generate(
    wanted: Sequence[Wanted],
    images: Images,
    model: Callable[[], Vlm],
    fingerprint: str,
    records: Records,
    advance: Callable[[int], None],
) -> list[AnswerRecord]:
    """The record of each request for text, in order.

    Args:
        wanted: the requests.
        images: their images.
        model: loads the model; called only if something is left to ask.
        fingerprint: the model's digest.
        records: the store.
        advance: called with the number of requests (distinct ones) that are done.

    Raises:
        RunStopped: the model fails on everything; what is answered is kept.
    """
    planner = Planner({"greedy": True}, fingerprint)
    keys = [planner.add(one.shown, one.prompt, max_new_tokens=one.decoding.max_new_tokens) for one in wanted]
    return _answered(planner, keys, images, model, records, advance)


def rank(
    wanted: Sequence[Wanted],
    images: Images,
    model: Callable[[], Vlm],
    fingerprint: str,
    records: Records,
    advance: Callable[[int], None],
) -> list[AnswerRecord]:
    """The record of each request for a log-likelihood, in order: `logprobs` by option, and the greedy answer as text.

    All options that are wanted of a prompt about an image are one ask. The arguments are those of `generate`; so is
    what is raised.

    Raises:
        NotSupported: the model gives no log-probabilities of options, and some are left to ask.
    """

    def ranking() -> Vlm:
        vlm = model()
        if "rank" not in vlm.capabilities:
            raise NotSupported("this model gives no log-probabilities of whole options; tasks by likelihood need them")
        return vlm

    options: dict[tuple[str | None, str], set[str]] = {}
    for one in wanted:
        options.setdefault(_asked(one), set()).add(one.option or "")
    # Keys of records that are there say "rank" here.
    planner = Planner({"greedy": True}, fingerprint, options_name="rank")
    keys: dict[tuple[str | None, str], str] = {}
    for one in wanted:
        if _asked(one) not in keys:
            texts = sorted(options[_asked(one)])
            # Enough to see whether an option is what the model says by itself: no token is less than a character.
            tokens = min(64, max(map(len, texts)) + 1)
            keys[_asked(one)] = planner.add(one.shown, one.prompt, texts, tokens)
    return _answered(planner, [keys[_asked(one)] for one in wanted], images, ranking, records, advance)


def _asked(one: Wanted) -> tuple[str | None, str]:
    """What a request is about: an image by its content, and a prompt."""
    return None if one.shown is None else one.shown.identity, one.prompt


def _answered(
    planner: Planner,
    keys: Sequence[str],
    images: Images,
    model: Callable[[], Vlm],
    records: Records,
    advance: Callable[[int], None],
) -> list[AnswerRecord]:
    """The records of these keys, once all that is planned has been asked."""
    groups = planner.groups(0)
    left = remaining(groups, records.known())
    advance(sum(len(g.asks) for g in groups) - sum(len(g.asks) for g in left))
    if left:
        with records.writer() as writer:
            run_groups(model(), left, images.load, writer, lambda group, _: advance(len(group.asks)))
    found = records.known()
    return [found[key] for key in keys]


def missing(wanted: Sequence[Wanted], records: Sequence[AnswerRecord]) -> tuple[int, str]:
    """How many requests have no answer, and the first one's place and reason."""
    failed = [
        (one.where, record.error) for one, record in zip(wanted, records, strict=True) if record.error is not None
    ]
    return len(failed), f"{failed[0][0]}: {failed[0][1]}" if failed else ""
