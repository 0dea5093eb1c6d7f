"""Which published version of POPE a set of questions is, told by its content.

The hash of a split covers the sorted rows (split, image without its ending, question, label), so that line endings,
ids, row order and container do not matter and any changed, missing or added row does. Sources of the versions, by
commit: POPE (RUCAIBox/POPE 3df3ba1; the older release e3e3926 of AoiDragon/POPE, whose questions LLaVA and others ask,
with 2,910 random rows and the spelling "imange"), RePOPE (YanNeu/RePOPE bcf22e5), POPEv2 (AoiDragon/POPE 08d957b).
POPE-Scenes (500 images) is ours, and named after the version of the rendered world.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from benchmarks.pope.types import Question

KNOWN: Mapping[str, Mapping[str, str]] = {
    "pope-coco@3df3ba1": {
        "random": "99bd9e6c35e8a963eee8b3ac04cd5fad7d8b343471cd05a68a667f7bac9a481a",
        "popular": "f68dfab6ff7607d1a92909de79016d6b50f462359d6fa56683b45e60acac5035",
        "adversarial": "533116115aa2119c535dcbd921762c83f8da911f52c668315f10903d0534c148",
    },
    "pope-aokvqa@3df3ba1": {
        "random": "2d9e7a8d9671ff3413e4338e3b04c7a3cc91ccc21bf254a87f74541f56e573b3",
        "popular": "ada76d9eb11363eb27ee8ccaaab27a27052caea6cfa7a67ca85cbb3b8168c77c",
        "adversarial": "74c2587a748fa60973dcbda199c39af6966da3a766c9351a06528c940666ef00",
    },
    "pope-gqa@3df3ba1": {
        "random": "2f30628491a02f28f8277738aeb7a8e177bcfb6a8e663f22349588143cef6193",
        "popular": "5cfbec747a2e40278010219d6c10c54b70c71e51de99786a3c47fa8257d53e2a",
        "adversarial": "6c5cb2562b44430885759a2324e410471d1dd158c481bb681f2945f4f4327d7e",
    },
    "pope-coco@e3e3926": {
        "random": "9982e6145c8357baf6e9f410705ba4b87afc5331275579caf4dc3bbe5fbef4b5",
        "popular": "c0e0f47dd0853ceb2c061ba454d05b11806405e7d46686129956a3cc00060bbb",
        "adversarial": "c11ea2983d1c117ce28c83e3a42024c2ff1b3a31bb34e603e9b19fcf23975a0d",
    },
    "repope-coco@bcf22e5": {
        "random": "82f21419bc7f022917ce1277b1bca0acea70533ad6bce5faa0abcf2239473847",
        "popular": "805ee2fdcd7f4126456f953d13984c009e0a6ee1a23c25a6fb1c7b9cb9be90fc",
        "adversarial": "ab7e3e49a7484b6207c4a7a33bfe8fbed42841c76d0fb3c0bc56f0a0305a595d",
    },
    "pope-scenes@2": {
        "random": "222e2acb6c580a0ffd9854798785cef4c0aa8736c397ec093f5b9a8cd623def6",
        "popular": "2524e05c08b99b57d8278547bfebb17b87773aa8dbeabd786ceabae5bad3a0aa",
        "adversarial": "1557ff4b08d856da4ff0950c098c8c066bdfc1990ac0c593ed30b82226e31df6",
    },
    "popev2@08d957b": {
        "popev2": "422bd2e3ff2d9fee28c07a0f654d3ff71e7d8b30d8318d4236561f745cdc0fdf",
    },
}
"""Hash of each split by the name of the published version."""

_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")


def image_stem(image: str) -> str:
    """The image's name without its ending, which some containers leave off; folders stay."""
    return _ENDING.sub("", image)


def content_sha256(questions: Iterable[Question]) -> str:
    """Hex SHA-256 of the sorted rows (split, image without its ending, question, label)."""
    rows = sorted(
        json.dumps([q.split, image_stem(q.image), q.text, "yes" if q.label else "no"], ensure_ascii=False)
        for q in questions
    )
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogatepass")).hexdigest()


def split_hashes(questions: Iterable[Question]) -> dict[str, str]:
    """The content hash of each split on its own."""
    splits: dict[str, list[Question]] = {}
    for question in questions:
        splits.setdefault(question.split, []).append(question)
    return {split: content_sha256(rows) for split, rows in splits.items()}


def data_version(questions: Iterable[Question]) -> str:
    """The published version that every split belongs to, else `custom:` and 12 hex digits of the content hash.

    Part of a version's splits is still that version; splits of two versions together are not.
    """
    rows = tuple(questions)
    found = split_hashes(rows)
    for name, splits in KNOWN.items():
        if found and all(splits.get(split) == value for split, value in found.items()):
            return name
    return f"custom:{content_sha256(rows)[:12]}"


def family(version: str) -> str | None:
    """The data set's family of a published version (`coco` for `pope-coco@3df3ba1`); None for custom content."""
    return version.split("@")[0].removeprefix("pope-") if version in KNOWN else None
