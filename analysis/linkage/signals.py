"""What one token's attention map says, as numbers: pure functions of the map, the image's cells and the masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Signal:
    """A number of a question that may tell how it is answered."""

    column: str
    label: str
    """For tables and figures."""
    group: str
    """answer, attention, similarity or data."""
    present_only: bool = False
    """Whether it needs the asked object's mask, so that questions about absent objects have none."""


TOKENS = {"word": "object word", "last": "last token"}
"""Which token looks: the last one of the object's name in the question, or the last of the prompt, which predicts the
answer."""
MAPS = {
    "in_mask": ("mass in the object", True),
    "lift": ("mass over area of the object", True),
    "on_objects": ("mass on any annotated object", False),
    "entropy": ("entropy", False),
    "peak": ("peak", False),
    "on_padding": ("mass on padding", False),
    "on_image": ("share on the image", False),
}
"""Numbers of a map, and whether they need the asked object's mask. See `of_map`."""
SIGNALS = (
    Signal("margin", "yes-margin", "answer"),
    Signal("confidence", "|yes-margin|", "answer"),
    Signal("prior", "co-occurrence prior", "data"),
    Signal("size", "object size", "data", present_only=True),
    *(
        Signal(f"{token}_{name}", f"{said}: {label}", "attention", present_only=masked)
        for token, said in TOKENS.items()
        for name, (label, masked) in MAPS.items()
    ),
    Signal("similarity_word", "similarity of the object word", "similarity"),
    Signal("similarity_question", "similarity of the question", "similarity"),
)
BY_COLUMN = {signal.column: signal for signal in SIGNALS}


def of_map(
    attention: Floats, elsewhere: float, coverage: Floats, mask: Floats | None, objects: Floats | None
) -> dict[str, float]:
    """The numbers of `MAPS`; NaN where one is not defined.

    With p the attention of the token to each cell, c the share of the cell that is image and m the share that a mask
    covers (attention is taken to be even within a cell):

        in_mask     sum p m / sum p c, 0 to 1: the share of the attention on the image that lies on the object
        lift        in_mask over the mask's share of the image, sum m / sum c; 1 for a flat map
        on_objects  as in_mask, for the union of all annotated objects
        entropy     -sum q log q / log K, q = p c / sum p c, K cells with image: 0 one cell, 1 flat
        peak        the largest q times K: 1 flat
        on_padding  sum p (1 - c) / (sum p + elsewhere): of the attention to visual tokens, the share on padding
        on_image    sum p c: of all of the token's attention, text included, the share on the image

    Args:
        attention: (rows, columns), from 0.
        elsewhere: attention to visual tokens that stand for no place.
        coverage: (rows, columns), see `Geometry.coverage`.
        mask: (rows, columns), see `Geometry.mask_to_grid`; None where the object is not there or has no mask.
        objects: the same of all annotated objects; None where there are no annotations.
    """
    p = np.asarray(attention, np.float64)
    on_image = float((p * coverage).sum())
    visual = float(p.sum()) + elsewhere
    found = dict.fromkeys(MAPS, float("nan"))
    found["on_image"] = on_image
    if visual > 0:
        found["on_padding"] = float((p * (1 - coverage)).sum()) / visual
    cells = int((coverage > 0).sum())
    if on_image <= 0 or cells < 2:
        return found
    q = p * coverage / on_image
    inside = q[q > 0]
    found["entropy"] = float(-(inside * np.log(inside)).sum() / np.log(cells))
    found["peak"] = float(q.max()) * cells
    if mask is not None and mask.sum() > 0:
        found["in_mask"] = float((p * mask).sum()) / on_image
        found["lift"] = found["in_mask"] / (float(mask.sum()) / float(coverage.sum()))
    if objects is not None:
        found["on_objects"] = float((p * objects).sum()) / on_image
    return found


def of_layers(
    attention: Floats, elsewhere: Floats, coverage: Floats, mask: Floats | None, objects: Floats | None
) -> dict[str, list[float]]:
    """The numbers of each layer's map, and, last, of the layers' mean map: lists of layers + 1.

    Args:
        attention: (layers, rows, columns).
        elsewhere: (layers,).
        coverage: as for `of_map`, and so are the masks.
        mask: of the object.
        objects: of all objects.
    """
    maps = [*attention, attention.mean(0)]
    rest = [*elsewhere, elsewhere.mean()]
    each = [of_map(m, float(e), coverage, mask, objects) for m, e in zip(maps, rest, strict=True)]
    return {name: [one[name] for one in each] for name in MAPS}
