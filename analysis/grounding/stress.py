"""How much each score moves when masks are wrong: the same maps against distorted masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from agevlm.data.masks import Mask, mask_iou
from agevlm.data.noise import Noise, distort
from analysis.grounding.records import Look, looks_by_image
from analysis.grounding.results import SHOWN, Results, differences
from analysis.grounding.scoring import score_all


def under_noise(clean: Results, table: Any, noise: Noise, seed: int) -> dict[str, Any]:
    """Scores of one model's looks against distorted masks, the mean over layers alone.

    Args:
        clean: the same looks against the masks as they are.
        table: their records.
        noise: kind and level; see `agevlm.data.noise`. A swapped mask is another image's of the same group.
        seed: of the noise.

    Returns:
        `scores` beside their nulls, `change` (noisy minus clean on the looks that have a mask left, paired), how many
        masks are `lost`, and `agreement`, the mean IoU in pixels of distorted and true masks.
    """
    agreement: dict[str, float] = {}

    def distorted(look: Look, lent: Mask | None) -> Mask | None:
        noisy = distort(look.mask, noise, Random(f"mask-noise:{seed}:{look.id}"), lent)
        kept = None if noisy is None or not noisy.any() else noisy
        if kept is not None:
            agreement[look.id] = mask_iou(kept, look.mask)
        return kept

    scored = score_all(lambda: _means(table), seed=seed, distort=distorted)
    total = int(clean.headline.sum())
    if scored is None:
        return {"left_out": "no mask is left", "lost": total}
    noisy = Results(scored, clean.images, seed)
    return {
        "lost": total - int(noisy.headline.sum()),
        "agreement": float(np.mean([agreement[name] for name in np.asarray(scored.ids)[noisy.headline]])),
        "scores": noisy.cells(noisy.headline, scores=SHOWN),
        "change": differences(noisy, clean),
    }


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
