"""Answers to wanted requests: from the record store where they are, from the model where they are not.

Every image group is on disk before the next begins, so that a killed lmms-eval run loses at most the group in flight;
lmms-eval itself would lose everything.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agevlm.errors import AgeVlmError, NotSupported, RunFolderError
from agevlm.vlm.contract import Ask, Vlm
from benchmarks.append_only import InUse
from benchmarks.lmms.wanted import Images, Wanted
from benchmarks.plan import BLIND_GROUP, Planner, Shown, remaining
from benchmarks.ranking import NOT_NUMBERS
from benchmarks.records import AnswerRecord, AnswerWriter, answer_key
from benchmarks.run import GIVE_UP, PREFETCH, RunStopped, prefetch, run_groups
from benchmarks.run_folder import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

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
    # The token budget is part of an answer's identity; most runs have one.
    planners: dict[int, Planner] = {}
    keys = []
    for one in wanted:
        tokens = one.decoding.max_new_tokens
        planner = planners.setdefault(tokens, Planner({"greedy": True, "max_new_tokens": tokens}, fingerprint))
        keys.append(planner.add(one.shown, one.prompt))
    for tokens, planner in planners.items():
        groups = planner.groups(0)
        left = remaining(groups, records.known())
        advance(sum(len(g.asks) for g in groups) - sum(len(g.asks) for g in left))
        if left:
            with records.writer() as writer:
                run_groups(
                    model(),
                    left,
                    images.load,
                    writer,
                    max_new_tokens=tokens,
                    advance=lambda group, _: advance(len(group.asks)),
                )
    found = records.known()
    return [found[key] for key in keys]


@dataclass(frozen=True)
class _Ranked:
    """A prompt about an image with all continuations that are wanted of it."""

    key: str
    shown: Shown | None
    prompt: str
    options: tuple[str, ...]
    failed_before: bool = False

    @property
    def tokens(self) -> int:
        """Enough to see whether an option is what the model says by itself: no token is less than a character."""
        return min(64, max(map(len, self.options)) + 1)


def rank(
    wanted: Sequence[Wanted],
    images: Images,
    model: Callable[[], Vlm],
    fingerprint: str,
    records: Records,
    advance: Callable[[int], None],
) -> list[AnswerRecord]:
    """The record of each request for a log-likelihood, in order: `logprobs` by option, and the greedy answer as text.

    The arguments are those of `generate`; so is what is raised.
    """
    options: dict[tuple[str | None, str], dict[str, None]] = {}
    shown: dict[str | None, Shown | None] = {}
    for one in wanted:
        content = None if one.shown is None else one.shown.identity
        shown.setdefault(content, one.shown)
        options.setdefault((content, one.prompt), {})[one.option or ""] = None
    ranked = {}
    for (content, prompt), texts in options.items():
        row = _Ranked("", shown[content], prompt, tuple(sorted(texts)))
        decoding = {"rank": list(row.options), "greedy": True, "max_new_tokens": row.tokens}
        ranked[content, prompt] = replace(row, key=answer_key(content, prompt, decoding, fingerprint))
    known = records.known()
    by_image: dict[str | None, list[_Ranked]] = {}
    for (content, _), row in ranked.items():
        if row.key not in known or known[row.key].error is not None:
            by_image.setdefault(content, []).append(replace(row, failed_before=row.key in known))
    advance(len(ranked) - sum(map(len, by_image.values())))
    blind = by_image.pop(None, [])
    groups = [*by_image.values(), *(blind[n : n + BLIND_GROUP] for n in range(0, len(blind), BLIND_GROUP))]
    if groups:
        with records.writer() as writer:
            _rank_groups(model(), groups, images, writer, advance)
    found = records.known()
    contents = [None if one.shown is None else one.shown.identity for one in wanted]
    return [found[ranked[content, one.prompt].key] for content, one in zip(contents, wanted, strict=True)]


def _rank_groups(
    vlm: Vlm, groups: Sequence[list[_Ranked]], images: Images, writer: AnswerWriter, advance: Callable[[int], None]
) -> None:
    """Rank image by image, as `run_groups` answers: errors are records, the same one again and again ends the run."""
    if "rank" not in vlm.capabilities:
        raise NotSupported("this model gives no log-probabilities of whole options; tasks by likelihood need them")
    failures: list[str] = []

    def pixels(group: list[_Ranked]) -> Image | None:
        return None if group[0].shown is None else images.load(group[0].shown)

    with contextlib.closing(prefetch(groups, pixels, PREFETCH)) as stream:
        for group, image in stream:
            # What failed together is tried one by one the next time.
            alone = any(row.failed_before for row in group)
            done: list[AnswerRecord] = []
            failure = ""
            for rows in [[row] for row in group] if alone else [group]:
                try:
                    done += _rank_rows(vlm, rows, image)
                except Exception as error:
                    failure = f"{type(error).__name__}: {error}".splitlines()[0]
                    done += [_ranked_record(row, error=failure) for row in rows]
            writer.commit(done)
            advance(len(group))
            if not alone and not isinstance(image, Exception):
                failures = [f for f in [*failures, failure] if f == failure != ""]
            if len(failures) >= GIVE_UP:
                raise RunStopped(f"the model failed on {GIVE_UP} images in a row: {failure}. Stopped; answers are kept")


def _rank_rows(vlm: Vlm, rows: Sequence[_Ranked], image: Image | Exception | None) -> list[AnswerRecord]:
    if isinstance(image, Exception):
        raise image
    encoded = vlm.encode([] if image is None else [image])
    asks = [Ask(row.prompt, None if image is None else 0, row.tokens) for row in rows]
    scores = vlm.rank(encoded, asks, [row.options for row in rows])
    replies = vlm.answer(encoded, asks)
    return [
        _ranked_record(row, error=NOT_NUMBERS)
        if any(map(math.isnan, values))
        else _ranked_record(row, reply.text, dict(zip(row.options, values, strict=True)), reply.error)
        for row, values, reply in zip(rows, scores, replies, strict=True)
    ]


def _ranked_record(
    row: _Ranked, text: str | None = None, logprobs: dict[str, float] | None = None, error: str | None = None
) -> AnswerRecord:
    return AnswerRecord(
        key=row.key,
        image=None if row.shown is None else row.shown.name,
        shown=None if row.shown is None else row.shown.identity,
        prompt=row.prompt,
        text=text,
        stop="error" if error is not None else "length",
        logprobs=logprobs or {},
        error=error,
    )


def missing(wanted: Sequence[Wanted], records: Sequence[AnswerRecord]) -> tuple[int, str]:
    """How many requests have no answer, and the first one's place and reason."""
    failed = [
        (one.where, record.error) for one, record in zip(wanted, records, strict=True) if record.error is not None
    ]
    return len(failed), f"{failed[0][0]}: {failed[0][1]}" if failed else ""
