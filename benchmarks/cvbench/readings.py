"""How each published CV-Bench evaluator reads an answer: the same answers, read by each one's rule.

A protocol is a pure function from an answer and the question's options to a `Reading`. None of them sees the right
answer. An answer that names no option is wrong in the score; tables print how many there are, by rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agevlm.errors import DataError
from benchmarks.cvbench.rules import read_rules
from benchmarks.cvbench.types import LETTERS, NO_ANSWER, Reading, letter_reading

__all__ = ["PROTOCOLS", "Protocol", "Reading", "protocol_named", "read"]

Aggregate = Literal["official mean", "row mean", "mean of sources in 2D, row mean in 3D"]

OFFICIAL_PROMPT = "{prompt}\nAnswer with the option's letter from the given choices directly."
"""The data set's own prompt field (question and lettered options) and Cambrian's instruction."""


@dataclass(frozen=True)
class Protocol:
    """One evaluator's rule, where it comes from, and what its published numbers were made with."""

    name: str
    summary: str
    source: str
    """Public repository, commit and file of the rule."""
    prompt: str
    """Template of what its published numbers ask: `{prompt}` is the data set's prompt field, `{letters}` "A, B, C"."""
    aggregate: Aggregate
    """How its headline number combines the questions."""
    rule: Callable[[str, Sequence[str]], Reading]
    """The reading of an answer, given the options' texts in their order."""


# --- strict -----------------------------------------------------------------------------------------------------------

_STRICT = re.compile(r"\s*(?:([A-Z])|\(([A-Z])\))\.?\s*")


def _read_strict(answer: str, options: Sequence[str]) -> Reading:
    """The letter as the prompt shows it, "(B)", or alone, with at most one full stop and white space around."""
    match = _STRICT.fullmatch(answer)
    if match is None:
        return Reading(None, "not-a-letter" if answer.strip() else "empty")
    return letter_reading(match[1] or match[2], len(options), "letter")


# --- official ---------------------------------------------------------------------------------------------------------

_CUES = ("answer is", "answer is:", "answer:")


def _read_official(answer: str, options: Sequence[str]) -> Reading:
    """The first character after the last "answer is" or "answer:", brackets and a final full stop aside.

    Cambrian's rule is the same for its three sources but for what it strips from the end, which never is a letter.
    Its evaluator of Omni3D also accepts that one character where it is the right option's whole text; its options are
    names of objects, so that is left out.
    """
    text = answer.lower().strip()
    rule = "first-character"
    for cue in _CUES:
        _, found, after = text.rpartition(cue)
        if found:
            text, rule = after, "after-answer"
    text = text.strip().rstrip(".").lstrip("(").rstrip(")")
    if not text:
        return Reading(None, "empty")
    if not ("a" <= text[0] <= "z"):
        return Reading(None, "no-letter-first")
    return letter_reading(text[0].upper(), len(options), rule)


# --- harnesses --------------------------------------------------------------------------------------------------------


def _read_lmms_eval(answer: str, options: Sequence[str]) -> Reading:
    """The first character that is neither white space nor an opening bracket, where it is a letter in either case."""
    first = next((char for char in answer if char != "(" and not char.isspace()), "")
    if not first:
        return Reading(None, "empty")
    # dotless i and long s match [A-Z] where case is ignored, and upper-case to ASCII letters
    letter = first.upper()
    if letter not in LETTERS:
        return Reading(None, "no-letter-first")
    return letter_reading(letter, len(options), "first-character")


_API_FAILED = "Failed to obtain answer via API"
_REJECTIONS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_AS_SPACE = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([abcd])", re.IGNORECASE)
_LAST_WORDS = 4


