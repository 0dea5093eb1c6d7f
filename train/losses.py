"""How far attention is from a region: losses to train on, and measures to look at.

All take attention `p` (P, N), rows of which sum to 1, and the region's coverage `m` (P, N) of the same cells, 0 to 1;
all give one number a row, (P,). Rows are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

TINY = 1e-6
"""Keeps quotients finite; far below any attention that a loss could tell apart."""


def literal(p: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """The paper's Dice, 1 - 2 sum(p m) / (sum p + sum m), for a 0/1 mask.

    Attention sums to 1, so a region of A cells leaves it no lower than 1 - 2 / (1 + A).
    """
    return _dice(p, m)


def area(p: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Dice of min(1, A p), A the region's area: 1 in every cell of attention spread evenly over the region."""
    return _dice((p * m.sum(-1, keepdim=True)).clamp(max=1.0), m)


def maximum(p: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Dice of attention over its own maximum."""
    return _dice(p / p.amax(-1, keepdim=True).clamp(min=TINY), m)


def squared(p: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """V-Net's Dice (squares below the line; Milletari et al. 2016) of p against t = m / sum m: 0 where p = t."""
    t = m / m.sum(-1, keepdim=True).clamp(min=TINY)
    return 1 - 2 * (p * t).sum(-1) / (p.square().sum(-1) + t.square().sum(-1)).clamp(min=TINY)


def mass(p: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """-log of the attention inside; cells count by their coverage, relative to the best covered one.

    The only form whose gradient does not vanish where attention sits on one cell outside.
    """
    inside = (p * (m / m.amax(-1, keepdim=True).clamp(min=TINY))).sum(-1)
    return -((inside + TINY) / (1 + TINY)).log()


def _dice(q: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    return 1 - 2 * (q * m).sum(-1) / (q.sum(-1) + m.sum(-1)).clamp(min=TINY)


FORMS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "literal": literal,
    "area": area,
    "max": maximum,
    "squared": squared,
    "mass": mass,
}
"""By their names in `Guidance.form`."""


@dataclass(frozen=True)
class Looks:
    """Where attention lies, whatever the loss; each (P,), 0 to 1."""

    iou: torch.Tensor
    """Overlap of the cells of at least half the strongest attention with the region's."""
    mass: torch.Tensor
    """Attention inside the region's cells."""
    pointing: torch.Tensor
    """1 where the strongest attention is on a cell of the region."""
    padding: torch.Tensor
    """Attention on cells that hold no image."""


@torch.no_grad()
def measure(p: torch.Tensor, m: torch.Tensor, shown: torch.Tensor) -> Looks:
    """Measures of attention against regions, without gradients.

    A region's cells are those of at least half its best coverage, so that small objects have some.

    Args:
        p: (P, N) attention.
        m: (P, N) coverage.
        shown: (P, N) bool: cells that hold any image.
    """
    cells = (m > 0) & (m >= 0.5 * m.amax(-1, keepdim=True))
    peak = p >= 0.5 * p.amax(-1, keepdim=True)
    together = (cells & peak).sum(-1) / (cells | peak).sum(-1).clamp(min=1)
    return Looks(
        iou=together.to(p.dtype),
        mass=(p * cells).sum(-1),
        pointing=cells.gather(-1, p.argmax(-1, keepdim=True)).squeeze(-1).to(p.dtype),
        padding=(p * ~shown).sum(-1),
    )
