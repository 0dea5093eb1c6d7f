"""Two published CV-Bench evaluators in longhand: one answer in, whether the option is the one they would mark right.

Each restates its evaluator with its own string handling and shares nothing with the code under test. Both compare with
the right option; `option` recovers what they read by trying every option as the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def option(marks_right: Callable[[int], bool], n_options: int) -> int | None:
    """The one option that an evaluator would mark right; fails where it would mark several."""
    right = [place for place in range(n_options) if marks_right(place)]
    assert len(right) <= 1, right
    return right[0] if right else None


def cambrian(answer: str, gold: int, ending: str = ".") -> bool:
    """`ending` is what is stripped from the end: "." for ADE20K and COCO, ".:," for Omni3D."""
    text = answer.lower().strip()
    for marker in ["answer is", "answer is:", "answer:"]:
        while marker in text:
            text = text[text.index(marker) + len(marker) :]
    text = text.strip()
    while text and text[-1] in ending:
        text = text[:-1]
    while text and text[0] == "(":
        text = text[1:]
    while text and text[-1] == ")":
        text = text[:-1]
    return text[:1] == "abcdefghijklmnopqrstuvwxyz"[gold]


def vlmevalkit(answer: str, options: Sequence[str], gold: int) -> bool:
    return _vlmevalkit(answer, options) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[gold]


def _vlmevalkit(answer: str, options: Sequence[str]) -> str:
    choices = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options, strict=False))
    if "Failed to obtain answer via API" not in answer:
        for phrase in (
            "Sorry, I can't help with images of people yet.",
            "I can't process this file.",
            "I'm sorry, but without the image provided",
            "Cannot determine the answer",
        ):
            if phrase in answer:
                return "Z"
        words = "".join(" " if c in ".()[],:;!*#{}" else c for c in answer).split()
        letters = sorted(set(words) & set(choices))
        if len(letters) == 1 and len(words) - words.index(letters[0]) < 5:
            return letters[0]
        if not letters and "Z" in words:
            return "Z"
        letter = _after_answer_is(answer)
        if letter in choices:
            return letter
    if len(answer.lower()) > 2 * len("".join(options)):
        return "Z"
    inside = [letter for letter, text in choices.items() if answer.lower().find(text.lower()) >= 0]
    return inside[0] if len(inside) == 1 else "Z"


def _after_answer_is(answer: str) -> str:
    """The letter A to D that first follows "answer is" with white space between and stars before it, else ""."""
    for start in range(len(answer)):
        if answer[start : start + 6].lower() != "answer":
            continue
        rest = answer[start + 6 :]
        middle = rest.lstrip()
        if middle == rest or middle[:2].lower() != "is" or middle[2:].lstrip() == middle[2:]:
            continue
        letter = middle[2:].lstrip().lstrip("*")[:1]
        if letter and letter in "ABCDabcd":
            return letter.upper()
    return ""
