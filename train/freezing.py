"""Which parameters a stage trains: module paths to parameters, by whole components and never by substring."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agevlm.errors import TrainError
from train.spec import ParameterGroup

ANY = "*"


@dataclass(frozen=True, eq=False)
class Resolved:
    """A parameter group with its parameters."""

    name: str
    lr: float
    weight_decay: float
    parameters: Mapping[str, Any]
    """torch parameters by name, in the model's order; a tied weight by its first name."""

    @property
    def count(self) -> int:
        """Numbers trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())


def resolve(model: Any, trainable: Mapping[str, ParameterGroup]) -> tuple[Resolved, ...]:
    """Parameters of each group, in the order of the groups. Works on the meta device too.

    A parameter that paths of two groups lead to belongs to the longest path, so that a group for
    `model.language_model.layers.*.attn_gate` takes the gates out of a group for `model.language_model.layers.2`.

    Raises:
        TrainError: no groups, a path that leads to no parameter, two groups whose equally long paths lead to the same
            parameter, or a group of which others have taken everything.
    """
    if not trainable:
        raise TrainError("the stage trains nothing: give it parameter groups (trainable:)")
    first: dict[int, str] = {}
    names: list[tuple[tuple[str, ...], int]] = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
        names.append((tuple(name.split(".")), id(parameter)))
    claims: dict[int, dict[str, int]] = {}
    for group, settings in trainable.items():
        if not settings.modules:
            raise TrainError(f"parameter group {group} names no modules")
        for path in settings.modules:
            pattern = tuple(path.split("."))
            reached = {number for name, number in names if _leads(pattern, name)}
            if not reached:
                raise TrainError(_no_match(group, path, [name for name, _ in names]))
            for number in reached:
                held = claims.setdefault(number, {})
                held[group] = max(held.get(group, 0), len(pattern))
    owners = {number: _owner(first[number], held) for number, held in claims.items()}
    parameters = dict(model.named_parameters())
    groups = []
    for group, settings in trainable.items():
        own = {name: p for name, p in parameters.items() if owners.get(id(p)) == group}
        if not own:
            raise TrainError(f"parameter group {group}: other groups have longer paths to all of its parameters")
        groups.append(Resolved(group, settings.lr, settings.weight_decay, own))
    return tuple(groups)


def trainable_names(model: Any, trainable: Mapping[str, ParameterGroup]) -> tuple[str, ...]:
    """Names of all trained parameters in the model's order. Errors as `resolve`."""
    wanted = {name for group in resolve(model, trainable) for name in group.parameters}
    return tuple(name for name, _ in model.named_parameters() if name in wanted)


def freeze(model: Any, groups: tuple[Resolved, ...], gradient_checkpointing: bool = False) -> None:
    """Let gradients reach the groups' parameters and no others, and put the model into the mode for training.

    That is eval mode: nothing here needs another (no dropout), and statistics of the vision trunk's norms must not
    move, whether it is trained or not. Gradient checkpointing asks modules if they train, so those say yes, one by one:
    all text layers, as frozen ones keep what they need to pass gradients on, and of the others those that train.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    wanted = {id(parameter) for group in groups for parameter in group.parameters.values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    model.eval()
    if gradient_checkpointing:
        # Its name since transformers 5.2x, and the one before.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
        for module in model.modules():
            trains = any(parameter.requires_grad for parameter in module.parameters())
            if isinstance(module, GradientCheckpointingLayer) or (hasattr(module, "gradient_checkpointing") and trains):
                module.training = True


def _leads(pattern: tuple[str, ...], name: tuple[str, ...]) -> bool:
    return len(pattern) <= len(name) and all(want in (ANY, have) for want, have in zip(pattern, name, strict=False))


def _owner(name: str, held: Mapping[str, int]) -> str:
    longest = max(held.values())
    best = [group for group, length in held.items() if length == longest]
    if len(best) > 1:
        raise TrainError(
            f"parameter groups {' and '.join(best)} both lead to {name} by equally long paths; make the path of the "
            "one that shall have it more precise"
        )
    return best[0]


def _no_match(group: str, path: str, names: list[tuple[str, ...]]) -> str:
    """A message with the nearest path there is."""
    here, good = names, 0
    parts = path.split(".")
    while good < len(parts):
        further = [name for name in here if len(name) > good and parts[good] in (ANY, name[good])]
        if not further:
            break
        here, good = further, good + 1
    children = sorted({name[good] for name in here if len(name) > good})
    stem = ".".join(parts[:good])
    if not children or good == len(parts):
        return f"parameter group {group}: {path} leads to no parameter; {stem} has nothing below it"
    near = difflib.get_close_matches(parts[good], children, n=1, cutoff=0.0)[0]
    return (
        f"parameter group {group}: {path} leads to no parameter of this model; the nearest is "
        f"{'.'.join([*parts[:good], near])} ({stem or 'the model'} has {', '.join(children[:12])}"
        f"{', ...' if len(children) > 12 else ''})"
    )
