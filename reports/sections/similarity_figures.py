"""Figures of similarity: histograms of cosines, which need the records, and AUROC by layer, which needs none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agevlm.errors import AgeVlmError, DataError
from agevlm.vlm.contract import POOLINGS
from analysis.figures import encoded
from analysis.similarity.drawing import SPACE_NAMES, histograms, profile
from analysis.similarity.score import FORMS
from reports.document import Figure, Listing, interval, slug
from reports.opened import Run
from reports.sections.inside import Content, Drawn

if TYPE_CHECKING:
    from analysis.similarity.score import Records

AGAINST = {
    "other": "another image's caption",
    "hard": "one object swapped",
    "word-order": "words shuffled",
    "given": "given with the data",
}
"""What does not match, by kind."""
ROUNDED = 1e-9
LAYERS = "Band: 95 % interval over images; grey line: 0.5, no difference."


def figures(prefix: str, run: Run) -> Iterator[Drawn]:
    """Of one run: histograms for each kind of pairs and form of states, then a profile for each space."""
    content = run.scores or {}
    yield from _histograms(prefix, run, content)
    pooling, cells = content["pooling"], content["cells"]
    for space in dict.fromkeys(cell["space"] for cell in cells):
        png, svg = encoded(profile([cell for cell in cells if cell["space"] == space], pooling))
        name = SPACE_NAMES[space]
        alt = f"AUROC of matching against non-matching pairs by layer, in {name}, for {_models(cells)}."
        kinds = dict.fromkeys(str(cell["kind"]) for cell in cells)
        note = f"{LAYERS} {'; '.join(f'{kind}: {AGAINST.get(kind, kind)}' for kind in kinds)}."
        yield Figure(f"{prefix}-layers-{slug(space)}", f"AUROC by layer, {name}", alt, png, svg, note)


def _models(cells: Sequence[Content]) -> str:
    return ", ".join(dict.fromkeys(str(cell["model"]) for cell in cells))


def _histograms(prefix: str, run: Run, content: Content) -> Iterator[Drawn]:
    pooling, cells = content["pooling"], content["cells"]
    main = [c for c in cells if c["headline"] and (c["space"], c["pooling"]) == ("hidden", pooling)]
    try:
        records = _records(run, content, main)
    except AgeVlmError as error:
        yield from _kept(prefix, run, str(error))
        return
    for kind in dict.fromkeys(cell["kind"] for cell in main):
        own = [cell for cell in main if cell["kind"] == kind]
        for form in FORMS:
            if any(cell["form"] == form for cell in own):
                png, svg = encoded(histograms(records, own, pooling, form))
                found = "; ".join(f"{c['model']} {interval(c['auroc'])}" for c in own if c["form"] == form)
                yield Figure(
                    f"{prefix}-histograms-{slug(kind)}-{form}",
                    f"Cosines of matching pairs and of others ({AGAINST.get(kind, kind)}), {form} hidden states",
                    f"Histograms of the two groups of cosines; AUROC: {found}.",
                    png,
                    svg,
                    "Densities; one axis of cosines for all models.",
                )


def _kept(prefix: str, run: Run, why: str) -> Iterator[Drawn]:
    """What the run drew itself, where its records cannot be used; where that is gone, too, why there is nothing."""
    found = False
    for form in FORMS:
        held = [run.folder / f"{run.benchmark}-{form}.{kind}" for kind in ("png", "svg")]
        if all(path.is_file() for path in held):
            found = True
            png, svg = (path.read_bytes() for path in held)
            title = f"Cosines of matching and of other pairs, {form} hidden states"
            alt = "Histograms of the two groups of cosines for each model and kind of pairs."
            yield Figure(f"{prefix}-histograms-{form}", title, alt, png, svg, f"As the run itself drew it: {why}.")
    if not found:
        yield Listing("No histograms of cosines", f"{why}. The run's command, given again, makes them.", folded=False)


def _records(run: Run, content: Content, main: Sequence[Content]) -> list[Records]:
    """The cosines that were scored.

    Raises:
        AgeVlmError: they are gone or damaged, or others are among them.
    """
    import pyarrow as pa

    from analysis.parts import recorded
    from analysis.similarity.measuring import schema
    from analysis.similarity.score import records_of

    tables: dict[str, Any] = {}
    for model in dict.fromkeys(str(cell["model"]) for cell in main):
        entry = run.manifest.get("models", {}).get(model)
        if not isinstance(entry, Mapping):
            raise DataError(f"run.json does not name {model}")
        try:
            tables[model] = recorded(run.folder, str(entry.get("fingerprint")), schema()).read()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"the records of {model} cannot be read ({error})") from None
    records, images = records_of(tables)
    if len(images) != content["images"] or not all(_same(records, cell) for cell in main):
        raise DataError(f"{run.folder / 'probes'} holds other records than those that were scored")
    return records


def _same(records: Sequence[Records], cell: Content) -> bool:
    """Whether the records give what scores.json says: a folder may hold those of several settings."""
    from analysis.similarity.score import sides_of
    from analysis.similarity.statistics import measure_auroc

    own = next(one for one in records if one.model == cell["model"])
    at = own.layers["hidden"].index(cell["layer"]), POOLINGS.index(cell["pooling"])
    sides, undefined = sides_of(own, own.cosines["hidden", cell["form"]][:, at[0], at[1]], cell["kind"])
    value = measure_auroc(sides, np.zeros((0, cell["images"]))).interval.value
    stored = np.nan if cell["auroc"]["value"] is None else cell["auroc"]["value"]
    same = np.isclose(value, stored, rtol=0, atol=ROUNDED, equal_nan=True)
    return bool(same) and (len(sides.other), undefined) == (cell["pairs"], cell["undefined"])
