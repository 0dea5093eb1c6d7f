"""What an answer to a multiple-choice question is read as."""

from __future__ import annotations

from dataclasses import dataclass

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The letters of the options, in their order."""
SOURCES = ("ADE20K", "COCO", "Omni3D")
"""CV-Bench's sources: the first two are its 2D questions, the last its 3D questions."""


@dataclass(frozen=True)
class Reading:
    """The option that an answer names, and the rule that found it or found none."""

    option: int | None
    """Place in the options, from 0; None where the answer names no option or more than one."""
    rule: str
    decided: bool = True
    """False where a judge was to read the answer and came to no verdict: neither right nor wrong. `option` is None."""


NO_ANSWER = Reading(None, "no-answer")
"""The reading of an answer that is missing because the model failed, the same for every protocol."""
NOT_OFFERED = "letter-not-offered"
"""The rule's name where a letter was read that no option has."""


def letter_reading(letter: str, n_options: int, rule: str) -> Reading:
    """The option of an upper-case letter, or none where there is no such option."""
    place = LETTERS.find(letter) if letter else -1
    return Reading(place, rule) if 0 <= place < n_options else Reading(None, NOT_OFFERED)
