"""The options that every benchmark's command has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.vlm.choice import ModelChoice
from benchmarks.controls import IMAGE
from benchmarks.prompts import Template
from benchmarks.run_folder import RunFolder, default_folder


@dataclass(frozen=True)
class RunSettings:
    """How a benchmark is run on a model."""

    model: ModelChoice
    questions: tuple[str, ...]
    images: Path | None
    prompt: Template
    controls: tuple[str, ...]
    max_new_tokens: int
    limit: int | None
    seed: int
    draws: int
    out: Path | None
    fresh: bool
    verify: int
    json_out: str | None
    allow_partial: bool

    @property
    def decoding(self) -> dict[str, Any]:
        return {"greedy": True, "max_new_tokens": self.max_new_tokens}

    @property
    def conditions(self) -> tuple[str, ...]:
        return (IMAGE, *dict.fromkeys(self.controls))

    def folder(self, benchmark: str, data: str, parts: Sequence[str]) -> RunFolder:
        """The run's folder. `parts` are the splits or tasks it is confined to."""
        names = [benchmark, self.model.slug, data, self.prompt.name, *parts]
        return chosen_folder(self.out, names, self.model.dtype, self.limit)


def chosen_folder(out: Path | None, names: Sequence[str], dtype: str, limit: int | None) -> RunFolder:
    """The run folder the user named, or the default one: what a smaller trial leaves never replaces a whole run's.

    Args:
        out: as the user named it.
        names: what sets a run apart from others, in the order of the default folder's name.
        dtype: of the model.
        limit: of what is asked about, if there is one.
    """
    if out is not None:
        return RunFolder(out)
    trial = [dtype] * (dtype != "float32") + [f"limit{limit}"] * (limit is not None)
    return RunFolder(default_folder([*names, *trial]))
