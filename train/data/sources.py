"""Opening the sources of samples that a stage names."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agevlm.errors import DataError
from train.data.samples import Source
from train.spec import SourceSpec

KINDS = {
    "llava": "train.data.llava:LlavaSource",
    "coco": "train.data.coco:CocoSource",
    "grounded": "train.data.grounded:GroundedSource",
    "scenes": "train.scenes.source:ScenesSource",
}
"""Where each kind of source is; loaded when it is opened."""


def open_source(spec: SourceSpec) -> Source:
    """Open a source of samples. Any kind takes `masks`: a folder of regions, see `train.data.masked`.

    Raises:
        DataError: unknown kind, options it does not take, or data that cannot be read.
    """
    if spec.kind not in KINDS:
        near = difflib.get_close_matches(spec.kind, KINDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"source kind {spec.kind!r} is unknown: give one of {', '.join(sorted(KINDS))}{hint}")
    module, _, name = KINDS[spec.kind].partition(":")
    options = dict(spec.options)
    masks = options.pop("masks", None)
    source: Source = getattr(importlib.import_module(module), name).open(options)
    if masks is None:
        return source
    from train.data.masked import MaskedSource

    return MaskedSource(source, Path(str(masks)).expanduser())


def check_options(kind: str, options: Mapping[str, Any], known: Mapping[str, bool]) -> None:
    """Refuse options that a kind of source does not take, and miss those that it needs.

    Args:
        kind: of the source, for messages.
        options: as given.
        known: name of each option -> whether it must be there.

    Raises:
        DataError: the first that is wrong.
    """
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise DataError(f"source {kind}: no such option {name!r}; {hint}")
    if missing := [name for name, needed in known.items() if needed and options.get(name) is None]:
        raise DataError(f"source {kind}: missing option: {', '.join(missing)}")
