"""Stages as YAML files: reading them, and saying precisely what is wrong with one.

A file may extend others (`extends: ../base.yaml`, or a list whose later files win; relative to itself): mappings merge,
everything else is replaced, and null takes an entry out. `${name}` stands for an entry of `vars:` or for one of the
stage's own plain settings, as in `out: runs/${arm}/${name}`. Other paths are relative to the current folder.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from train.spec import StageSpec
from train.validation import ConfigError, Where, build_spec

BUILT_IN = "train.stages"
STAGE_FILE = "stage.yaml"
NOT_MATHS = frozenset(
    {"name", "arm", "follows", "init_from", "out", "workers", "save_every", "keep", "log_every", "overlay_every"}
    | {"overlay_images", "wandb", "max_bad_steps", "max_bad_samples", "planned_samples", "planned_guided"}
    | {"tokens_per_sample", "language_texts"}
)
"""Settings that leave the trained weights as they are."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as people mean it: a key stands once, and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"line {line}: key {key!r} is no text; put it in quotes")
            if key in seen:
                raise ConfigError(f"line {line}: key {key!r} stands there already, in line {seen[key]}")
            seen[key] = line
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class _Layered:
    """Settings merged so far, and for each which file (or option) it is from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[str, ...], str] = field(default_factory=dict)

    def merge(self, new: Mapping[str, Any], origin: str) -> None:
        self._merge(self.values, new, (), origin)

    def _merge(self, into: dict[str, Any], new: Mapping[str, Any], path: tuple[str, ...], origin: str) -> None:
        for key, value in new.items():
            here = (*path, key)
            if value is None:
                into.pop(key, None)
            elif isinstance(value, Mapping):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                self.origins.setdefault(here, origin)
                self._merge(into[key], value, here, origin)
            else:
                into[key] = value
                self.origins[here] = origin

    def origin(self, path: Sequence[str]) -> str | None:
        """Where the setting at this path, or the nearest above it, comes from."""
        for length in range(len(path), 0, -1):
            if (found := self.origins.get(tuple(path[:length]))) is not None:
                return found
        return None


def built_in_names() -> list[str]:
    """Names of the stages that come with the package, as `paper/age-vlm/1-align`."""
    root = Path(str(resources.files(BUILT_IN)))
    return sorted(f.relative_to(root).with_suffix("").as_posix() for f in root.rglob("[0-9]-*.yaml"))


def find_stage(name: str | Path) -> Path:
    """The file of a stage: a path, or the name of a built-in one.

    Raises:
        ConfigError: neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = built_in_names()
    plain = path.as_posix().removesuffix(".yaml")
    if plain in known:
        return Path(str(resources.files(BUILT_IN))) / f"{plain}.yaml"
    near = difflib.get_close_matches(plain, known, 3, 0.5) or known
    raise ConfigError(f"--config {name}: no such file, and no built-in stage; there are {', '.join(near)}")


