"""From plain settings to a `StageSpec`: names, types and ranges, each fault with its place and what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agevlm.errors import TrainError
from train.spec import DICE_FORMS, Guidance, ParameterGroup, Regions, SourceSpec, StageSpec

CHOICES: dict[str, tuple[Any, ...]] = {
    "fusion": ("cross", "concat"),
    "precision": ("float32", "bfloat16"),
    "stage": (1, 2, 3, 4),
    "guidance.form": DICE_FORMS,
    "guidance.tokens": ("last", "first", "all"),
}
AT_LEAST: dict[str, float] = {
    **dict.fromkeys(("steps", "batch_size", "micro_batch_size", "max_length", "save_every", "keep", "log_every"), 1),
    **dict.fromkeys(("seed", "data_seed", "workers", "overlay_every", "text_loss_weight", "guidance.weight"), 0),
    **dict.fromkeys(("max_bad_steps", "planned_guided", "guidance.warmup_steps", "sources.*.weight"), 0),
    "trainable.*.weight_decay": 0,
    **dict.fromkeys(("overlay_images", "planned_samples", "tokens_per_sample"), 1),
}
SHARES = (
    *("warmup_share", "final_lr_share", "max_bad_samples"),
    *("regions.share", "regions.batch_share", "guidance.noise"),
)
ABOVE_ZERO = ("clip", "trainable.*.lr")


class ConfigError(TrainError):
    """A stage file or setting that cannot be used."""


@dataclass(frozen=True)
class Where:
    """Which file a stage is from, and which of the files it extends a setting is from."""

    file: str
    origin: Callable[[Sequence[str]], str | None] = lambda _: None

    def fault(self, path: Sequence[str], says: str) -> ConfigError:
        """An error about the setting at this path."""
        origin = self.origin(path)
        inherited = f" (from {origin})" if origin not in (None, self.file) else ""
        return ConfigError(f"{self.file}: {'.'.join(path) or 'the stage'}{inherited}: {says}")


def build_spec(values: Mapping[str, Any], where: Where) -> StageSpec:
    """A checked stage.

    Raises:
        ConfigError: names the first setting that is unknown, missing, of a wrong type or out of range.
    """
    spec: StageSpec = build(StageSpec, values, (), where)
    _check(spec, where)
    return spec


def build(kind: Any, values: Any, path: tuple[str, ...], where: Where) -> Any:
    """A frozen dataclass of plain settings, each of its declared type; ranges are not checked.

    Raises:
        ConfigError: names the first setting that is unknown (and the nearest known one), missing or of a wrong type.
    """
    if not isinstance(values, Mapping):
        raise where.fault(path, f"expected a mapping of settings, not {values!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}"
            raise where.fault((*path, str(key)), f"no such setting; {hint}")
    hints = typing.get_type_hints(kind)
    given = {key: _convert(hints[key], value, (*path, key), where) for key, value in values.items()}
    required = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in given
    ]
    if required:
        raise where.fault(path, f"missing: {', '.join(required)}")
    return kind(**given)


def _convert(hint: Any, value: Any, path: tuple[str, ...], where: Where) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is types.UnionType:
        (inner,) = [a for a in arguments if a is not type(None)]
        return None if value is None else _convert(inner, value, path, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, path, where)
    if origin is tuple:
        return _sequence(arguments, value, path, where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise where.fault(path, f"expected a mapping, not {value!r}")
        return {key: _convert(arguments[1], entry, (*path, key), where) for key, entry in value.items()}
    return _plain(hint, value, path, where)


def _sequence(arguments: tuple[Any, ...], value: Any, path: tuple[str, ...], where: Where) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise where.fault(path, f"expected a list, not {value!r}")
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise where.fault(path, f"expected {len(arguments)} values, not {value!r}")
    return tuple(_convert(arguments[0], entry, (*path, str(i)), where) for i, entry in enumerate(value))


NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _plain(kind: type, value: Any, path: tuple[str, ...], where: Where) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise where.fault(path, f"expected {NAMES[kind]}, not {value!r}")
    return value


def _check(spec: StageSpec, where: Where) -> None:
    for path, value in _leaves(spec, ()):
        _check_value(".".join("*" if _free(path, i) else key for i, key in enumerate(path)), value, path, where)
    if spec.batch_size % spec.micro_batch_size:
        says = f"{spec.batch_size} is no multiple of micro_batch_size {spec.micro_batch_size}"
        raise where.fault(("batch_size",), says)
    if not spec.follows or any(not 0 <= stage <= 4 for stage in spec.follows):
        raise where.fault(("follows",), f"stages from 0 to 4, at least one, not {list(spec.follows)}")
    if any(not 0 <= beta < 1 for beta in spec.betas):
        raise where.fault(("betas",), f"two numbers from 0 to below 1, not {list(spec.betas)}")
    for name in ("name", "arm", "init_from", "out"):
        if not getattr(spec, name).strip():
            raise where.fault((name,), "an empty text")
    if not spec.trainable:
        raise where.fault(("trainable",), "nothing is trained; name at least one group")
    if not any(source.weight > 0 for source in spec.sources):
        raise where.fault(("sources",), "no data; name at least one source of a weight above 0")
    _check_groups(spec.trainable, where)
    if spec.guidance is not None and spec.fusion != "cross":
        says = "guidance is for cross-attention, and fusion 'concat' has none; take it out (guidance: null)"
        raise where.fault(("guidance",), says)
    if spec.planned_guided is not None and spec.planned_guided > (spec.planned_samples or 0):
        says = f"{spec.planned_guided} is more than planned_samples {spec.planned_samples}"
        raise where.fault(("planned_guided",), says)


def _check_groups(groups: Mapping[str, ParameterGroup], where: Where) -> None:
    seen: dict[str, str] = {}
    for name, group in groups.items():
        if not group.modules:
            raise where.fault(("trainable", name, "modules"), "an empty list; name at least one module path")
        for module in group.modules:
            if not all(module.split(".")):
                raise where.fault(("trainable", name, "modules"), f"{module!r} is no module path")
            if module in seen:
                says = f"{module} stands in group {seen[module]} already; a parameter has one group"
                raise where.fault(("trainable", name, "modules"), says)
            seen[module] = name


def _leaves(value: Any, path: tuple[str, ...]) -> typing.Iterator[tuple[tuple[str, ...], Any]]:
    """Every plain value of the stage with its path; the options of a source are its own matter."""
    if isinstance(value, StageSpec | Guidance | ParameterGroup | Regions | SourceSpec):
        for f in dataclasses.fields(value):
            if f.name != "options":
                yield from _leaves(getattr(value, f.name), (*path, f.name))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _leaves(entry, (*path, key))
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _leaves(entry, (*path, str(index)))
    else:
        yield path, value


def _free(path: tuple[str, ...], index: int) -> bool:
    """Whether this part of a path is a name of the user's or a number."""
    return index == 1 and path[0] in ("trainable", "sources")


def _check_value(rule: str, value: Any, path: tuple[str, ...], where: Where) -> None:
    if value is None:
        return
    if rule in CHOICES and value not in CHOICES[rule]:
        near = difflib.get_close_matches(str(value), map(str, CHOICES[rule]), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise where.fault(path, f"{value!r} is unknown: give one of {', '.join(map(str, CHOICES[rule]))}{hint}")
    if rule in AT_LEAST and value < AT_LEAST[rule]:
        raise where.fault(path, f"{value} is too small: at least {AT_LEAST[rule]:g}")
    if rule in ABOVE_ZERO and value <= 0:
        raise where.fault(path, f"{value} must be above 0")
    if rule in SHARES and not 0 <= value <= 1:
        raise where.fault(path, f"{value} is no share: give a number from 0 to 1")
    if rule == "guidance.threshold" and not 0 <= value < 1:
        raise where.fault(path, f"{value}: a coverage from 0 to below 1")
