"""Which category of objects a phrase names, by its words."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
"""A possessive is a word of its own: "the dog's bowl" names no dog."""


def category_of(phrase: str, categories: Collection[str]) -> str | None:
    """The category that a phrase names, or None.

    A category is named where its words stand in the phrase, in either case, singular or plural ("the two cats" names
    cat, "hot dogs" hot dog, "skis" and "a ski" skis). At each word the longest category counts, so that a hot dog is
    no dog. The first category named is the phrase's ("a cup on the dining table" names cup); but of several that
    stand side by side it is the last, the head of the compound ("an orange cat" names cat). What else a phrase says
    makes no difference: "no cat" names cat.
    """
    words = [_number_forms(word) for word in _words(phrase)]
    named = {name: [_number_forms(word) for word in _words(name)] for name in categories}
    longest_first = sorted(named.items(), key=lambda item: -len(item[1]))
    found, place = None, 0
    while place < len(words):
        match = next((item for item in longest_first if _stands_at(item[1], words, place)), None)
        if match is None and found is not None:
            break
        if match is None:
            place += 1
        else:
            found, place = match[0], place + len(match[1])
    return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _stands_at(name: list[frozenset[str]], words: list[frozenset[str]], place: int) -> bool:
    there = words[place : place + len(name)]
    return bool(name) and len(there) == len(name) and all(a & b for a, b in zip(name, there, strict=True))


@cache
def _number_forms(word: str) -> frozenset[str]:
    """The word, and its singular if it is a plural."""
    return frozenset({word, _english().singular_noun(word) or word})


@cache
def _english() -> Any:
    import inflect

    return inflect.engine()
