"""What lmms-eval makes of the plug-in: a simple and a chat class over any of our models.

lmms-eval constructs them from `--model_args` (see `Options`), fills `task_dict`, and calls `generate_until` or
`loglikelihood` with all requests of a run at once.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from agevlm.errors import DataError, NotSupported
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Fingerprint, Vlm
from benchmarks.lmms import asking
from benchmarks.lmms.wanted import Decoding, Images, Wanted, chat_parts, one_image, plain_prompt, read_decoding
from benchmarks.records import AnswerRecord
from benchmarks.run_folder import default_folder

if TYPE_CHECKING:
    from PIL.Image import Image

CHOICES = {"on_error": ("raise", "empty"), "several_images": ("refuse", "join")}
"""Options with so many values."""


@dataclass(frozen=True)
class Options:
    """The model's arguments, as in `--model_args pretrained=scenes/age-vlm,dtype=bfloat16`."""

    pretrained: str
    """scenes/NAME, a checkpoint folder, a hub id, or any other name that --ckpt of our own commands takes."""
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int | None = None
    """Most questions in one pass; our own commands' default where none is given."""
    chat_template: str | None = None
    """A jinja file."""
    device_map: str | None = None
    concurrency: int = ModelChoice.concurrency
    timeout: float = ModelChoice.timeout
    records: str | None = None
    """Folder of answer records; runs/lmms-MODEL where none is given."""
    several_images: str = "refuse"
    """What becomes of a document with several images: refuse it, or join them side by side into one."""
    on_error: str = "raise"
    """What becomes of requests without an answer, once all others are recorded: raise, or an empty text."""

    @staticmethod
    def of(arguments: dict[str, Any]) -> Options:
        """Checked options. Raises DataError for unknown ones, a missing name, or a value that is none of theirs."""
        known = [field.name for field in dataclasses.fields(Options)]
        if unknown := sorted(set(arguments) - set(known)):
            raise DataError(f"agevlm: unknown model_args {', '.join(unknown)}; known: {', '.join(known)}")
        if not arguments.get("pretrained"):
            raise DataError("agevlm: name a checkpoint with --model_args pretrained=scenes/NAME|FOLDER|ORG/NAME")
        options = Options(**arguments)
        for name, values in CHOICES.items():
            if getattr(options, name) not in values:
                raise DataError(f"agevlm: {name}={getattr(options, name)}: give {' or '.join(values)}")
        return options

    def choice(self) -> ModelChoice:
        """The model, not loaded."""
        return ModelChoice.of({"ckpt": self.pretrained, **dataclasses.asdict(self)})


class Likelihood(tuple, GenerationResult):
    """A (loss, is greedy) pair that lmms-eval takes whole.

    The evaluator of 0.7.3 turns every response that is neither a text nor a `GenerationResult` into its `str`, plain
    pairs of likelihood requests among them, and its task code then fails on "(0.5, True)". It does take what a
    `GenerationResult` carries as `text`, whatever that is.
    """

    token_counts = None

    def __new__(cls, loss: float, greedy: bool) -> Likelihood:
        return super().__new__(cls, (loss, greedy))

    def __init__(self, loss: float, greedy: bool) -> None:
        self.text = (loss, greedy)


