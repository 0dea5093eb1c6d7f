"""Any lmms-eval wrapper behind the contract: `--ckpt lmms:NAME?ARGS`, as in `lmms_eval --model NAME --model_args ARGS`.

The wrapper runs in a process of its own (see `children` for why). It answers, with or without an image; lmms-eval gives
no access to its logits or its attention.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agevlm.errors import CheckpointError, NotSupported
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Ask, Capability, EncodedImages, Fingerprint, Prepared, Reply, Vlm, pictures
from agevlm.vlm.fingerprint import fingerprint_parts
from agevlm.vlm.peer.children import alone, ended, environment, finish, lmms_eval_version, start, tail
from agevlm.vlm.peer.content import content_parts
from agevlm.vlm.peer.wrapper import Asked, Said

if TYPE_CHECKING:
    from PIL.Image import Image

PREFIX = "lmms:"
GRACE = 3.0
"""Seconds that a wrapper's process has to end once nothing more is asked."""
FOREIGN_OPTIONS = ("batch_size", "chat_template", "device_map", "concurrency", "timeout")
"""Options of a model that a wrapper does not get."""
NAMED = re.compile(r"""([\w.-]+)["']?\s*[=:]\s*["']?([^,"'}]*)""")
"""A name and its value, at any depth (a wrapper may take JSON)."""
HARMLESS = ("image", "video", "audio", "pad", "bos", "eos", "eot", "unk", "sep", "cls", "mask")
"""What stands before `token` or `key` in names that are no secrets."""
PULSE = 0.5
"""Seconds between looks at whether the wrapper's process is still there."""


@dataclass(frozen=True)
class Selector:
    """A wrapper's name and its arguments."""

    name: str
    arguments: str

    @staticmethod
    def of(choice: ModelChoice) -> Selector:
        """The parts of `lmms:NAME?ARGS`. Raises CheckpointError."""
        name, _, arguments = choice.name.removeprefix(PREFIX).partition("?")
        if not name:
            raise CheckpointError(f"{choice.name}: name a wrapper of lmms-eval, as in lmms:llava_hf?pretrained=DIR")
        selector = Selector(name, arguments)
        # First of all: other messages may quote the arguments.
        if secret := next((key for key, value in NAMED.findall(arguments) if is_secret(key, value.strip())), None):
            raise CheckpointError(
                f"{PREFIX}{name}: argument {secret!r} looks like a secret, and arguments are written to the run "
                "folder's name and files; leave it out, and set the environment variable that the provider's client "
                "reads (OPENAI_API_KEY, HF_TOKEN, ...)"
            )
        given = [f for f in fields(choice) if f.name in FOREIGN_OPTIONS and getattr(choice, f.name) != f.default]
        if given:
            names = ", ".join("--" + f.name.replace("_", "-") for f in given)
            raise CheckpointError(f"{choice.name}: takes no {names}; where the wrapper has an argument for it, give it "
                                  "after the ?")  # fmt: skip
        return selector

    def items(self) -> dict[str, str]:
        """The arguments as texts. Raises CheckpointError for one without a value."""
        found = {}
        for part in re.split(r",(?=\s*\w+\s*=)", self.arguments) if self.arguments else []:
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise CheckpointError(f"{PREFIX}{self.name}: argument {part!r} is no KEY=VALUE")
            found[key.strip()] = value.strip()
        return found


