"""Where a checkpoint comes from: the stages it went through, and whether the next one may start from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agevlm.errors import TrainError
from train.spec import StageSpec

RECORD = "training.json"
"""Beside a trained model's weights: the record of its last stage, and under `lineage` those before, oldest first."""
UNTRAINED = "an assembled, untrained model"


def read_record(folder: Path) -> dict[str, Any] | None:
    """A model folder's training.json; None if it was never trained. Raises TrainError if it is damaged."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("stage"), int):
            raise ValueError("not the record of a stage")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TrainError(f"{path}: cannot be read ({error}); export the checkpoint again") from None
    return record


def check_lineage(spec: StageSpec, init_from: str | Path) -> list[dict[str, Any]]:
    """See that a stage may start from a checkpoint.

    Args:
        spec: of the stage.
        init_from: the checkpoint's folder.

    Returns:
        Records of the stages behind it, oldest first; none for an assembled model.

    Raises:
        TrainError: no checkpoint there, one of another fusion, or one whose last stage this one does not follow.
    """
    folder = Path(init_from).expanduser()
    if not (folder / "config.json").is_file():
        hint = "it is a run folder: give the model folder in it" if (folder / "model").is_dir() else "give --init-from"
        raise TrainError(f"stage {spec.stage} ({spec.name}) starts from {folder}, but no checkpoint is there; {hint}")
    try:
        fusion = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("fusion", "cross")
    except (OSError, ValueError) as error:
        raise TrainError(f"{folder / 'config.json'}: cannot be read: {error}") from None
    if fusion != spec.fusion:
        raise TrainError(
            f"stage {spec.stage} ({spec.name}) of {spec.arm} is for fusion {spec.fusion!r}, but {folder} is of fusion "
            f"{fusion!r}; start from a checkpoint of this arm"
        )
    record = read_record(folder)
    stage = 0 if record is None else int(record["stage"])
    if stage not in spec.follows:
        wanted = " or ".join(UNTRAINED if n == 0 else f"stage {n}'s checkpoint" for n in spec.follows)
        found = UNTRAINED if record is None else f"of stage {stage} ({record.get('name')})"
        raise TrainError(
            f"stage {spec.stage} ({spec.name}) starts from {wanted}, but {folder} is {found}; give another checkpoint"
        )
    if record is None:
        return []
    return [*record.get("lineage", []), {key: value for key, value in record.items() if key != "lineage"}]
