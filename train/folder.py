"""The run folder of a stage: one process group owns it, and it says what a run there is of.

run.json       settings, data and starting checkpoint of the run
checkpoints/   see `train.state`
model/         the trained model, once the stage is complete
lock           held while a command owns the folder
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm import __version__
from agevlm.errors import TrainError
from train import state
from train.config import NOT_MATHS, spec_as_dict, spec_hash
from train.data.samples import Source
from train.lineage import check_lineage, read_record
from train.spec import StageSpec

RUN, LOCK, MODEL = "run.json", "lock", "model"
MAY_CHANGE = NOT_MATHS | {"steps", "micro_batch_size", "gradient_checkpointing"}
"""Settings that a resumed run may change: the others would make it a run of something else."""


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    step: int
    """Steps done."""
    checkpoint: Path | None
    """Of these steps; None at the beginning."""
    finished: bool
    """Nothing is left to do."""
    identity: Mapping[str, Any]
    """What the run is of; goes into run.json and every checkpoint."""
    lineage: Sequence[Mapping[str, Any]]
    """Records of the stages before."""


class Lock:
    """Ownership of a run folder, for as long as the process lives or until it is released."""

    def __init__(self, out: Path) -> None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
            raise TrainError(f"run folder {out}: {error.strerror}; give another --out") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 1000, 0).decode("utf-8", "replace").strip() or "another command"
            os.close(self._fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
                raise
            raise TrainError(f"run folder {out} is in use by {owner}; wait for it or give another --out") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Give the folder back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def identify(spec: StageSpec, sources: Sequence[Source]) -> dict[str, Any]:
    """What a run is of: settings, data and starting weights, as JSON."""
    from agevlm.vlm.fingerprint import fingerprint_folder

    base = Path(spec.init_from).expanduser()
    return {
        "agevlm": __version__,
        "spec": spec_as_dict(spec),
        "spec_hash": spec_hash(spec),
        "init_from": str(base.resolve()),
        "base": fingerprint_folder(base, {}).digest,
        "data": [[source.name, source.fingerprint, len(source)] for source in sources],
    }


def begin(spec: StageSpec, sources: Sequence[Source], resume: bool) -> Start:
    """Find out where a run in `spec.out` begins, and write run.json. Only for the folder's owner.

    Raises:
        TrainError: a run is there and `resume` is not asked for; it is a run of something else; or `init_from` is no
            checkpoint that the stage may start from.
    """
    out = Path(spec.out).expanduser()
    lineage = check_lineage(spec, spec.init_from)
    identity = identify(spec, sources)
    before, record = _earlier(out), read_record(out / MODEL)
    # What failed before its first checkpoint left nothing to go on from: it may begin anew, and differently.
    worth = before is not None and (record is not None or state.latest(out) is not None)
    if worth and not resume:
        done = "a finished run" if record else "an unfinished run"
        raise TrainError(
            f"run folder {out}: holds {done}; go on with it by agevlm-train resume {out}, or give another --out"
        )
    if before is not None and worth:
        _same(out, before, identity)
    state.clean(out)
    checkpoint = state.latest(out)
    step = 0 if checkpoint is None else int(state.read_state(checkpoint)["step"])
    trained = 0 if record is None else int(record.get("steps", 0))
    if max(step, trained) > spec.steps:
        raise TrainError(f"run folder {out}: {max(step, trained)} steps are done, more than the {spec.steps} asked for")
    if trained < spec.steps and trained > step:
        raise TrainError(
            f"run folder {out}: its model had {trained} steps, but the checkpoint to go on from is gone; start a new "
            "run with another --out"
        )
    finished = trained == spec.steps
    if not finished:
        path = out / f".{RUN}"
        path.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        path.replace(out / RUN)
    return Start(step, checkpoint, finished, identity, lineage)


def _earlier(out: Path) -> dict[str, Any] | None:
    """run.json of the run that is there."""
    try:
        return dict(json.loads((out / RUN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        if state.latest(out) is not None:
            raise TrainError(f"run folder {out}: has checkpoints, but no {RUN}; give another --out") from None
        return None
    except (OSError, ValueError) as error:
        raise TrainError(f"{out / RUN}: cannot be read ({error}); give another --out") from None


def _same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise TrainError, with what differs, if a run that was begun is not the one to go on with."""
    old, new = before["spec"], now["spec"]
    changed = [key for key in sorted({*old, *new} - MAY_CHANGE) if old.get(key) != new.get(key)]
    said = [f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in changed]
    if before["base"] != now["base"]:
        said.append(f"the checkpoint it starts from is another: it was {before['init_from']}, is {now['init_from']}")
    for then, here in zip(before["data"], now["data"], strict=False):
        if list(then) != list(here):
            said.append(f"the data of source {then[0]} were {then[2]} samples ({then[1]}), are {here[2]} ({here[1]})")
    if said:
        raise TrainError(f"run folder {out}: cannot go on, it is a run of something else: {'; '.join(said)}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "..."