def is_secret(key: str, value: str) -> bool:
    """Whether an argument's name says that its value must not be written down: `api_key`, `hf_token`, `password`.

    Not `max_new_tokens`, `tokenizer`, `pad_token`, `video_key`, nor a mere `use_auth_token=True`.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())
    if not words or value.lower() in ("", "true", "false", "none"):
        return False
    if any(word in word_of_key for word in ("secret", "password", "passwd") for word_of_key in words):
        return True
    kind = next((kind for kind in ("key", "token") if words[-1].endswith(kind)), None)
    return kind is not None and not (words[-1] == kind and len(words) > 1 and words[-2] in HARMLESS)


def fingerprint(choice: ModelChoice) -> Fingerprint:
    """Wrapper, lmms-eval's version, arguments; files and folders that the arguments name count by their content.

    A hub id counts by its name alone: what the wrapper fetches is not seen from here.

    Raises:
        CheckpointError: lmms-eval is not installed or has no such wrapper, or the arguments, or a file that they
            name, cannot be read.
    """
    version = lmms_eval_version()
    selector = Selector.of(choice)
    _require_known(selector.name)
    parts = {"wrapper": selector.name, "lmms_eval": version, "dtype": choice.dtype}
    arguments = selector.items()
    content = content_parts(arguments)
    by_content = {name.partition(" ")[0] for name in content}
    plain = {key: value for key, value in sorted(arguments.items()) if key not in by_content}
    return fingerprint_parts({**content, **parts, "arguments": json.dumps(plain)})


def _require_known(name: str) -> None:
    """Raise CheckpointError with near matches if lmms-eval has no wrapper of that name.

    Its registry takes a tenth of a second, in another process: importing it here would change the host's logging.
    """
    code = "import json; from lmms_eval.models import list_available_models as a; print(json.dumps(a(True)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    try:
        names = json.loads(listed.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        reason = listed.stderr.strip().splitlines()[-1:] or ["no output"]
        raise CheckpointError(f"lmms-eval cannot be used: {reason[0]}") from None
    if name not in names:
        near = difflib.get_close_matches(name, names, 5, 0.5)
        hint = f"near: {', '.join(near)}" if near else "`lmms-eval models` lists all it has"
        raise CheckpointError(f"lmms-eval has no wrapper {name!r}; {hint}")


def load(choice: ModelChoice) -> PeerVlm:
    """The wrapper, loaded in its process. Raises CheckpointError."""
    return PeerVlm(choice)


@dataclass(frozen=True)
class PeerImages(EncodedImages):
    """Images as they are: the wrapper does the vision work with each question."""

    images: tuple[Image, ...]

    def __len__(self) -> int:
        return len(self.images)


class PeerVlm(Vlm):
    """A wrapper in a child process.

    `--dtype` and `--device` are passed on where the wrapper has parameters of these names and the arguments do not set
    them; its batch size is 1 unless the arguments say otherwise, for many wrappers take no other.
    """

    capabilities: frozenset[Capability] = frozenset({"blind"})

    def __init__(self, choice: ModelChoice) -> None:
        self.fingerprint = fingerprint(choice)
        self._selector = Selector.of(choice)
        device = choice.device
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        variables, device = alone(environment(), device)
        offered = {"dtype": choice.dtype, "device": device, "batch_size": 1}
        handle, name = tempfile.mkstemp(prefix="agevlm-lmms-", suffix=".log")
        self._log = Path(name)
        self._pipe, theirs = multiprocessing.Pipe()
        with os.fdopen(handle, "wb") as log, contextlib.closing(theirs):
            self._process = start("agevlm.vlm.peer.child", [str(theirs.fileno())], log, [theirs.fileno()], variables)
        try:
            self._pipe.send(("load", self._selector.name, self._selector.arguments, offered))
            kind, said = self._receive()
        except (EOFError, OSError):
            kind, said = "failed", f"its process {ended(self._process)}: {tail(self._log)}"
        except BaseException:
            self.close()
            raise
        if kind != "ready":
            self._end()
            raise CheckpointError(f"{choice.name}: cannot be loaded by lmms-eval: {said} (log: {self._log})")
        self._facts: dict[str, Any] = said

    def describe(self) -> Mapping[str, object]:
        return {"adapter": "lmms-eval wrapper", **self._facts}

    def encode(self, images: Sequence[Image | Prepared]) -> PeerImages:
        return PeerImages(tuple(pictures(images)))

    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        if not isinstance(encoded, PeerImages):
            raise TypeError(f"these images were encoded by another adapter: {type(encoded).__name__}")
        for ask in asks:
            if ask.image is not None and not 0 <= ask.image < len(encoded):
                raise IndexError(f"the ask names image {ask.image} of {len(encoded)}")
        if not asks:
            return []
        sent = [Asked(ask.prompt, ask.image, ask.max_new_tokens) for ask in asks]
        try:
            # Before sending too: a worker that outlives the wrapper keeps the pipe open, and nobody reads it.
            self._require_alive()
            self._pipe.send(("ask", list(encoded.images), sent))
            _, said = self._receive()
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"the wrapper's process {ended(self._process)}; its log {self._log} ends: {tail(self._log)}"
            ) from error
        return [_reply(one) for one in said]

    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        raise NotSupported(f"{PREFIX}{self._selector.name}: lmms-eval's wrappers rank no options by probability")

    def close(self) -> None:
        self._end()
        self._log.unlink(missing_ok=True)

    def _receive(self) -> Any:
        """The child's next words. Raises EOFError if it ends without any, whoever else still holds the pipe."""
        while not self._pipe.poll(PULSE):
            if self._process.poll() is not None and not self._pipe.poll(0):
                raise EOFError
        return self._pipe.recv()

    def _require_alive(self) -> None:
        if self._process.poll() is not None:
            raise EOFError

    def _end(self) -> None:
        self._pipe.close()
        finish(self._process, GRACE)


def _reply(said: Said) -> Reply:
    if said.text is None:
        return Reply.failed(said.error or "the wrapper gave no answer")
    return Reply(said.text, "eos")
