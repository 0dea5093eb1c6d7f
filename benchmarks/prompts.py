"""Prompt templates: how a benchmark's question becomes the text a model is asked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from agevlm.errors import DataError

SUFFIX = "\nAnswer the question using a single word or phrase."
_SUFFIX = re.compile(r"\s*Answer the question using a single word or phrase\.\s*$")
PLACE = "{question}"


def strip_suffix(text: str) -> str:
    """A question without the short-answer instruction that some files carry."""
    return _SUFFIX.sub("", text)


@dataclass(frozen=True)
class Template:
    """A named template of what a model is asked."""

    name: str
    template: str


@dataclass(frozen=True)
class Prompt(Template):
    """A template with one `{question}`."""

    def of(self, question: str) -> str:
        """The text for one question."""
        return self.template.replace(PLACE, question)


DEFAULT = Prompt("default", PLACE + SUFFIX)
OFFICIAL = Prompt("official", PLACE)


def load_prompt(name: str) -> Prompt:
    """`default` (adds the short-answer instruction), `official` (the question alone), or a template file.

    A file's name in tables is its stem and the first 8 hex digits of its content's hash; a final line break is not
    part of it.

    Raises:
        DataError: no such file, or not exactly one `{question}` in it.
    """
    if name in (DEFAULT.name, OFFICIAL.name):
        return DEFAULT if name == DEFAULT.name else OFFICIAL
    path = Path(name)
    try:
        template = path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"prompt {name}: neither default nor official, nor a readable text file ({error})") from None
    if template.count(PLACE) != 1:
        raise DataError(f"prompt {name}: must hold {PLACE} exactly once, found {template.count(PLACE)}")
    for known in (DEFAULT, OFFICIAL):
        if template == known.template:
            return known
    return Prompt(f"{path.stem}:{hashlib.sha256(template.encode()).hexdigest()[:8]}", template)
