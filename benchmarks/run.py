"""The run loop: group by group through a model, every answer or error on disk before the next group begins.

Models that bear it (`Vlm.parallel_groups`) have several groups under way; each is on disk as soon as it is done.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from agevlm.errors import AgeVlmError, EndpointError
from agevlm.vlm.contract import Ask, EncodedImages, Prepared, Reply, Vlm
from benchmarks.plan import Group, PlannedAsk, Shown
from benchmarks.ranking import with_ranks
from benchmarks.records import AnswerRecord, AnswerWriter

if TYPE_CHECKING:
    from PIL.Image import Image

    Loaded = Image | Prepared | Exception | None

T = TypeVar("T")
R = TypeVar("R")

GIVE_UP = 3
"""So many groups in a row (as they are asked) in which the model itself fails with the same error end the run: it is no
accident then.
Groups that failed in an earlier launch do not count, or a few hopeless images would keep a run from ever ending."""
PREFETCH = 4
"""Images decoded and prepared ahead of the model."""


class RunStopped(AgeVlmError):
    """The run cannot go on; what is answered is kept."""

    exit_code = 4


@dataclass
class Tally:
    """What a run loop did."""

    groups: int = 0
    answers: int = 0
    errors: int = 0
    seconds: float = 0.0
    examples: list[str] = field(default_factory=list)
    """The first few errors, with the image they belong to."""

    def note(self, record: AnswerRecord) -> None:
        """Count one record."""
        if record.error is None:
            self.answers += 1
            return
        self.errors += 1
        if len(self.examples) < 3 and record.error not in " ".join(self.examples):
            named = record.image is None or record.image in record.error
            self.examples.append(record.error if named else f"{record.image}: {record.error}")

    @staticmethod
    def total(parts: Sequence[Tally]) -> Tally:
        """What processes that ran side by side did together: work adds up, time does not."""
        return Tally(
            groups=sum(t.groups for t in parts),
            answers=sum(t.answers for t in parts),
            errors=sum(t.errors for t in parts),
            seconds=max((t.seconds for t in parts), default=0.0),
            examples=[e for t in parts for e in t.examples][:3],
        )


@dataclass(frozen=True)
class Failure:
    """Why a model failed on a group; not the exception, which would keep what the model held at that moment."""

    line: str
    kind: str
    """The same for failures whose lines differ in a request's number alone."""

    @staticmethod
    def of(error: Exception) -> Failure:
        line = _one_line(error)
        return Failure(line, error.kind if isinstance(error, EndpointError) else line)


