"""How a question of CV-Bench is put: the data set's own prompt field, with or without an instruction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from agevlm.errors import DataError
from benchmarks.cvbench.readings import OFFICIAL_PROMPT, PROTOCOLS
from benchmarks.cvbench.types import LETTERS
from benchmarks.prompts import Template

PLACE, LETTERS_PLACE = "{prompt}", "{letters}"
NOT_STATED = "not stated"
"""Instead of a prompt's name where answers do not record what was asked."""


@dataclass(frozen=True)
class CvPrompt(Template):
    """A template with one `{prompt}` and perhaps `{letters}`."""

    def of(self, prompt: str, n_options: int) -> str:
        """The text for one question; `{letters}` becomes "A, B, C"."""
        return self.template.replace(LETTERS_PLACE, ", ".join(LETTERS[:n_options])).replace(PLACE, prompt)


OFFICIAL = CvPrompt("official", OFFICIAL_PROMPT)
PLAIN = CvPrompt("plain", PLACE)
LMMS_EVAL = CvPrompt("lmms-eval", PROTOCOLS["lmms-eval"].prompt)
KNOWN = (OFFICIAL, PLAIN, LMMS_EVAL)


def load_prompt(name: str) -> CvPrompt:
    """`official` (Cambrian's instruction after the data set's prompt), `plain` (that prompt alone), `lmms-eval` (that
    harness's note before it), or a template file.

    A file's name in tables is its stem and the first 8 hex digits of its content's hash; a final line break is not
    part of it.

    Raises:
        DataError: no such file, or not exactly one `{prompt}` in it.
    """
    for known in KNOWN:
        if name == known.name:
            return known
    try:
        template = Path(name).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(known.name for known in KNOWN)
        raise DataError(f"prompt {name}: none of {names}, nor a readable text file ({error})") from None
    if template.count(PLACE) != 1:
        raise DataError(f"prompt {name}: must hold {PLACE} exactly once, found {template.count(PLACE)}")
    for known in KNOWN:
        if template == known.template:
            return known
    return CvPrompt(f"{Path(name).stem}:{hashlib.sha256(template.encode()).hexdigest()[:8]}", template)


def prompt_of_answers(recorded: str, prompt: str, n_options: int) -> str | None:
    """Name of the known prompt that a recorded text follows, "other" if it holds the question with its options, "not
    stated" if it is the question without them, else None.
    """
    for known in KNOWN:
        if _squeeze(recorded) == _squeeze(known.of(prompt, n_options)):
            return known.name
    if _squeeze(prompt) in _squeeze(recorded):
        return "other"
    stem = _squeeze(prompt.split("\n(A)")[0])
    return NOT_STATED if recorded.strip() and stem.startswith(_squeeze(recorded)) else None


def _squeeze(text: str) -> str:
    return " ".join(text.split())
