"""Records as a table: one row a question, one number a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.linkage.record import MAP_COLUMNS
from benchmarks.reading import Label

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

LEFT_OUT = ("group", "hidings", "layers", "grid", "logp_yes", "logp_no")


def frame(table: pa.Table) -> pd.DataFrame:
    """The table of a model's questions, by image and question.

    Columns beside the recorded ones: `correct`, `hallucinated` (yes to an absent object; undefined for present ones),
    `missed` (no to a present one; undefined for absent ones), all undefined where the answer is neither yes nor no;
    `margin` (log p(yes) - log p(no) of the first token) and `confidence`, its absolute value. Numbers of attention
    maps are those of the layers' mean map.
    """

    made: pd.DataFrame = table.drop_columns([c for c in LEFT_OUT if c in table.column_names]).to_pandas()
    with np.errstate(invalid="ignore"):
        margin = np.asarray(table["logp_yes"].to_pandas() - table["logp_no"].to_pandas(), np.float64)
    made["margin"] = np.where(np.isfinite(margin), margin, np.nan)
    made["confidence"] = made["margin"].abs()
    for column in MAP_COLUMNS:
        made[column] = np.array([np.nan if v is None or not len(v) else v[-1] for v in made[column]], np.float64)
    for column in ("prior", "size", "similarity_word", "similarity_question"):
        made[column] = made[column].astype(np.float64)
    yes, no = made["read"] == str(Label.YES), made["read"] == str(Label.NO)
    label, readable = made["label"].astype(bool), yes | no
    made["correct"] = (yes == label).astype("boolean").where(readable)
    made["hallucinated"] = yes.astype("boolean").where(readable & ~label)
    made["missed"] = no.astype("boolean").where(readable & label)
    for column in ("ids", "splits"):
        made[column] = [" | ".join(v) for v in made[column]]
    first = ["image", "question", "category", "label", "answer", "read", "correct", "hallucinated", "missed", "margin"]
    made = made[[*first, *(c for c in made.columns if c not in first)]]
    return made.sort_values(["image", "question"], ignore_index=True)


def layer_values(table: pa.Table, column: str, layer: int) -> np.ndarray:
    """(questions,): a map's number in one layer (by its place in the list), in the order of `frame`; NaN for none."""
    order = np.lexsort((table["question"].to_pylist(), table["image"].to_pylist()))
    lists = table[column].to_pylist()
    values = [np.nan if not own or own[layer] is None else own[layer] for own in (lists[k] for k in order)]
    return np.asarray(values, np.float64)