def _read_vlmevalkit(answer: str, options: Sequence[str]) -> Reading:
    """A lone option letter among the last words, else "answer is X", else the one option whose text is inside.

    This is the toolkit's matching without a judge (its `exact_matching`), where an unread answer is wrong. Its
    default sends the answers that get the rule "no-match" here to a judge model, at most three times, and then draws
    an option (or none) at random; neither is reproduced.
    """
    if _API_FAILED not in answer:
        if any(phrase in answer for phrase in _REJECTIONS):
            return Reading(None, "rejection")
        words = answer.translate(_AS_SPACE).split()
        named = [letter for letter in LETTERS[: len(options)] if letter in words]
        if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
            return letter_reading(named[0], len(options), "letter-word")
        if not named and "Z" in words:
            return Reading(None, "letter-z")
        match = _ANSWER_IS.search(answer)
        if match and LETTERS.index(match[1].upper()) < len(options):
            return letter_reading(match[1].upper(), len(options), "after-answer")
    lowered, texts = answer.lower(), [option.lower() for option in options]
    if len(lowered) <= 2 * sum(len(option) for option in options):
        inside = [place for place, text in enumerate(texts) if text in lowered]
        if len(inside) == 1:
            return Reading(inside[0], "text-inside")
    return Reading(None, "no-match")


# --- the protocols ----------------------------------------------------------------------------------------------------

_ALL = (
    Protocol(
        name="rules",
        summary="a letter in any wrapping, then the one option named by its text or number; else unparsed",
        source="this suite, benchmarks/cvbench/rules.py",
        prompt=OFFICIAL_PROMPT,
        aggregate="official mean",
        rule=read_rules,
    ),
    Protocol(
        name="strict",
        summary="the whole answer is an option's letter, as in B or (B), but for one final full stop",
        source="this suite, benchmarks/cvbench/readings.py",
        prompt=OFFICIAL_PROMPT,
        aggregate="official mean",
        rule=_read_strict,
    ),
    Protocol(
        name="official",
        summary="the first character, after the last 'answer is' or 'answer:' if there is one",
        source=(
            "cambrian-mllm/cambrian@a220b3f549fb2948cd331227f0269313b5773ddb "
            "eval/eval/coco/coco_test.py, eval/eval/omni/omni_test.py"
        ),
        prompt=OFFICIAL_PROMPT,
        aggregate="official mean",
        rule=_read_official,
    ),
    Protocol(
        name="lmms-eval",
        summary="the first character after white space and opening brackets",
        source="lmms-eval 0.7.3 (PyPI) lmms_eval/tasks/cv_bench/utils.py",
        prompt=(
            "Note: You only need to respond with {letters} without providing any additional information.\n\n{prompt}"
        ),
        aggregate="row mean",
        rule=_read_lmms_eval,
    ),
    Protocol(
        name="vlmevalkit",
        summary="a lone letter among the last four words, 'answer is X', or the one option text inside; no judge",
        source=(
            "open-compass/VLMEvalKit@e8e78f05f3080fe28154f2130321f17951c3be94 vlmeval/utils/matching_util.py, "
            "vlmeval/dataset/image_mcq.py"
        ),
        prompt="{prompt}",
        aggregate="mean of sources in 2D, row mean in 3D",
        rule=_read_vlmevalkit,
    ),
)

PROTOCOLS: dict[str, Protocol] = {entry.name: entry for entry in _ALL}
"""Every protocol by name, in the order tables print them."""


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; a DataError lists the names where there is none."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise DataError(f"there is no CV-Bench protocol {name!r}; choose one of {', '.join(PROTOCOLS)}") from None


def read(protocol: str, answer: str | None, options: Sequence[str]) -> Reading:
    """What a protocol reads in an answer to a question with these options, in their order.

    None is an answer that is missing because the model failed: "no-answer" under every protocol. Raises DataError for
    an unknown protocol, ValueError where there is no option or more of them than letters.
    """
    chosen = protocol_named(protocol)
    if not 1 <= len(options) <= len(LETTERS):
        raise ValueError(f"need 1 to {len(LETTERS)} options, got {len(options)}")
    return NO_ANSWER if answer is None else chosen.rule(answer, options)
