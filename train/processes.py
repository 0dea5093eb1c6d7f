"""The processes that train a stage together: how they were launched, and what they must have in common."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from agevlm import __version__
from agevlm.errors import AgeVlmError, TrainError
from train.config import spec_as_dict
from train.data.samples import Source
from train.spec import StageSpec

SHARDINGS = ("none", "full")
"""none: every process holds the whole model (DDP); full: each holds its share of every tensor (FSDP2)."""
PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others. Hashing a large checkpoint at the start and writing one take minutes."""

LOCAL = frozenset({"init_from", "out", "workers"})
"""Settings that processes may have each for itself; of the sources, their options (paths), as data count by content."""

T = TypeVar("T")


def connect(sharding: str | None = None, patience: timedelta = PATIENCE) -> tuple[Any, bool]:
    """Join the processes that torchrun or `accelerate launch` has started; alone where neither has.

    Args:
        sharding: one of `SHARDINGS`; None for what the accelerate configuration says, and none without one.
        patience: a process that hears nothing from another for so long ends with an error.

    Returns:
        accelerate's `Accelerator`, and whether parameters are to be sharded.

    Raises:
        TrainError: the configuration asks for what stages cannot do.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    asked = _configured() if sharding is None else sharding
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        # Without a GPU accelerate heeds torchrun only if it is told to: else each process would be a first one.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    with _plain():
        # Autocast is `TrainingModule`'s: accelerate would settle it once for all stages of a process.
        # Gradients that are views of DDP's buckets exist once, not twice.
        settings = [
            InitProcessGroupKwargs(timeout=patience),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ]
        accelerator = Accelerator(mixed_precision="no", kwargs_handlers=settings)
    return accelerator, asked == "full" and accelerator.num_processes > 1


def _configured() -> str:
    """The sharding that an accelerate configuration asks for."""
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if _flag(f"ACCELERATE_USE_{name}"):
            raise TrainError(f"the accelerate configuration asks for {name}; stages train with DDP or FSDP2 alone")
    if not _flag("ACCELERATE_USE_FSDP"):
        return "none"
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise TrainError(
            f"the accelerate configuration asks for FSDP {version}; write fsdp_version: 2 into its fsdp_config"
        )
    if _flag("FSDP_OFFLOAD_PARAMS"):
        raise TrainError("fsdp_offload_params is not supported; take it out of the accelerate configuration")
    if _flag("FSDP_ACTIVATION_CHECKPOINTING"):
        raise TrainError(
            "fsdp_activation_checkpointing is the stage's to say; take it out of the accelerate configuration and set "
            "gradient_checkpointing"
        )
    return "full"


@contextmanager
def _plain() -> Iterator[None]:
    """accelerate without its own FSDP, which knows no CPUs and a few classes of layers: `train.sharding` does it."""
    asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ["ACCELERATE_USE_FSDP"] = asked


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def count() -> int:
    """Processes that train together."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    import torch.distributed as dist

    return count() == 1 or dist.get_rank() == 0


def agree(decide: Callable[[], T]) -> T:
    """What the first process decides, or its error, on all processes."""
    box: list[Any] = [None, None]
    if is_first():
        try:
            box[0] = decide()
        except (AgeVlmError, OSError) as error:
            box[1] = error
    if count() > 1:
        import torch.distributed as dist

        dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    result: T = box[0]
    return result


def together(act: Callable[[], T]) -> T:
    """What each process makes for itself; if any fails, all raise: it its own error, the others the first one's."""
    try:
        made, error = act(), None
    except (AgeVlmError, OSError) as failed:
        made, error = None, failed
    errors = _gather(None if error is None else f"process {_name()}: {error}")
    if error is not None:
        raise error
    if found := [said for said in errors if said is not None]:
        raise TrainError(found[0])
    result: T = made  # type: ignore[assignment]
    return result


def check_same(spec: StageSpec, sources: Sequence[Source], sharded: bool) -> None:
    """See that all processes have the same settings, data and code. Weights are the first one's in any case.

    Raises:
        TrainError: on all of them, where one differs from the first one; it names the process, and what differs.
    """
    if count() == 1:
        return
    (first, wanted), *others = _gather((_name(), _facts(spec, sources, sharded)))
    for name, found in others:
        for what in [*wanted, *(found.keys() - wanted.keys())]:
            if wanted.get(what) != found.get(what):
                raise TrainError(
                    f"process {name} differs from process {first} in {what}: {found.get(what, 'none')}, not "
                    f"{wanted.get(what, 'none')}; give all processes the same"
                )


def _facts(spec: StageSpec, sources: Sequence[Source], sharded: bool) -> dict[str, str]:
    """What must be the same on all processes, in words."""
    import torch
    import transformers

    settings = {name: value for name, value in spec_as_dict(spec).items() if name not in LOCAL}
    kinds = [{"kind": source.kind, "weight": source.weight} for source in spec.sources]
    return {
        "--sharding": "full" if sharded else "none",
        **{f"setting {name}": json.dumps(value) for name, value in (settings | {"sources": kinds}).items()},
        **{
            f"the data of source {number}": f"{source.name}, {len(source)} samples ({source.fingerprint})"
            for number, source in enumerate(sources)
        },
        "agevlm": f"{__version__} (source files {_source_files()})",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@contextmanager
def company(out: Path) -> Iterator[None]:
    """What happens while processes wait for each other: one that another leaves alone ends with a TrainError.

    Args:
        out: run folder, named in the message.
    """
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as error:
        # Gloo's errors have no class of their own.
        if count() == 1 or not (isinstance(error, DistError) or "gloo" in str(error)):
            raise
        raise TrainError(
            f"process {_name()}: another process is gone, or was silent for longer than --patience ({_line(error)}). "
            "Its own message, if it had time for one, says why; go on from the last checkpoint with agevlm-train "
            f"resume {out}"
        ) from error


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(". This is ")[0]


def _gather(mine: Any) -> list[Any]:
    if count() == 1:
        return [mine]
    import torch.distributed as dist

    found: list[Any] = [None] * count()
    dist.all_gather_object(found, mine)
    return found


def _name() -> str:
    import torch.distributed as dist

    return f"{dist.get_rank() if count() > 1 else 0} on {socket.gethostname()}"


def _source_files() -> str:
    """A hash over the source files that training runs."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("agevlm", "train") for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
