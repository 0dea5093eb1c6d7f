"""What a POPE run spends beside the model: planning, prompts, tokens, records on disk; and how soon it asks."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.pope_files import Given, pope_settings, write_pope
from benchmarks.speed.questions import PER_IMAGE, picture

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm

PLANNED = 9_000
"""Questions that are read and planned, as many as POPE has on one data set."""
AIM_SHARE = 0.05
AIM_FIRST_SECONDS = 1.0
MODEL = "model"


class _Enough(BaseException):
    """As many images were asked about as were wanted."""


def _now() -> tuple[float, float]:
    """Wall and this thread's CPU seconds."""
    return time.perf_counter(), time.thread_time()


@dataclass
class _Meter:
    """Seconds by part of the work, wall and CPU of the asking thread; nested parts count where they are innermost."""

    spent: dict[str, list[float]] = field(default_factory=dict)
    _stack: list[tuple[str, tuple[float, float]]] = field(default_factory=list)
    _inner: list[list[float]] = field(default_factory=list)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs in this context."""
        begun = _now()
        self._inner.append([0.0, 0.0])
        try:
            yield
        finally:
            took = [after - before for after, before in zip(_now(), begun, strict=True)]
            inner = self._inner.pop()
            total = self.spent.setdefault(name, [0.0, 0.0])
            for clock in (0, 1):
                total[clock] += took[clock] - inner[clock]
                if self._inner:
                    self._inner[-1][clock] += took[clock]

    @contextlib.contextmanager
    def watching(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        """Count every call of a method while in this context."""
        honest = getattr(owner, attribute)
        own = attribute in vars(owner)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return honest(*args, **kwargs)

        setattr(owner, attribute, counted)
        try:
            yield
        finally:
            setattr(owner, attribute, honest) if own else delattr(owner, attribute)


@dataclass
class _Stops:
    """Moments of a run."""

    loaded: tuple[float, float] = (0.0, 0.0)
    encode: tuple[float, float] | None = None
    answer: tuple[float, float] | None = None
    ended: tuple[float, float] = (0.0, 0.0)
    images: int = 0
    beside: float = 0.0
    """CPU seconds of other threads while asking: opening, decoding and preprocessing images ahead of the model."""


def measure_overhead(vlm: HfVlm, images: int, limit: int, advance: Callable[[str], None]) -> dict[str, Any]:
    """Run `agevlm-eval pope` on POPE's number of questions up to so many images, and divide its time.

    Args:
        vlm: the model; asked about one image before, so that it is warm.
        images: to ask about.
        limit: most new tokens of an answer.
        advance: told what goes on.

    Returns:
        Plain values; seconds per question row, wall and CPU of the asking thread, and their shares of model time.
    """
    from rich.console import Console

    from benchmarks.pope.command import run_pope
    from benchmarks.prompts import load_prompt
    from benchmarks.records import AnswerWriter
    from benchmarks.speed.questions import question_rows
    from benchmarks.speed.sides import distinct

    meter, stops = _Meter(), _Stops()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        advance(f"writing {PLANNED} questions")
        write_pope(folder, PLANNED // PER_IMAGE, picture, ".jpg")
        advance("warming up")
        for index in range(images):
            distinct(vlm, picture(index), [load_prompt("default").of(q) for q in question_rows(index)], limit)

        def make() -> HfVlm:
            stops.loaded = _now()
            return vlm

        encode, answer = vlm.encode, vlm.answer

        def first_encode(pictures: Any) -> Any:
            if stops.images == images:
                stops.ended = _now()
                stops.beside += time.process_time() - stops.ended[1]
                raise _Enough
            stops.images += 1
            if stops.encode is None:
                stops.encode = _now()
                stops.beside = stops.encode[1] - time.process_time()
            return encode(pictures)

        def first_answer(*args: Any) -> Any:
            stops.answer = stops.answer or _now()
            return answer(*args)

        settings = pope_settings(folder, Given(vlm.fingerprint.digest, make=make), limit=limit)
        watched = [
            (vlm.model, "forward", MODEL),
            (vlm.family, "features", MODEL),
            (vlm, "row", "prompts and tokens"),
            (AnswerWriter, "commit", "records on disk"),
        ]
        advance(f"a run over {images} images")
        begun = _now()
        with contextlib.ExitStack() as stack:
            for owner, attribute, part in watched:
                stack.enter_context(meter.watching(owner, attribute, part))
            # The run closes what it loaded; this model is not the run's.
            for attribute, replaced in (("encode", first_encode), ("answer", first_answer), ("close", lambda: None)):
                setattr(vlm, attribute, replaced)
                stack.callback(delattr, vlm, attribute)
            with contextlib.suppress(_Enough):
                run_pope(settings, Console(file=io.StringIO()), Console(file=io.StringIO()))
    return _divided(meter, stops, begun, images * PER_IMAGE)


def _divided(meter: _Meter, stops: _Stops, begun: tuple[float, float], rows: int) -> dict[str, Any]:
    assert stops.encode is not None
    assert stops.answer is not None
    found: dict[str, Any] = {"planned_questions": PLANNED, "asked_questions": rows, "images": stops.images}
    for clock, label in enumerate(("wall", "cpu")):
        asking = stops.ended[clock] - stops.encode[clock]
        parts = {name: spent[clock] / rows for name, spent in meter.spent.items()}
        parts["the rest of asking"] = asking / rows - sum(parts.values())
        parts["reading and planning"] = (stops.loaded[clock] - begun[clock]) / PLANNED
        model = parts.pop(MODEL)
        found[label] = {
            "model_seconds_per_question": model,
            "seconds_per_question": parts,
            "shares": {name: seconds / model for name, seconds in parts.items()},
            "share": sum(parts.values()) / model,
        }
    found["other_threads_share"] = stops.beside / rows / found["cpu"]["model_seconds_per_question"]
    found["seconds_from_load_to_first_image"] = stops.encode[0] - stops.loaded[0]
    found["seconds_from_load_to_first_question"] = stops.answer[0] - stops.loaded[0]
    return found
