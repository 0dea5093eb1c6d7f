"""Which texts are compared with which image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from agevlm.errors import DataError
from analysis.similarity.negatives import (
    CHANGED,
    ELSEWHERE,
    GIVEN,
    HARD,
    KINDS,
    MATCH,
    OTHER,
    WORD_ORDER,
    deranged,
    reordered,
    spelled,
)
from analysis.similarity.pairs import Captioned, Material


@dataclass(frozen=True)
class Text:
    """One text beside an image."""

    kind: str
    """"match", or why it does not match."""
    text: str
    of: int
    """Which of the image's matching texts it is, or stands beside; elsewhere, which of its texts of kind "other"."""


@dataclass(frozen=True)
class Item:
    """One image with all its texts."""

    image: str
    sha256: str
    """Of the image file's bytes; empty where they cannot be read."""
    texts: tuple[Text, ...]
    """Those that match first."""

    def key(self, *how: str) -> str:
        """Says by content what is compared, and how."""
        content = [self.sha256, self.image, [[t.kind, t.text, t.of] for t in self.texts], *how]
        return hashlib.sha256(json.dumps(content).encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True)
class Plan:
    """All that is to be compared."""

    items: tuple[Item, ...]
    kinds: tuple[str, ...]
    lacking: Mapping[str, int]
    """For each kind how many images have no text of it."""
    notes: tuple[str, ...]


def make_plan(material: Material, kinds: Sequence[str], *, seed: int, limit: int | None, texts: int | None) -> Plan:
    """Texts that match and texts that do not, for a seeded choice of images.

    Args:
        material: images with their texts.
        kinds: of non-matching texts; empty for all that there are.
        seed: of every choice.
        limit: so many images; None for all.
        texts: most matching texts an image; None for all.

    Raises:
        DataError: fewer than two images, or a kind that no image has.
    """
    chosen = list(material.captioned)
    notes = list(material.notes)
    if limit is not None and limit < len(chosen):
        kept = sorted(Random(f"images:{seed}").sample(range(len(chosen)), limit))
        chosen = [chosen[i] for i in kept]
    if len(chosen) < 2:
        raise DataError(f"{len(chosen)} image: what another image's text is to it needs at least 2; raise --limit")
    said = [_some(one, seed, texts) for one in chosen]
    left = sum(len(one.texts) for one in chosen) - sum(map(len, said))
    if left:
        notes.append(f"{left} matching texts are not used: {texts} an image at most (--texts)")
    wanted = [kind for kind in KINDS if not kinds or kind in kinds]
    partners = deranged([one.texts for one in chosen], seed) if OTHER in wanted else []
    found: list[dict[str, list[Text]]] = []
    for place, (one, own) in enumerate(zip(chosen, said, strict=True)):
        made: dict[str, list[Text]] = {}
        for kind in wanted:
            if kind == OTHER:
                partner = partners[place]
                others = [] if partner is None else said[partner]
                # One beside each, as far as there are so many.
                made[kind] = [Text(kind, text, of) for of, (text, _) in enumerate(zip(others, own, strict=False))]
            else:
                made[kind] = _made(kind, one, own, material, seed)
        found.append(made)
    lacking = {kind: sum(not made[kind] for made in found) for kind in wanted}
    for kind in wanted:
        if lacking[kind] == len(chosen) and kind in kinds:
            raise DataError(f"--kind {kind}: {_why(kind, material)}")
    there = tuple(kind for kind in wanted if lacking[kind] < len(chosen))
    notes += [f"no {kind} texts: {_why(kind, material)}" for kind in wanted if kind not in (*there, GIVEN)]
    if not there:
        raise DataError(f"{material.name}: no image has a text that does not match it; are all texts the same?")
    for partner, made in zip(partners, found, strict=bool(partners)):
        for kind in CHANGED:
            theirs = found[partner].get(kind, ()) if partner is not None else ()
            made[kind + ELSEWHERE] = [Text(kind + ELSEWHERE, t.text, t.of) for t in theirs if t.of < len(made[OTHER])]
    recorded = [*there, *(kind + ELSEWHERE for kind in there if kind in CHANGED)]
    items = []
    for one, own, made in zip(chosen, said, found, strict=True):
        matching = [Text(MATCH, text, of) for of, text in enumerate(own)]
        items.append(
            Item(
                one.image,
                _hashed(material, one.image),
                (*matching, *(text for kind in recorded for text in made.get(kind, ()))),
            )
        )
    return Plan(tuple(items), there, {kind: lacking[kind] for kind in there}, tuple(notes))


def _hashed(material: Material, image: str) -> str:
    try:
        return material.images.read(image).sha256
    except DataError:
        return ""  # Empty or not readable: left out with its reason when it is to be opened, like one that is damaged.


def _some(one: Captioned, seed: int, texts: int | None) -> tuple[str, ...]:
    if texts is None or len(one.texts) <= texts:
        return one.texts
    kept = sorted(Random(f"texts:{seed}:{one.image}").sample(range(len(one.texts)), texts))
    return tuple(one.texts[i] for i in kept)


def _made(kind: str, one: Captioned, own: Sequence[str], material: Material, seed: int) -> list[Text]:
    """Texts of a kind that comes from the image's own texts, or from the source."""
    if kind in one.negatives:
        if kind == GIVEN:
            return [Text(kind, text, 0) for text in one.negatives[kind]]
        pairs = zip(one.texts, one.negatives[kind], strict=True)
        beside = dict(pairs)
        return [Text(kind, beside[text], of) for of, text in enumerate(own)]
    made = []
    present = frozenset[str]()
    if kind == HARD and material.swap is not None:
        present = (one.present or frozenset()) | material.swap.named(one.texts)
    taken = frozenset(map(spelled, one.texts))
    for of, text in enumerate(own):
        draw = Random(f"{kind}:{seed}:{one.image}:{text}")
        changed = None
        if kind == WORD_ORDER:
            changed = reordered(text, draw)
        elif kind == HARD and material.swap is not None:
            changed = material.swap(text, present, draw)
        if changed is not None and spelled(changed) not in taken:
            made.append(Text(kind, changed, of))
    return made


def _why(kind: str, material: Material) -> str:
    reasons = {
        OTHER: "no image has a partner that shares no text with it",
        HARD: "no text names a category that could be replaced; give --instances with the categories of these images",
        WORD_ORDER: "no text has two different words",
        GIVEN: f"{material.name} has neither `negatives` nor texts with `label` false",
    }
    return reasons[kind]
