"""Run folders of analyses that are finished already, taken instead of running them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agevlm.errors import DataError
from agevlm.vlm.choice import ModelChoice
from benchmarks.run_folder import RunFolder

KINDS = ("similarity", "padding", "grounding")


class Used:
    """Finished runs, by analysis and model."""

    def __init__(self, folders: Sequence[Path], models: Sequence[ModelChoice]) -> None:
        """Open run folders.

        Args:
            folders: of `similarity`, `padding` or `grounding`.
            models: those that the table is about.

        Raises:
            DataError: a folder holds no finished run of these, none of the models, one under the same name with other
                weights or settings, or a model for the second time.
        """
        self._found: dict[tuple[str, str], tuple[Path, Mapping[str, Any]]] = {}
        for folder in folders:
            manifest, content = RunFolder(folder).manifest(), _scores(folder)
            kind = manifest.get("benchmark")
            if kind not in KINDS or content is None:
                raise DataError(f"--use {folder}: holds no finished run of {', '.join(KINDS)}")
            held = manifest.get("models", {})
            mine = [model for model in models if model.name in held]
            if not mine:
                raise DataError(f"--use {folder}: is about {', '.join(held) or 'no model'}, not about any --ckpt")
            for model in mine:
                if held[model.name].get("fingerprint") != model.fingerprint().digest:
                    raise DataError(
                        f"--use {folder}: its {model.name} had other weights or settings; give that run again"
                    )
                if (kind, model.name) in self._found:
                    raise DataError(f"--use {folder}: {kind} of {model.name} is in another --use, too; give one")
                self._found[kind, model.name] = folder, content

    def get(self, kind: str, model: ModelChoice) -> tuple[Path, Mapping[str, Any]] | None:
        """The folder and the scores of one analysis of one model, if given."""
        return self._found.get((kind, model.name))


def _scores(folder: Path) -> Mapping[str, Any] | None:
    try:
        content: Mapping[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"--use {folder}: cannot read scores.json: {error}") from None
    return content
