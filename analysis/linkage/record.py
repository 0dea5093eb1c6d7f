"""What is recorded of a question: the columns of the Parquet parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.linkage.signals import MAPS, TOKENS

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
"""Raised where what is recorded, or its meaning, changes: an earlier version's records are left alone."""
MAP_COLUMNS = tuple(f"{token}_{name}" for token in TOKENS for name in MAPS)


def schema() -> pa.Schema:
    """One row a question; the numbers of attention maps as lists, layer by layer, the layers' mean map last."""
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    hiding = pa.struct(
        [
            ("what", pa.string()),
            ("how", pa.string()),
            ("share", pa.float32()),
            ("draw", pa.int32()),
            ("cells", pa.int32()),
            ("tokens", pa.float32()),
            ("pixels", pa.float32()),
            ("on_object", pa.float32()),
            ("margin", pa.float64()),
        ]
    )
    return pa.schema(
        [
            ("group", pa.string()),
            ("image", pa.string()),
            ("cluster", pa.string()),
            ("question", pa.string()),
            ("prompt", pa.string()),
            ("ids", pa.list_(pa.string())),
            ("splits", pa.list_(pa.string())),
            ("category", pa.string()),
            ("label", pa.bool_()),
            ("annotated", pa.bool_()),
            ("answer", pa.string()),
            ("read", pa.string()),
            ("error", pa.string()),
            ("logp_yes", pa.float64()),
            ("logp_no", pa.float64()),
            ("prior", pa.float64()),
            ("size", pa.float64()),
            ("grid", pa.list_(pa.int32())),
            ("layers", pa.list_(pa.int32())),
            ("word_token", pa.string()),
            ("last_token", pa.string()),
            *((column, floats) for column in MAP_COLUMNS),
            ("similarity_word", pa.float32()),
            ("similarity_question", pa.float32()),
            ("causal", pa.string()),
            ("hidings", pa.list_(hiding)),
        ]
    )