def load_stage(
    path: str | Path, overrides: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> StageSpec:
    """Read a stage.

    Args:
        path: a YAML file, or a built-in stage's name.
        overrides: `a.b=value`; the value is read as YAML, list entries are named by number (`sources.0.weight=2`),
            null takes an entry out.
        variables: for `${name}`; they win over `vars:`.

    Raises:
        ConfigError: names the file, the setting, and what would be right.
    """
    file = find_stage(path)
    layered = _Layered()
    for origin, values in _chain(file, ()):
        layered.merge(values, origin)
    declared = set(layered.values.get("vars") or {})
    for override in overrides:
        _override(layered, override)
    values = layered.values
    _check_variables(values, overrides, declared)
    _substitute_all(values, file, variables or {})
    values.pop("vars", None)
    return build_spec(values, Where(str(file), layered.origin))


def _chain(file: Path, above: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """A file's settings behind those of all that it extends."""
    real = file.resolve()
    if real in above:
        loop = " extends ".join(map(str, (*above[above.index(real) :], real)))
        raise ConfigError(f"{above[0]}: its files extend each other in a circle: {loop}")
    values = _read(file)
    bases = values.pop("extends", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{file}: extends: give a file name or a list of them, not {bases!r}")
    chain: list[tuple[str, dict[str, Any]]] = []
    for base in bases:
        if not (file.parent / base).is_file():
            raise ConfigError(f"{file}: extends: no such file {file.parent / base} (it is relative to this file)")
        chain += _chain(file.parent / base, (*above, real))
    return [*chain, (str(file), values)]


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: a stage is a mapping of settings, not a {type(values).__name__}")
    return values


def _override(layered: _Layered, override: str) -> None:
    name, separator, text = override.partition("=")
    option = f"--set {override}"
    keys = name.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"{option}: write it as name=value, for instance guidance.weight=0.5")
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{option}: the value is not YAML: {' '.join(str(error).split())}") from None
    for depth in range(1, len(keys)):
        if isinstance(above := _at(layered.values, keys[:depth]), list):
            # Entries of a list have no names to merge by: the list itself is changed.
            _set_in_list(above, keys[depth:], value, option)
            layered.origins[tuple(keys[:depth])] = option
            return
    nested: Any = value
    for key in reversed(keys):
        nested = {key: nested}
    layered.merge(nested, option)


def _check_variables(values: Mapping[str, Any], overrides: Sequence[str], declared: Set[str]) -> None:
    """Refuse `vars.NAME=...` of a name that nothing knows: it would change nothing, and nobody would notice."""
    text = repr(values)
    for override in overrides:
        name, _, _ = override.partition("=")
        block, _, variable = name.strip().partition(".")
        if block == "vars" and variable not in declared and f"${{{variable}}}" not in text:
            near = difflib.get_close_matches(variable, declared, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(declared)) or 'none'}"
            raise ConfigError(f"--set {override}: nothing uses a variable {variable}; {hint}")


def _at(values: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _set_in_list(entries: list[Any], keys: Sequence[str], value: Any, option: str) -> None:
    holder: Any = entries
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(holder, list):
            if not key.isdecimal() or int(key) >= len(holder):
                raise ConfigError(f"{option}: {key!r} is no entry of a list of {len(holder)}; count from 0")
            if last:
                holder[int(key)] = value
            else:
                holder = holder[int(key)]
        elif isinstance(holder, dict):
            if last and value is None:
                holder.pop(key, None)
            elif last:
                holder[key] = value
            else:
                holder = holder.setdefault(key, {})
        else:
            raise ConfigError(f"{option}: there is nothing inside {'.'.join(keys[:depth])} to set")


def _substitute_all(values: dict[str, Any], file: Path, variables: Mapping[str, str]) -> None:
    block = values.get("vars", {})
    if not isinstance(block, dict) or any(isinstance(v, dict | list) for v in block.values()):
        raise ConfigError(f"{file}: vars: expected a mapping of plain values, not {block!r}")
    settings = {f.name: f.default for f in fields(StageSpec)} | values
    own = {k: v for k, v in settings.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    known: dict[str, Any] = {**own, **block, **variables}

    def look_up(name: str, path: str, within: tuple[str, ...]) -> Any:
        if name in within:
            raise ConfigError(f"{file}: {path}: ${{{name}}} stands for itself")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean ${{{near[0]}}}?" if near else f"; there are {', '.join(sorted(known))}"
            raise ConfigError(f"{file}: {path}: ${{{name}}} stands for nothing{hint}")
        return walk(known[name], path, (*within, name))

    def walk(value: Any, path: str, within: tuple[str, ...]) -> Any:
        if isinstance(value, str):
            if whole := _VARIABLE.fullmatch(value):
                # Alone it keeps its type: steps: ${steps}
                return look_up(whole[1], path, within)
            return _VARIABLE.sub(lambda match: str(look_up(match[1], path, within)), value)
        if isinstance(value, dict):
            return {k: walk(v, f"{path}.{k}", within) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, f"{path}.{i}", within) for i, v in enumerate(value)]
        return value

    values.update({k: walk(v, k, (k,)) for k, v in values.items() if k != "vars"})


def spec_as_dict(spec: StageSpec) -> dict[str, Any]:
    """Every setting as JSON and YAML have it."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    return plain


def spec_from_dict(values: Mapping[str, Any], source: str = "a saved stage") -> StageSpec:
    """What `spec_as_dict` gave, as a stage again. Raises ConfigError, as `load_stage`; `source` names it there."""
    return build_spec(values, Where(source))


def spec_hash(spec: StageSpec) -> str:
    """Hex SHA-256 of the settings that the trained weights depend on (all but `NOT_MATHS`)."""
    kept = {key: value for key, value in spec_as_dict(spec).items() if key not in NOT_MATHS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def stage_yaml(spec: StageSpec) -> str:
    """The stage with every setting in the open; `load_stage` reads it back to the same."""
    dumped: str = yaml.safe_dump(_without_none(spec_as_dict(spec)), sort_keys=False, allow_unicode=True, width=100)
    return dumped


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}
