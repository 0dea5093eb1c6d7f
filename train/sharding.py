"""Parameters that are spread over the processes (FSDP2), and tensors that are whole on the first one alone.

torch's `fully_shard` puts DTensors in the place of parameters: each process holds its rows of every tensor, and those
of a unit are brought together when its forward or backward pass needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from train.processes import count, is_first


def shard(module: Any, device: torch.device) -> None:
    """Shard a `TrainingModule` over all processes, in place, and fill it with the first one's tensors.

    Optimisers are built afterwards, for the parameters that are then in it. A unit is one vision block, the adapter,
    one layer of the fused stack, or, where they are not tied, the embeddings and the language head; what is left
    belongs to the module itself and is whole as long as it runs.

    Args:
        module: on the CPU; on other processes than the first one its tensors need no content.
        device: of this process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Detached: `fully_shard` moves what parameters hold.
    whole = {name: tensor.detach() for name, tensor in _named(module).items()} if is_first() else {}
    mesh = init_device_mesh(device.type, (count(),))
    for unit in units(module.model):
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name, tensor in _named(module).items():
        put(tensor, whole.pop(name, None))


def units(model: Any) -> list[nn.Module]:
    """Modules of an `AgeVlmForConditionalGeneration` whose parameters are brought together at once."""
    stack, trunk = model.model.language_model, model.model.vision_tower.trunk
    blocks = [block for stage in getattr(trunk, "stages", ()) for block in getattr(stage, "blocks", [stage])]
    # Tied, they are one parameter of two modules, and used at both ends of the stack.
    tied = model.lm_head.weight is stack.embed_tokens.weight
    ends = [] if tied else [stack.embed_tokens, model.lm_head]
    return [*blocks, model.model.adapter, *ends, *stack.layers]


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whole, on every process. All of them must call this alike."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(target: torch.Tensor, value: torch.Tensor | None) -> None:
    """Copy what the first process gives into a tensor, sharded or not, of all processes.

    Args:
        target: of this process.
        value: whole, of `target`'s shape; needed on the first process alone.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if count() == 1:
        assert value is not None
        target.copy_(value)
        return
    if value is None:
        sent = torch.empty(target.shape, dtype=target.dtype, device=target.device)
    else:
        sent = value.to(target.device, target.dtype).contiguous()
    if isinstance(target, DTensor):
        target.copy_(distribute_tensor(sent, target.device_mesh, target.placements))
    else:
        torch.distributed.broadcast(sent, src=0)
        target.copy_(sent)


def gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole copies on the CPU of the first process; nothing on others. All of them must call this alike.

    One tensor at a time is whole on the device.
    """
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        whole = full(tensor.detach())
        if is_first():
            kept[name] = whole.cpu().contiguous()
    return kept


def assembled(model: Any) -> Any:
    """A plain copy of a sharded model on the CPU of the first process; None on others. For all to call alike."""
    tensors = gathered(_named(model))
    if not is_first():
        return None
    plain = blank(model.config)
    fill(plain, tensors)
    return plain


def blank(config: Any) -> Any:
    """An `AgeVlmForConditionalGeneration` in eval mode whose parameters have shapes alone (meta); buffers are real."""
    from accelerate import init_empty_weights

    from agevlm.model import AgeVlmForConditionalGeneration

    with init_empty_weights(include_buffers=False):
        model = AgeVlmForConditionalGeneration._from_config(config, dtype=torch.float32)
    model.tie_weights()
    return model.eval()


def fill(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors in the place of a model's parameters and stored buffers."""
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()


def _named(module: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those that are never stored included; a tied one by its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
