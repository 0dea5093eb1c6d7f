"""Words of a text that name a category: whole words, singular or plural, the longest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_WORD = re.compile(r"\w+")
_GAP = re.compile(r"\s+|-")
"""Between the words of one name."""
_POSSESSIVE = re.compile(r"['’]s?\s+")


@dataclass(frozen=True)
class Named:
    """Words that name a category."""

    start: int
    """First character, and `end` behind the last."""
    end: int
    category: str


class Names:
    """Finds categories in texts.

    A name is found in any letter case, in the singular and in the plural as `inflect` makes it or with an s (people,
    persons). Of names that begin at the same word the longest counts, and its words count for no other: a hot dog is no
    dog. Parts of hyphenated words count for nothing.

    Args:
        categories: their names.
        words: further words for a category, as {"person": ["man", "woman"]}.
    """

    def __init__(self, categories: Iterable[str], words: Mapping[str, Sequence[str]] | None = None) -> None:
        import inflect

        engine = inflect.engine()
        self._of: dict[tuple[str, ...], str] = {}
        for category in categories:
            for name in (category, *(words or {}).get(category, ())):
                # A name may be a plural already (skis, scissors).
                for form in (name, f"{name}s", engine.plural_noun(name), engine.singular_noun(name) or name):
                    if spelled := tuple(_WORD.findall(form.lower())):
                        self._of.setdefault(spelled, category)
        self._longest: dict[str, int] = {}
        for form in self._of:
            self._longest[form[0]] = max(len(form), self._longest.get(form[0], 0))

    def find(self, text: str) -> list[Named]:
        """Where a text names categories, from left to right."""
        words = [(match.start(), match.end()) for match in _WORD.finditer(text)]
        spelled = [text[start:end].lower() for start, end in words]
        found, at = [], 0
        while at < len(words):
            longest = self._longest.get(spelled[at], 0)
            for length in range(min(longest, len(words) - at), 0, -1):
                category = self._of.get(tuple(spelled[at : at + length]))
                if category is not None and self._together(text, words[at : at + length]):
                    found.append(Named(words[at][0], words[at + length - 1][1], category))
                    at += length - 1
                    break
            at += 1
        return found

    def meant(self, phrase: str) -> str | None:
        """The category that a phrase is about, or None.

        It is the first that is named ("a cup on the dining table" is about a cup); but of several that stand side by
        side the last, the head of the compound ("an orange cat", "the dog's bowl"), and never the owner of something
        else ("a dog's tail"). What else a phrase says makes no difference: "no cat" is about cats.
        """
        head = None
        for one, after in pairwise([*self.find(phrase), None]):
            assert one is not None
            rest = phrase[one.end : after.start if after else len(phrase)]
            owner = _POSSESSIVE.match(rest)
            if after and (rest.isspace() or (owner and owner.end() == len(rest))):
                continue
            if not owner:
                head = one.category
                break
        return head

    @staticmethod
    def _together(text: str, words: Sequence[tuple[int, int]]) -> bool:
        """Whether words are one name: nothing but a gap between them, and no hyphen to further words."""
        start, end = words[0][0], words[-1][1]
        if text[max(0, start - 1) : start] == "-" or text[end : end + 1] == "-":
            return False
        gaps = [text[one[1] : other[0]] for one, other in pairwise(words)]
        return all(_GAP.fullmatch(gap) for gap in gaps)
