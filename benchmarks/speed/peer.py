"""lmms-eval beside us: its own evaluation loop and model wrapper, on our model object."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.speed.local_task import LocalTask
from benchmarks.speed.measuring import Clocks, clocked

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm

PEERS = ("lmms-eval",)
LEAST_IMAGES = 6
"""Fewer would say little about how ratios differ from image to image."""
LLAVA_HF = ("llava", "llava_next", "llava_onevision")
"""Model types that lmms-eval's `llava_hf` takes."""


class PeerFailed(Exception):
    """The peer did not answer as it should; there is nothing to compare with."""


def prepare_environment() -> None:
    """What must be set before lmms-eval and its libraries are imported: nothing may be looked up on the network.

    Raises:
        click.ClickException: lmms-eval is missing; says how to install it.
    """
    missing = [name for name in ("lmms_eval", "decord") if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"--peer lmms-eval: {' and '.join(missing)} not installed; pip install 'agevlm[lmms]' brings what is needed"
        )
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")


@dataclass
class PeerRun:
    """What the peer did with one image's questions."""

    texts: list[str]
    """Answers in the order of the questions."""
    calls: int
    """Of the model's `generate`."""
    outputs: dict[tuple[int, ...], tuple[int, ...]]
    """What `generate` was given -> what it added; token ids both."""
    clocks: Clocks
    """Of the wrapper's `generate_until`: from rows on disk to answer texts."""
    whole: float
    """Wall seconds of `simple_evaluate`, which also builds the task and scores."""


@dataclass
class _Recorder:
    """What goes into and comes out of the model's `generate`, errors included that a wrapper swallows."""

    calls: int = 0
    outputs: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)

    @contextlib.contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Watch a model in this context."""
        honest = model.generate

        def generate(*args: Any, **kwargs: Any) -> Any:
            try:
                output = honest(*args, **kwargs)
            except Exception as error:
                self.errors.append(error)
                raise
            sequences = getattr(output, "sequences", output)
            for given, row in zip(kwargs["input_ids"].tolist(), sequences.tolist(), strict=True):
                self.calls += 1
                self.outputs[tuple(given)] = tuple(row[len(given) :])
            return output

        model.generate = generate
        try:
            yield
        finally:
            del model.generate


class LmmsEval:
    """lmms-eval's `simple_evaluate` over local tasks.

    Args:
        vlm: our side; the wrapper's model becomes this very object.
        checkpoint: its folder, from which a wrapper reads configuration and processor.
        tasks: the folder of the task files.
    """

    def __init__(self, vlm: HfVlm, checkpoint: Path, tasks: Path) -> None:
        with _quiet():
            from lmms_eval.tasks import TaskManager

            self._vlm = vlm
            self.lm: Any = _wrapper(vlm, checkpoint)
            # It would delete the model after the first task.
            self.lm.clean = lambda: None
            self._manager = TaskManager("ERROR", include_path=str(tasks), model_name=self.name)

    @property
    def name(self) -> str:
        """The wrapper, as a reader would look it up."""
        return f"{type(self.lm).__module__}.{type(self.lm).__name__}"

    @property
    def version(self) -> str:
        """Of lmms-eval."""
        from importlib import metadata

        return metadata.version("lmms-eval")

    def run(self, task: LocalTask) -> PeerRun:
        """Answer the questions of one image.

        Raises:
            PeerFailed: an exception, also one that the wrapper swallowed, or an empty answer.
        """
        from lmms_eval.evaluator import simple_evaluate

        recorder, clocks = _Recorder(), list[Clocks]()
        answer = type(self.lm).generate_until

        def generate_until(requests: Any) -> Any:
            with clocked(self._vlm) as spent:
                found = answer(self.lm, requests)
            clocks.append(spent)
            return found

        self.lm.generate_until = generate_until
        started = time.perf_counter()
        try:
            with _quiet(), recorder.watching(self._vlm.model):
                result = simple_evaluate(
                    model=self.lm, tasks=[task.name], task_manager=self._manager, bootstrap_iters=0, log_samples=True
                )
        except Exception as error:
            raise PeerFailed(f"lmms-eval on {task.name}: {type(error).__name__}: {error}") from error
        whole = time.perf_counter() - started
        if recorder.errors:
            first = recorder.errors[0]
            raise PeerFailed(
                f"lmms-eval's wrapper swallowed {len(recorder.errors)} exceptions of the model on {task.name}; the "
                f"first: {type(first).__name__}: {first}"
            )
        samples = sorted(result["samples"][task.name], key=lambda s: s["doc_id"])
        texts = [_text(s) for s in samples]
        if empty := sum(not t.strip() for t in texts):
            raise PeerFailed(f"{empty} of lmms-eval's {len(texts)} answers on {task.name} are empty")
        return PeerRun(texts, recorder.calls, recorder.outputs, clocks[0], whole)


def _wrapper(vlm: HfVlm, checkpoint: Path) -> Any:
    """lmms-eval's wrapper for a model, around the very model object."""
    kind = vlm.model.config.model_type
    if kind == "age_vlm":
        from benchmarks.speed.lmms_plain import PlainAgeVlm

        return PlainAgeVlm(vlm)
    if kind not in LLAVA_HF:
        raise click.ClickException(f"--peer lmms-eval: its llava_hf takes {', '.join(LLAVA_HF)}, not {kind!r}")
    from lmms_eval.models import get_model

    device = str(vlm.model.device)
    dtype = str(vlm.model.dtype).removeprefix("torch.")
    # Without a device map that says something, it fails on current transformers.
    lm = get_model("llava_hf")(pretrained=str(checkpoint), device=device, device_map=device, dtype=dtype)
    lm._model, lm._config = vlm.model, vlm.model.config
    return lm


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its remarks and progress bars go nowhere; its errors are raised (see `LmmsEval.run`)."""
    from loguru import logger

    logger.remove()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    # Importing it, and making a task manager, set up handlers of their own.
    logger.remove()


def _text(sample: dict[str, Any]) -> str:
    answer = sample["filtered_resps"]
    while isinstance(answer, list):
        answer = answer[0]
    return str(getattr(answer, "text", answer))
