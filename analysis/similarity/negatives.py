"""Texts that do not match an image, made from those that do. Pure functions; the caller seeds the draws."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.data.naming import Names

MATCH = "match"
OTHER, HARD, WORD_ORDER, GIVEN = "other", "hard", "word-order", "given"
KINDS = (OTHER, HARD, WORD_ORDER, GIVEN)
"""Of non-matching texts. other: what is said of another image. hard: one thing that is there replaced by one that is
not. word-order: the same words in another order. given: as the file of pairs has them."""
CHANGED = (HARD, WORD_ORDER)
"""Kinds that are made by changing a matching text."""
ELSEWHERE = " elsewhere"
"""After a kind: another image's text of that kind, beside that image's own caption ("other"). The image has nothing to
do with either, so that what sets them apart is the text alone."""
TRIES = 50
"""Shuffles that may fall back to the original words before a text counts as one that has no other order."""
_END = re.compile(r"[.!?]+$")


def spelled(text: str) -> str:
    """A text as it is compared with others: case and blanks make no difference."""
    return " ".join(text.casefold().split())


def deranged(texts: Sequence[Sequence[str]], seed: int) -> list[int | None]:
    """For each image another one, whose texts do not match it: a seeded permutation without fixed points.

    No image is paired with one that shares a text with it. Where a permutation meets both conditions for all but a few
    images, these take any image that fits, so that one image may serve twice; None where none fits.

    Args:
        texts: of each image.
        seed: of the permutation.
    """
    draw = random.Random(f"derangement:{seed}")
    said = [frozenset(map(spelled, own)) for own in texts]

    def fits(image: int, other: int) -> bool:
        return image != other and not said[image] & said[other]

    order = list(range(len(texts)))
    draw.shuffle(order)
    # A cycle through all images has no fixed points.
    partner = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    for image in order:
        if fits(image, partner[image]):
            continue
        for swapped in draw.sample(order, len(order)):
            if fits(image, partner[swapped]) and fits(swapped, partner[image]):
                partner[image], partner[swapped] = partner[swapped], partner[image]
                break
    result: list[int | None] = []
    for image in range(len(texts)):
        found: int | None = partner[image]
        if not fits(image, partner[image]):
            found = next((other for other in draw.sample(order, len(order)) if fits(image, other)), None)
        result.append(found)
    return result


def reordered(text: str, draw: random.Random) -> str | None:
    """The words of a text shuffled, its end mark kept at the end; None where no order gives another text."""
    end = _END.search(text.rstrip())
    mark = end[0] if end else ""
    words = text.rstrip()[: len(text.rstrip()) - len(mark)].split()
    if len(set(map(str.casefold, words))) < 2:
        return None
    for _ in range(TRIES):
        shuffled = draw.sample(words, len(words))
        if spelled(" ".join(shuffled)) != spelled(" ".join(words)):
            return " ".join(shuffled) + mark
    return None


@dataclass(frozen=True)
class Swap:
    """Replaces one category that a text names by one that is not in the image."""

    names: Names
    categories: tuple[str, ...]
    groups: Mapping[str, str]
    """The kind of thing that a category is (COCO's supercategory), where it is known: another of its kind is taken
    where there is one."""

    def __call__(self, text: str, present: frozenset[str], draw: random.Random) -> str | None:
        """The text with one category swapped; None where it names none, or all are present.

        Args:
            text: a caption.
            present: categories that are in the image, or that any of its captions names.
            draw: decides which category is replaced by which.
        """
        found = self.names.find(text)
        absent = [name for name in self.categories if name not in present]
        if not found or not absent:
            return None
        one = draw.choice(found)
        group = self.groups.get(one.category)
        kin = [name for name in absent if group is not None and self.groups.get(name) == group]
        return _replaced(text, one.start, one.end, draw.choice(kin or absent))

    def named(self, texts: Sequence[str]) -> frozenset[str]:
        """The categories that texts name."""
        return frozenset(one.category for text in texts for one in self.names.find(text))


def _replaced(text: str, start: int, end: int, category: str) -> str:
    """Another category in the same number, with the article that it takes."""
    import inflect

    engine = inflect.engine()
    said = text[start:end]
    several = bool(engine.singular_noun(said.lower()))
    # A name may be a plural already (skis, scissors).
    noun = engine.plural_noun(category) if several and not engine.singular_noun(category) else category
    noun = noun.capitalize() if said[:1].isupper() else noun
    before = text[:start]
    article = re.search(r"\b([Aa])n?(\s+)$", before)
    if article:
        ending = "n" if engine.a(noun.lower()).startswith("an ") else ""
        before = before[: article.start()] + article[1] + ending + article[2]
    return before + noun + text[end:]