class AgeVlm(lmms):
    """The simple class: a prompt, and visuals apart from it. Multiple choice by likelihood exists for it alone."""

    is_simple = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.options = Options.of(arguments)
        self.choice = self.options.choice()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator()
            if self.options.device == "auto":
                self.choice = dataclasses.replace(self.choice, device=str(self.accelerator.device))
        folder = self.options.records or default_folder(["lmms", self.choice.slug])
        self.records = asking.Records(Path(folder), int(os.environ.get("RANK", 0)))
        self.fingerprint: Fingerprint = self.choice.fingerprint()
        self._vlm: Vlm | None = None
        self._said: set[str] = set()
        self.missing = 0
        """Requests that were given an empty answer because they have none."""
        self.remarks: list[str] = []
        """What a reader of the scores must know."""

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> AgeVlm:
        """What `--model_args` says outweighs `--batch_size` and `--device`.

        lmms-eval hands out a batch size of 1 where none is asked for; that (and `auto`) is taken for none.
        """
        from lmms_eval.utils import simple_parse_args_string

        given = {k: v for k, v in (additional_config or {}).items() if v is not None and k != "max_batch_size"}
        if not str(given.get("batch_size", "")).isdigit() or int(given["batch_size"]) == 1:
            given.pop("batch_size", None)
        arguments = {**given, **simple_parse_args_string(arg_string)}
        size = arguments.get("batch_size")
        if size is not None:
            if not str(size).isdigit() or int(size) < 1:
                raise DataError(f"agevlm: batch_size={size}: give a number of at least 1")
            arguments["batch_size"] = int(size)
        # A folder of digits would have become a number.
        arguments.update({k: str(v) for k, v in arguments.items() if k in ("pretrained", "records")})
        return cls(**arguments)

    @property
    def device(self) -> Any:
        """Where lmms-eval gathers over processes."""
        import torch

        return self.accelerator.device if hasattr(self, "accelerator") else torch.device("cpu")

    def vlm(self) -> Vlm:
        """The model, loaded when it is first asked something that no record answers."""
        if self._vlm is None:
            self._vlm = self.choice.load()
        return self._vlm

    def clean(self) -> None:
        """Free the model, as lmms-eval wants before it starts a judge; the next use loads it again."""
        if self._vlm is not None:
            self._vlm.close()
            self._vlm = None

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Greedy answers, in the order of the requests; each distinct (image, prompt) is asked once."""
        images = Images()
        wanted = [self._wanted(request.args, images) for request in self._read(requests)]
        records = self._run(asking.generate, wanted, images)
        return [
            GenerationResult(one.decoding.cut(record.text or ""), TokenCounts(output_tokens=record.tokens))
            for one, record in zip(wanted, records, strict=True)
        ]

    def loglikelihood(self, requests: list[Instance]) -> list[Likelihood]:
        """For each request the loss of its continuation and whether the model would say it by itself.

        The loss is the negative of the summed log-probability: lmms-eval's task code takes the option with the
        *smallest* number. The second value says whether the greedy answer begins with the continuation, as text.
        """
        images = Images()
        wanted = [self._continuation(request.args, images) for request in self._read(requests)]
        records = self._run(asking.rank, wanted, images)
        return [
            Likelihood(
                -record.logprobs.get(one.option or "", float("-inf")), begins_with(record.text or "", one.option or "")
            )
            for one, record in zip(wanted, records, strict=True)
        ]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotSupported("agevlm answers single questions; tasks of several rounds are not supported")

    def _run(
        self, how: Callable[..., list[AnswerRecord]], wanted: Sequence[Wanted], images: Images
    ) -> list[AnswerRecord]:
        from tqdm import tqdm

        self._say(wanted)
        distinct = len({(None if w.shown is None else w.shown.identity, w.prompt, w.decoding) for w in wanted})
        try:
            with tqdm(total=distinct, desc="agevlm", disable=self.rank != 0) as bar:
                records = how(wanted, images, self.vlm, self.fingerprint.digest, self.records, bar.update)
        except BaseException as error:
            # Or threads that still ask would be waited for when the interpreter ends, for answers that nobody takes.
            self.clean()
            if isinstance(error, KeyboardInterrupt):
                kept = f"agevlm: interrupted; what is answered is kept in {self.records.path}"
                print(f"{kept}, and the same command goes on from there", file=sys.stderr)
            raise
        count, example = asking.missing(wanted, records)
        if count:
            what = f"{count} of {len(wanted)} requests have no answer; the first: {example}"
            if self.options.on_error == "raise":
                raise asking.AnswersMissing(
                    f"{what}. All others are kept in {self.records.path}, and the same command asks the missing ones "
                    "again. To score all the same, with these as empty answers: on_error=empty"
                )
            self.missing += count
            self._remark(f"{what}. They are scored as empty answers")
        return records

    def _read(self, requests: list[Instance]) -> Iterable[Instance]:
        """The requests under a bar: every image is opened once to know it by its content."""
        from tqdm import tqdm

        bar: Iterable[Instance] = tqdm(requests, desc="agevlm reads requests", disable=self.rank != 0)
        return bar

    def _say(self, wanted: Sequence[Wanted]) -> None:
        ignored = {name for one in wanted for name in one.decoding.ignored} - self._said
        if ignored:
            self._said |= ignored
            self._remark(f"generation settings ignored: {', '.join(sorted(ignored))}")

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        print(f"agevlm: {text}", file=sys.stderr)

    def _document(self, task: str, split: str, number: int) -> Any:
        return self.task_dict[task][split][number]

    def _image(self, visuals: Any, where: str) -> Image | None:
        return one_image(visuals, where, join=self.options.several_images == "join")

    def _wanted(self, arguments: tuple[Any, ...], images: Images) -> Wanted:
        """A generation request of a simple task: (prompt, settings, doc_to_visual, document, task, split)."""
        prompt, settings, doc_to_visual, number, task, split = arguments
        where = f"{task}/{split}/{number}"
        shown = images.add(where, self._opener(doc_to_visual, number, task, split))
        return Wanted(where, shown, plain_prompt(prompt, with_image=shown is not None), read_decoding(settings, where))

    def _continuation(self, arguments: tuple[Any, ...], images: Images) -> Wanted:
        """A likelihood request: (prompt, continuation, doc_to_visual, document, task, split), or a bare text's."""
        if len(arguments) == 2:
            return Wanted("text alone", None, arguments[0], Decoding(1, ()), arguments[1])
        prompt, target, doc_to_visual, number, task, split = arguments
        where = f"{task}/{split}/{number}"
        option = target if isinstance(target, str) else str(target(self._document(task, split, number)))
        shown = images.add(where, self._opener(doc_to_visual, number, task, split))
        return Wanted(where, shown, plain_prompt(prompt, with_image=shown is not None), Decoding(1, ()), option)

    def _opener(self, doc_to_visual: Any, number: int, task: str, split: str) -> Callable[[], Image | None]:
        def opened() -> Image | None:
            if doc_to_visual is None:
                return None
            return self._image(doc_to_visual(self._document(task, split, number)), f"{task}/{split}/{number}")

        return opened


class AgeVlmChat(AgeVlm):
    """The chat class: messages with the visuals in them. lmms-eval prefers it."""

    is_simple = False

    def _wanted(self, arguments: tuple[Any, ...], images: Images) -> Wanted:
        """A generation request of a chat task: (prompt, doc_to_messages, settings, document, task, split)."""
        _, doc_to_messages, settings, number, task, split = arguments
        where = f"{task}/{split}/{number}"
        text = ""

        def opened() -> Image | None:
            nonlocal text
            visuals, text = chat_parts(doc_to_messages(self._document(task, split, number)), where)
            return self._image(visuals, where)

        shown = images.add(where, opened)
        return Wanted(where, shown, plain_prompt(text, with_image=shown is not None), read_decoding(settings, where))


def begins_with(text: str, option: str) -> bool:
    """Whether an answer begins with an option as whole words."""
    said, wanted = text.strip(), option.strip()
    after = said[len(wanted) : len(wanted) + 1]
    return bool(wanted) and said.startswith(wanted) and not (after.isalnum() and wanted[-1].isalnum())
