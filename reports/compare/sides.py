"""The runs of a comparison, and what must be alike in them before their numbers may be set against each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from agevlm.errors import DataError, NotSupported
from reports.opened import Run, named
from reports.runs.files import manifest_of, printable
from reports.runs.headline import FIELD
from reports.runs.showing import Opened, open_run


@dataclass(frozen=True)
class Side:
    """One of the runs that are compared."""

    letter: str
    """A for the one with which the others are compared, then B, C, ..."""
    label: str
    folder: Path
    opened: Opened

    @property
    def benchmark(self) -> str:
        """pope or cvbench."""
        return str(self.opened.manifest["benchmark"])

    @property
    def named(self) -> str:
        """Letter and label, as titles have it."""
        return f"{self.letter} ({self.label})"


def open_sides(folders: Sequence[Path], protocol: str | None, reading: str | None, condition: str) -> list[Side]:
    """Open the runs of a comparison, the first one as A.

    Raises:
        DataError: fewer than two or too many, one given twice, runs of two benchmarks, and as `open_run`.
        NotSupported: a run whose questions cannot be paired.
        RunFolderError: no run folder, a damaged manifest, or one of a newer version.
    """
    if not 2 <= len(folders) <= len(ascii_uppercase):
        raise DataError(f"need 2 to {len(ascii_uppercase)} run folders to compare, got {len(folders)}")
    real = [folder.resolve() for folder in folders]
    for place, folder in enumerate(real):
        if folder in real[:place]:
            raise DataError(f"{folders[place]}: given twice; a run does not differ from itself")
    runs = named([_run(folder) for folder in real])
    for run in runs:
        if run.benchmark not in FIELD:
            raise NotSupported(
                f"{run.folder}: a run of {printable(run.benchmark)}; compare pairs the questions of pope runs or of "
                "cvbench runs. Analyses compare models within one run: give them several --ckpt"
            )
    kinds = {run.benchmark: run.folder for run in runs}
    if len(kinds) > 1:
        said = ", ".join(f"{folder} is of {kind}" for kind, folder in kinds.items())
        raise DataError(f"the runs are of different benchmarks: {said}; compare runs of one")
    return [side(letter, run, protocol, reading, condition) for letter, run in zip(ascii_uppercase, runs, strict=False)]


def _run(folder: Path) -> Run:
    """What a comparison needs of a run: no scores, which are of all its answers."""
    manifest = manifest_of(folder)
    label = str(manifest.get("model", {}).get("ckpt") or folder.name)
    return Run(folder, label, str(manifest.get("benchmark")), manifest, None)


def side(
    letter: str, run: Run, protocol: str | None = None, reading: str | None = None, condition: str = "image"
) -> Side:
    """A run as a side of a comparison. Errors as of `open_run`."""
    return Side(letter, printable(run.label), run.folder, open_run(run.folder, protocol, reading, condition))


# --- what must be alike -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unlike:
    """Something in which two runs differ that their models are not to blame for."""

    aspect: str
    base: str
    other: str

    def said(self, base: Side, other: Side) -> str:
        """In words, for titles and refusals."""
        return f"different {NOUNS[self.aspect]}: {base.letter} {self.base}, {other.letter} {self.other}"


def _data(side: Side) -> list[Mapping[str, Any]]:
    return [one for one in side.opened.manifest.get("data", ()) if isinstance(one, Mapping)]


def _contents(side: Side) -> tuple[Any, str]:
    return sorted(str(one.get("content_sha256", one.get("data_version"))) for one in _data(side)), _versions(side)


def _limit(side: Side) -> tuple[Any, str]:
    return _versions(side), _versions(side)


def _versions(side: Side) -> str:
    return ", ".join(sorted(str(one.get("data_version", "not stated")) for one in _data(side))) or "not stated"


def _prompt(side: Side) -> tuple[Any, str]:
    found = side.opened.manifest.get("prompt", {})
    return found.get("template"), f"{found.get('name', 'not stated')}"


def _decoding(side: Side) -> tuple[Any, str]:
    found = side.opened.manifest.get("decoding", {})
    return found, json.dumps(found, sort_keys=True)


def _protocol(side: Side) -> tuple[Any, str]:
    return side.opened.reading, side.opened.reading


def _judge(side: Side) -> tuple[Any, str]:
    if not side.opened.reading.startswith("judged"):
        return None, "none"
    try:
        found = json.loads((side.folder / "judge.json").read_text(encoding="utf-8"))
        name = str(found["judge"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, "not stated"
    return name, name


def _seed(side: Side) -> tuple[Any, str]:
    if side.opened.condition not in SEEDED:
        return None, "none"
    return side.opened.manifest.get("seed"), str(side.opened.manifest.get("seed"))


SEEDED = ("shuffled", "other-image")
"""Controls whose pictures depend on the run's seed."""
ASPECTS: Mapping[str, Callable[[Side], tuple[Any, str]]] = {
    "data": _contents,
    "limit": _limit,
    "prompt": _prompt,
    "decoding": _decoding,
    "protocol": _protocol,
    "judge": _judge,
    "seed": _seed,
}
"""What is compared first: what `--allow` takes -> what must be equal, and how it is named."""
NOUNS = {
    "data": "data",
    "limit": "parts of the data",
    "prompt": "prompts",
    "decoding": "decoding",
    "protocol": "protocols",
    "judge": "judges",
    "seed": "seeds of the control",
}


def unlike(base: Side, other: Side) -> list[Unlike]:
    """In which aspects two runs differ; other data are not also another part of the data."""
    found: list[Unlike] = []
    for aspect, of in ASPECTS.items():
        (first, said), (second, other_said) = of(base), of(other)
        if first != second and not (aspect == "limit" and any(one.aspect == "data" for one in found)):
            if said == other_said:  # one name for two things
                said, other_said = (f"{name} {value!r}" for name, value in ((said, first), (other_said, second)))
            found.append(Unlike(aspect, printable(said), printable(other_said)))
    return found


def require_alike(base: Side, other: Side, allowed: Collection[str]) -> list[Unlike]:
    """In which allowed aspects two runs differ.

    Raises:
        DataError: they differ in another one.
    """
    found = unlike(base, other)
    refused = [one for one in found if one.aspect not in allowed]
    if refused:
        said = "; ".join(one.said(base, other) for one in refused)
        options = " ".join(f"--allow {one.aspect}" for one in refused)
        own = "--protocol" if base.benchmark == "pope" else "--reading"
        hint = f" ({own} NAME reads all runs alike)" if any(one.aspect == "protocol" for one in refused) else ""
        raise DataError(
            f"{other.folder} cannot be compared with {base.folder}: {said}{hint}; {options} compares them all "
            "the same, and says so in every title"
        )
    return found
