"""How much each score moves when masks are wrong: the same maps against distorted masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from agevlm.data.masks import Mask, mask_iou
from agevlm.data.noise import Noise, distort
from analysis.grounding.records import HEADLINE, KINDS, Look, looks_by_image
from analysis.grounding.results import SHOWN, Results, differences, plain
from analysis.grounding.scoring import score_all


def under_noise(clean: Results, table: Any, noise: Noise, seed: int, *, remove_sinks: bool = False) -> dict[str, Any]:
    """Scores of one model's looks against distorted masks, the mean over layers alone.

    Args:
        clean: the same looks against the masks as they are.
        table: their records.
        noise: kind and level; see `agevlm.data.noise`. A swapped mask is another image's of the same group.
        seed: of the noise.
        remove_sinks: as it was for `clean`.

    Returns:
        `scores` beside their nulls, `change` (noisy minus clean on the looks that have a mask left, paired; for drop,
        which leaves each look as it is, of those left minus of all), how many masks are `lost`, and `agreement`, the
        mean IoU in pixels of distorted and true masks.
    """
    agreement: dict[str, float] = {}

    def distorted(look: Look, lent: Mask | None) -> Mask | None:
        noisy = distort(look.mask, noise, Random(f"mask-noise:{seed}:{look.id}"), lent)
        kept = None if noisy is None or not noisy.any() else noisy
        if kept is not None:
            agreement[look.id] = mask_iou(kept, look.mask)
        return kept

    scored = score_all(lambda: _means(table), seed=seed, remove_sinks=remove_sinks, distort=distorted)
    total = int(clean.headline.sum())
    about = set(np.asarray(clean.scored.ids)[clean.headline])
    if scored is None or about.isdisjoint(scored.ids):
        return {"left_out": "no mask is left", "lost": total}
    noisy = Results(scored, clean.images, seed)
    # By itself it would turn to the abstract groups where the others lost all their masks.
    noisy.headline = np.isin(scored.ids, sorted(about))
    return {
        "lost": total - int(noisy.headline.sum()),
        "agreement": float(np.mean([agreement[name] for name in np.asarray(scored.ids)[noisy.headline]])),
        "scores": noisy.cells(noisy.headline, scores=SHOWN),
        "change": _moved(noisy, clean) if noise.kind == "drop" else differences(noisy, clean),
    }


def _moved(noisy: Results, clean: Results) -> dict[str, Any]:
    kind = KINDS.index(HEADLINE)
    sides = [(one, one.headline, list(one.names[one.headline])) for one in (noisy, clean)]
    found: dict[str, Any] = {"n": int(noisy.headline.sum())}
    for score in SHOWN:
        (a, mine), (b, theirs) = ((one.scored.scores[score][chosen, kind, 0], names) for one, chosen, names in sides)
        found[score] = plain(clean.images.moved(a, mine, b, theirs))
    return found


def _means(table: Any) -> Iterator[tuple[str, Sequence[Look]]]:
    """Looks with the mean over layers alone."""
    for image, looks in looks_by_image(table):
        yield (
            image,
            [
                replace(one, layers=one.layers[:1], maps=one.maps[:, :1], elsewhere=one.elsewhere[:, :1], heads=None)
                for one in looks
            ],
        )