class _Streak:
    """Failures of one kind on groups that follow each other in the order of asking, in whatever order they come.

    Refusals come faster than answers: in the order of coming, a few bad images far apart would be neighbours.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        counting = (group for group in groups if not group.failed_before)
        self._place = {id(group): place for place, group in enumerate(counting)}
        self._kinds: dict[int, str] = {}

    def grown(self, group: Group, failure: Failure) -> int:
        """Note a failure; the number of groups in the streak that it belongs to, 0 if the group does not count."""
        place = self._place.get(id(group))
        if place is None:
            return 0
        self._kinds[place] = failure.kind
        first = last = place
        while self._kinds.get(first - 1) == failure.kind:
            first -= 1
        while self._kinds.get(last + 1) == failure.kind:
            last += 1
        return last - first + 1


def run_groups(
    vlm: Vlm,
    groups: Sequence[Group],
    load: Callable[[Shown], Image],
    writer: AnswerWriter,
    advance: Callable[[Group, Tally], None] = lambda *_: None,
) -> Tally:
    """Ask everything in the groups.

    An image that cannot be opened, and a model that fails on a group, become error records of that group's asks,
    which a later run asks again (each ask by itself if they fail together once more); the rest goes on.

    A model that says so (`parallel_groups`) has several groups under way at a time, each in a thread of its own. They
    are committed as they come, always by the calling thread; a run that stops still waits for those under way.

    Args:
        vlm: the model.
        groups: what to ask, in order.
        load: the pixels of an image as shown; raises DataError if the file is bad.
        writer: takes each group's records as one commit.
        advance: called after each committed group.

    Raises:
        RunStopped: the model failed with the same error on GIVE_UP groups in a row.
        RunFolderError: records cannot be written.
    """
    tally = Tally()
    started = time.perf_counter()
    streak = _Streak(groups)

    def pixels(group: Group) -> Image | Prepared | None:
        return None if group.shown is None else vlm.prepare(load(group.shown))

    stop = ""
    with (
        contextlib.closing(prefetch(groups, pixels, PREFETCH)) as stream,
        contextlib.closing(_answers(vlm, stream, lambda: bool(stop))) as answers,
    ):
        for group, replies, failure in answers:
            records = [_record(group, ask, reply) for ask, reply in zip(group.asks, replies, strict=True)]
            writer.commit(records)
            for record in records:
                tally.note(record)
            tally.groups += 1
            tally.seconds = time.perf_counter() - started
            advance(group, tally)
            if failure is not None and streak.grown(group, failure) >= GIVE_UP and not stop:
                stop = f"the model failed on {GIVE_UP} images in a row: {failure.line}"
    if stop:
        raise RunStopped(
            f"{stop}. Stopped; {tally.answers} new answers are kept, and the same command goes on from there"
        )
    return tally


def _answers(
    vlm: Vlm,
    stream: Iterator[tuple[Group, Loaded]],
    stopped: Callable[[], bool],
) -> Generator[tuple[Group, list[Reply], Failure | None]]:
    """Groups with the replies to their asks and, if the model itself failed, why; none is begun once `stopped`."""
    if vlm.parallel_groups > 1:
        yield from _side_by_side(vlm, stream, stopped)
        return
    for group, image in stream:
        yield group, *_answer(vlm, group, image)
        if stopped():
            return


def _side_by_side(
    vlm: Vlm,
    stream: Iterator[tuple[Group, Loaded]],
    stopped: Callable[[], bool],
) -> Generator[tuple[Group, list[Reply], Failure | None]]:
    """The same with many groups under way, each as soon as it is done."""
    flying: dict[Future[tuple[list[Reply], Failure | None]], Group] = {}
    pool = ThreadPoolExecutor(vlm.parallel_groups, thread_name_prefix="group")
    more = True
    try:
        while more or flying:
            more = more and not stopped()
            room = more and len(flying) < vlm.parallel_groups
            if room and (following := next(stream, None)) is not None:
                group, image = following
                flying[pool.submit(_answer, vlm, group, image)] = group
            else:
                more = more and not room
            # While there is room for more groups, those that are done are taken without waiting.
            done, _ = wait(flying, timeout=0 if room and more else None, return_when=FIRST_COMPLETED)
            for future in done:
                yield flying.pop(future), *future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(vlm: Vlm, group: Group, image: Loaded) -> tuple[list[Reply], Failure | None]:
    """Replies to a group's asks and, if the model itself failed, why."""
    if isinstance(image, Exception):
        return [Reply.failed(_one_line(image))] * len(group.asks), None
    asks = [Ask(a.prompt, None if image is None else 0, a.max_new_tokens) for a in group.asks]
    try:
        encoded = vlm.encode([] if image is None else [image])
    except Exception as error:
        failed = Failure.of(error)
        return [Reply.failed(failed.line)] * len(asks), failed
    options = [a.options for a in group.asks]
    replies, failure = _replies(vlm, encoded, asks, options)
    if failure is not None and group.failed_before and len(asks) > 1:
        # The second time: one prompt may be what the model cannot take, and must not cost the others their answers.
        replies = [_replies(vlm, encoded, [a], [o])[0][0] for a, o in zip(asks, options, strict=True)]
    return replies, failure


def _replies(
    vlm: Vlm, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]
) -> tuple[list[Reply], Failure | None]:
    """Replies to asks and, if the model failed, why.

    Any failure of a model on an image is recorded as such: never an empty answer, never the end of the others.
    """
    try:
        return with_ranks(vlm, encoded, asks, options, vlm.answer(encoded, asks)), None
    except Exception as error:
        failed = Failure.of(error)
        return [Reply.failed(failed.line)] * len(asks), failed


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    if text and isinstance(error, AgeVlmError):
        return text[0]
    return f"{type(error).__name__}: {text[0] if text else ''}"


def _record(group: Group, ask: PlannedAsk, reply: Reply) -> AnswerRecord:
    return AnswerRecord(
        key=ask.key,
        image=None if group.shown is None else group.shown.name,
        shown=None if group.shown is None else group.shown.identity,
        prompt=ask.prompt,
        text=reply.text,
        stop=reply.stop,
        logprobs=dict(reply.logprobs),
        tokens=len(reply.token_ids),
        error=reply.error,
    )


def prefetch(items: Iterable[T], load: Callable[[T], R], depth: int) -> Generator[tuple[T, R | Exception]]:
    """Items with what `load` made of them in a background thread, in order; an exception is handed over, not raised.

    Not DataError alone: broken files bring out surprises in image libraries, and one of them must not end a run.
    """

    def guarded(item: T) -> R | Exception:
        try:
            return load(item)
        except Exception as error:
            return error

    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: list[tuple[T, Any]] = []
        try:
            for item in items:
                waiting.append((item, pool.submit(guarded, item)))
                if len(waiting) > depth:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
