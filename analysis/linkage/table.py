"""The scores as tables for people."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.linkage.effects import KINDS, Mean
from analysis.linkage.figures import WAY_NAMES
from analysis.linkage.ranks import Ranked
from analysis.linkage.score import LinkageScores, ModelScores
from analysis.linkage.sheets import Sheets
from analysis.linkage.signals import SIGNALS
from analysis.linkage.targets import FEWEST, TARGETS
from benchmarks.statistics.clusters import Interval


def say(scores: LinkageScores, console: Console) -> None:
    """Print all tables."""
    console.print(_counts(scores))
    for model in scores.models:
        console.print(_signals(model))
    console.print(_added(scores))
    if any(model.causal.ways for model in scores.models):
        console.print(_causal(scores))
    if any(model.causal.curves for model in scores.models):
        console.print(_curve(scores))


def _table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for k, name in enumerate(columns):
        made.add_column(name, justify="left" if k == 0 else "right")
    return made


def _counts(scores: LinkageScores) -> Table:
    names = ("questions", "images", "present", "absent", "correct", "hallucinated", "missed", "unreadable", "errors")
    made = _table("questions, each distinct one of an image once", "model", *names)
    for model in scores.models:
        made.add_row(escape(model.name), *(str(model.counts[name]) for name in names))
    return made


def _signals(model: ModelScores) -> Table:
    title = f"{escape(model.name)}: AUROC of each signal [95 % over images]; above 0.5: the larger, the likelier"
    made = _table(title, "signal", *(f"{t.name}\n{_of(model, t.name)}" for t in TARGETS))
    for signal in SIGNALS:
        cells = []
        for target in TARGETS:
            ranked = model.targets[target.name].signals.get(signal.column)
            cells.append(_ranked(ranked, target.margin_decides and signal.column == "margin"))
        if any(cells):
            made.add_row(signal.label, *cells)
    return made


def _of(model: ModelScores, target: str) -> str:
    scores = model.targets[target]
    return f"{scores.positives} of {scores.n}"


def _ranked(ranked: Ranked | None, decides: bool) -> str:
    if ranked is None:
        return ""
    if ranked.why_not is not None:
        return {"none": "", "constant": "constant"}.get(ranked.why_not, ranked.why_not)
    return f"{_interval(ranked.auroc)}{' *' if decides else ''}"


def _interval(interval: Interval, places: int = 2, sign: bool = False) -> str:
    if math.isnan(interval.value):
        return "–"
    form = f"{{:{'+' if sign else ''}.{places}f}}"
    limits = [form.format(v) if math.isfinite(v) else "–" for v in (interval.low, interval.high)]
    return f"{form.format(interval.value)} [{limits[0]}, {limits[1]}]"


def _added(scores: LinkageScores) -> Table:
    title = "what attention adds, in cross-validated AUROC (logistic model, folds of whole images)"
    made = _table(title, "model", "target", "over", "base", "with attention", "gain", "gain, dealt out at random")
    for model in scores.models:
        for target in TARGETS:
            for base, one in model.targets[target.name].added.items():
                name = f"{base} *" if target.margin_decides and "margin" in base else base
                if one is None:
                    made.add_row(escape(model.name), target.name, name, "too few", "", "", "")
                    continue
                gains = (_interval(one.gain, 3, True), _interval(one.permuted, 3, True))
                made.add_row(escape(model.name), target.name, name, _interval(one.base), _interval(one.full), *gains)
    return made


def _causal(scores: LinkageScores) -> Table:
    title = "hiding part of the image: drop of the yes-margin (nats) and flips to no, objects that were answered yes"
    against = "object - random", "object - moved", "attended - random"
    made = _table(
        title, "model", "way", "n", "margin", "object", "attended", "random", *against, "flips: object", "random"
    )
    for model in scores.models:
        for way in model.causal.ways:
            effects = {f"{a} - {b}": mean for (a, b), mean in way.effects.items()}
            made.add_row(
                escape(model.name),
                WAY_NAMES[way.how],
                str(way.base.n),
                f"{way.base.interval.value:.2f}",
                *(_mean(way.drops.get(kind)) for kind in ("object", "attended", "random")),
                *(_mean(effects.get(name), sign=True) for name in against),
                *(_percent(way.flips.get(kind)) for kind in ("object", "random")),
            )
    return made


def _curve(scores: LinkageScores) -> Table:
    made = _table(
        "deletion curve: drop of the yes-margin with so many cells hidden from attention",
        "model",
        "answered yes to",
        "n",
        "cells",
        "attended first",
        "random",
        "attended - random",
        "flips: attended",
        "random",
    )
    for model in scores.models:
        for name, point in ((name, point) for name, own in model.causal.curves.items() for point in own):
            made.add_row(
                escape(model.name),
                f"{name} objects",
                str(point.effect.n),
                f"{point.share:.0%}",
                _mean(point.drops["attended"]),
                _mean(point.drops["random"]),
                _mean(point.effect, sign=True),
                _percent(point.flips["attended"]),
                _percent(point.flips["random"]),
            )
    return made


def _mean(mean: Mean | None, sign: bool = False) -> str:
    return "" if mean is None else _interval(mean.interval, sign=sign)


def _percent(mean: Mean | None) -> str:
    return "" if mean is None else f"{100 * mean.interval.value:.1f} %"


def _uneven(model: ModelScores) -> Iterator[str]:
    """That as many cells are not as many tokens, where that is so."""
    for way in model.causal.ways:
        shares = {kind: way.tokens[kind] for kind in KINDS if kind in way.tokens}
        if shares and max(shares.values()) > 1.01 * min(shares.values()):
            told = ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in shares.items())
            yield (
                f"{model.name}: as many cells hide unlike shares of the visual tokens from attention ({told}): the "
                "model has views of the image coarser than the cells, whose tokens are hidden by patches and not by "
                "scattered cells; set the object against `moved`, or against random cells that are painted over"
            )


def remarks(scores: LinkageScores, sheets: Sheets) -> Iterator[str]:
    """What must be known to read the tables."""
    yield (
        f"{sheets.cases} distinct questions of {len(sheets.sheets)} images; {sheets.repeated} more that other splits "
        "ask, too, were not asked again. hallucinated: yes among absent objects; missed: no among present ones; "
        "false yes, false no: the wrong ones among the answers yes, no."
    )
    yield (
        "* Here a positive margin is the answer itself: its AUROC says that the answer follows from it, and nothing is "
        "left for attention to add. false yes and false no do not have this flaw."
    )
    yield (
        f"too few: fewer than {FEWEST} images with, or without, the positive class; means over fewer have no limits. "
        "constant: the same for every question. An AUROC is never turned around: below 0.5, smaller values go with the "
        "positive class. Permuted values give 0.5 (scores.json)."
    )
    yield (
        "Attention is where information can flow, not why an answer was given; signals that use masks or the prior "
        "need annotations, and can explain errors but not find them."
    )
    counted = {
        "present objects without an annotated region": sheets.not_annotated,
        "absent objects that the annotations show": sheets.contradicted,
        "objects that are no category of the annotations": sheets.unknown,
        "images that the annotations do not have": sheets.images_without,
    }
    if said := [f"{count} {what}" for what, count in counted.items() if count]:
        yield "; ".join(said)
    if all(sheet.objects is None for sheet in sheets.sheets):
        yield "no annotations: masks, sizes, the prior and the causal check are left out; give --annotations FILE"
    for model in scores.models:
        if not len(model.table):
            yield f"{model.name}: nothing is recorded"
            continue
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(model.causal.reasons.items()))
        yield f"{model.name}: causal check: {reasons}"
        if model.causal.missing:
            yield f"{model.name}: {model.causal.missing} hidings gave no margin and were left out"
        yield from _uneven(model)
        if model.table["similarity_word"].isna().all():
            yield f"{model.name}: no similarities: the model does not offer them"
        if model.counts["object word not found"]:
            yield f"{model.name}: {model.counts['object word not found']} questions do not hold their object's name"
