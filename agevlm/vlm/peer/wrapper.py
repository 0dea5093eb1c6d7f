"""One lmms-eval wrapper in this (child) process: asked our way, and watched for errors that it swallows.

Many wrappers catch whatever their model raises and return "". Here that is an error: exceptions out of `generate` are
noted as they pass, and what is logged or printed while one question is asked is read.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

TASK, SPLIT = "agevlm", "test"
RESERVED = "force_simple"
"""The one argument that is ours: use the wrapper's simple class although it has a chat class."""
_TROUBLE = re.compile(r"\b(?:error|exception|traceback|failed|failure)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """One question as it crosses the pipe."""

    prompt: str
    image: int | None
    max_new_tokens: int


@dataclass(frozen=True)
class Said:
    """What came back: a text, or why there is none."""

    text: str | None
    error: str | None = None


@dataclass
class _Overheard:
    """Signs of trouble while the wrapper works."""

    raised: list[str] = field(default_factory=list)
    """Exceptions out of the model's own `generate`."""
    logged: list[str] = field(default_factory=list)
    printed: io.StringIO = field(default_factory=io.StringIO)

    def trouble(self) -> str | None:
        """The first sign in one line; None if there is none."""
        lines = [*self.raised, *self.logged, *self.printed.getvalue().replace("\r", "\n").splitlines()]
        signs = [*self.raised, *(line for line in lines[len(self.raised) :] if _TROUBLE.search(line))]
        return signs[0].strip() if signs else None


class _Tee(io.TextIOBase):
    """Passes text on, and keeps a copy."""

    def __init__(self, stream: Any, copy: io.StringIO) -> None:
        self._stream, self._copy = stream, copy

    def write(self, text: str) -> int:
        self._copy.write(text)
        return int(self._stream.write(text) or len(text))

    def flush(self) -> None:
        self._stream.flush()


class Wrapper:
    """A loaded wrapper."""

    def __init__(self, lm: Any, passed: Mapping[str, Any]) -> None:
        self.lm, self.passed = lm, dict(passed)
        self._heard = _Overheard()
        self._watch_generate()

    @classmethod
    def load(cls, name: str, arguments: str, offered: Mapping[str, Any]) -> Wrapper:
        """Construct a wrapper as `lmms_eval --model NAME --model_args ARGUMENTS` does.

        Args:
            name: the wrapper's name or alias in lmms-eval's registry.
            arguments: comma-separated, as lmms-eval reads them.
            offered: settings that are passed on only if the wrapper has a parameter of that name and the arguments do
                not set it.
        """
        from lmms_eval.models import get_model
        from lmms_eval.utils import simple_parse_args_string

        given: dict[str, Any] = simple_parse_args_string(arguments)
        found = get_model(name, force_simple=bool(given.pop(RESERVED, False)))
        parameters = inspect.signature(found.__init__).parameters
        passed = {k: v for k, v in offered.items() if k in parameters} | given
        return cls(found(**passed), passed)

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        kind = type(self.lm)
        return {
            "wrapper_class": f"{kind.__module__}.{kind.__qualname__}",
            "interface": "simple" if self.lm.is_simple else "chat",
            "wrapper_arguments": {k: str(v) for k, v in self.passed.items()},
        }

    def ask(self, images: Sequence[Image], asks: Sequence[Asked]) -> list[Said]:
        """Answers in the order of the questions.

        All are asked in one call. Where that raises, or returns another number of answers, or its model raised
        anything on the way, each is asked again by itself; so is each that got no text.
        """
        if len(asks) > 1:
            texts = self._together(images, asks)
            if texts is not None:
                return [Said(text) if text else self._alone(images, one) for text, one in zip(texts, asks, strict=True)]
        return [self._alone(images, one) for one in asks]

    def _together(self, images: Sequence[Image], asks: Sequence[Asked]) -> list[str] | None:
        with self._listening() as heard:
            try:
                answers = self._call(images, asks)
            except Exception:
                return None
        if heard.raised or len(answers) != len(asks) or not all(isinstance(a, str) for a in answers):
            return None
        return answers

    def _alone(self, images: Sequence[Image], ask: Asked) -> Said:
        with self._listening() as heard:
            try:
                answers = self._call(images, [ask])
            except Exception as error:
                _release()
                return Said(None, _line(error))
        if heard.raised:
            _release()
            return Said(None, f"the wrapper's model failed: {heard.raised[0]}")
        if len(answers) != 1 or not isinstance(answers[0], str):
            return Said(None, f"the wrapper returned {len(answers)} answers to one question: {answers!r:.200}")
        if not answers[0] and (trouble := heard.trouble()):
            return Said(None, f'the wrapper returned "" and said: {trouble:.500}')
        return Said(answers[0])

    def _call(self, images: Sequence[Image], asks: Sequence[Asked]) -> list[Any]:
        """One `generate_until` with the instances that lmms-eval would have made."""
        from lmms_eval.api.instance import Instance, unwrap_generation_output

        documents = [
            {"id": number, "question": a.prompt, "image": None if a.image is None else images[a.image]}
            for number, a in enumerate(asks)
        ]
        self.lm.task_dict[TASK] = {SPLIT: documents}
        instances = []
        for number, ask in enumerate(asks):
            # A dictionary of its own for each: wrappers change it.
            settings = {"max_new_tokens": ask.max_new_tokens, "temperature": 0.0, "do_sample": False, "num_beams": 1}
            arguments: tuple[Any, ...]
            if self.lm.is_simple:
                arguments = (ask.prompt, settings, _visuals, number, TASK, SPLIT)
            else:
                arguments = (ask.prompt, _messages, settings, number, TASK, SPLIT)
            metadata = {"task": TASK, "doc_id": number, "repeats": 1, "split": SPLIT}
            instances.append(Instance("generate_until", arguments, 0, metadata))
        returned = self.lm.generate_until(instances)
        return [None if one is None else unwrap_generation_output(one)[0] for one in returned]

    def _watch_generate(self) -> None:
        """Note exceptions that leave the model's `generate`, whoever catches them later."""
        for name in ("model", "_model"):
            model: Any = getattr(self.lm, name, None)
            generate = getattr(model, "generate", None)
            if callable(generate) and not isinstance(generate, _Watched):
                with contextlib.suppress(Exception):
                    model.generate = _Watched(generate, lambda error: self._heard.raised.append(_line(error)))

    @contextlib.contextmanager
    def _listening(self) -> Iterator[_Overheard]:
        """Collect signs of trouble meanwhile."""
        from loguru import logger

        self._heard = heard = _Overheard()
        sink = logger.add(lambda message: heard.logged.append(str(message.record["message"])), level="INFO")
        handler = _Handler(heard)
        logging.getLogger().addHandler(handler)
        try:
            with (
                contextlib.redirect_stdout(_Tee(sys.stdout, heard.printed)),
                contextlib.redirect_stderr(_Tee(sys.stderr, heard.printed)),
            ):
                yield heard
        finally:
            logging.getLogger().removeHandler(handler)
            logger.remove(sink)


class _Watched:
    """A callable that reports what it raises."""

    def __init__(self, inner: Callable[..., Any], note: Callable[[BaseException], None]) -> None:
        self._inner, self._note = inner, note

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._inner(*args, **kwargs)
        except Exception as error:
            self._note(error)
            raise


class _Handler(logging.Handler):
    """Errors of the standard library's logging."""

    def __init__(self, heard: _Overheard) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.logged.append(f"error: {record.getMessage()}")


def _visuals(document: Mapping[str, Any]) -> list[Any]:
    return [] if document["image"] is None else [document["image"]]


def _messages(document: Mapping[str, Any], **_: Any) -> list[dict[str, Any]]:
    content = [{"type": "image", "url": image} for image in _visuals(document)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": document["question"]}]}]


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _release() -> None:
    """Give cached device memory back."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
