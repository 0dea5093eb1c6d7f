"""Whether a model leans to yes, and whether its probability of yes is one: POPE runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.pope.rows import POOLED
from reports.document import NONE, Cell, Column, Figure, Section, Table, flat, number
from reports.opened import Run, reading
from reports.sections import pope
from reports.sections.bias_figures import lean_figure, reliability_figure
from reports.sections.bias_numbers import BINS, Lean, Reliability, leans, reliability
from reports.sections.side_by_side import Asked, asked_by_version, differing, intervals_note, version_id


def section(runs: Sequence[Run]) -> Section | None:
    """Lean and calibration of POPE's answers; None without a POPE run that has scores."""
    found = asked_by_version(runs, "pope")
    if not found:
        return None
    items: list[Table | Figure] = []
    words: list[str] = []
    for version, asked in found.items():
        made = [(one, _leans(one)) for one in asked]
        items.append(_lean_table(version_id("bias", list(found), version), made))
        items.append(lean_figure(version_id("bias-figure", list(found), version), made))
        words += _told(made)
        curves = [(one, curve) for one in asked if (curve := reliability(one)) is not None]
        for one in asked:
            if all(one.label != other.label for other, _ in curves):
                words.append(
                    f"{one.label}: no reliability curve and no AUROC: not every answer about the image has the "
                    "log-probabilities of both yes and no, or there is none."
                )
        if curves:
            items.append(_ranking_table(version_id("reliability", list(found), version), [one for one, _ in curves]))
            items.append(reliability_figure(version_id("reliability-figure", list(found), version), curves))
            items.append(_bins_table(version_id("reliability-bins", list(found), version), curves))
    return Section(
        "bias",
        "Lean to yes, and what P(yes) is worth (POPE)",
        (
            "A model that leans to yes makes objects up; one that leans to no overlooks them. Both can have the same "
            "accuracy. False yes: absent objects that were answered with yes; missed: present ones that were "
            "answered with no. The lean is the one less the other, of all answers read as yes or no: above 0 there are "
            "more yes answers than yes labels.",
            "P(yes) is the probability of yes among yes and no at the first answer token. Where it is calibrated, "
            "of the questions with P(yes) near 0.8 some 80 % have the label yes, and the reliability curve lies on "
            "the diagonal. Below it the model says yes with too much confidence. The expected calibration error "
            "(ECE) is the mean distance from it. AUROC is the chance that a present object has a higher P(yes) than "
            "an absent one: what a better threshold than 1/2 could use.",
            *words,
        ),
        items,
    )


def _leans(one: Asked) -> dict[str, Lean]:
    with reading(one.run):
        return leans(one)


def _told(made: Sequence[tuple[Asked, dict[str, Lean]]]) -> Iterator[str]:
    for one, by_split in made:
        whole = by_split.get(pope.main_split(one, POOLED))
        if whole is not None:
            yield f"{one.label}, data {one.version}: lean {whole.lean} points: {whole.told}."


def _lean_table(id: str, made: Sequence[tuple[Asked, dict[str, Lean]]]) -> Table:
    asked = [one for one, _ in made]
    apart = differing(asked)
    columns = [Column("split", False), Column("model", False), *apart.columns, Column("n")]
    columns += [Column(n) for n in ("yes labels", "yes ratio", "lean, points")] + [Column("in words", False)]
    columns += [Column(n) for n in ("false yes", "missed", "unparsed")]
    rows = []
    for split in pope.splits_of(asked):
        for one, by_split in made:
            row, lean = one.row(split), by_split.get(split)
            if row is None or lean is None:
                continue
            cells = [Cell(pope.split_name(split)), Cell(one.label), *apart.cells(one), number(row["n"], unit="count")]
            cells += [number(lean.labels), flat(row, "yes_ratio"), lean.lean, Cell(lean.told)]
            rows.append([*cells, lean.false_yes, lean.missed, number(row["unparsed"], unit="count")])
    without = [one.label for one, by_split in made if any(lean.lean.limits is None for lean in by_split.values())]
    return Table(
        id,
        f"{asked[0].titled}, lean to yes; % of questions",
        columns,
        rows,
        (
            apart.note,
            intervals_note(asked),
            "yes ratio: of the answers that count. false yes: of the questions with label no; missed: of those with "
            "label yes. Answers that could not be read are in none of these, and not in the lean, unless the "
            "protocol counts them as one. A lean is established where its whole interval lies on one side of 0: "
            "each row by itself, nothing is adjusted for their number.",
            *(
                [f"No intervals of the last three for {', '.join(without)}: its answers are not there."]
                if without
                else []
            ),
        ),
    )


def _ranking_table(id: str, asked: Sequence[Asked]) -> Table:
    columns = [Column("split", False), Column("model", False), Column("n"), Column("AUROC of P(yes)"), Column("ECE")]
    rows = []
    for split in pope.splits_of(asked):
        for one in asked:
            row = one.row(split, how="default")
            if row is not None and row.get("auroc") is not None:
                cells = [Cell(pope.split_name(split)), Cell(one.label), number(row["n"], unit="count")]
                rows.append([*cells, flat(row, "auroc", "number"), flat(row, "ece", "number")])
    return Table(
        id,
        f"{asked[0].titled}, P(yes) as a ranking and as a probability; AUROC and ECE from 0 to 1",
        columns,
        rows,
        (
            f"Data version {asked[0].version}. From the log-probabilities of yes and no, whatever the answer's text "
            "was.",
            intervals_note(asked),
            f"AUROC: 0.5 is chance, 1 is perfect. ECE: 0 is calibrated; {BINS} bins of equal width. Resampling makes "
            "any model look less calibrated, so the interval of ECE is the reversed one; its lower limit is 0 where a "
            "calibrated model could have as large an ECE.",
        ),
    )


def _bins_table(id: str, curves: Sequence[tuple[Asked, Reliability]]) -> Table:
    columns = [Column("P(yes)", False), Column("model", False), Column("questions"), Column("mean P(yes)")]
    rows = []
    for k in range(BINS):
        for one, curve in curves:
            if curve.bins.count[k]:
                edges = f"{number(k / BINS, unit='number')} to {number((k + 1) / BINS, unit='number')}"
                cells = [Cell(edges), Cell(one.label), number(float(curve.bins.count[k]), unit="count")]
                seen = curve.observed[k]
                cells.append(number(float(curve.bins.mean_probability[k]), unit="number"))
                rows.append([*cells, number(seen.value, seen.low, seen.high, "number")])
    splits = sorted({NONE if not curve.splits else ", ".join(curve.splits) for _, curve in curves})
    return Table(
        id,
        f"{curves[0][0].titled}, reliability of P(yes): the curve in numbers, shares from 0 to 1",
        [*columns, Column("share with label yes")],
        rows,
        (
            f"Data version {curves[0][0].version}; splits {'; '.join(splits)}, pooled.",
            "In brackets: 95 % interval over images. Bins without a question are left out.",
        ),
        folded=True,
    )
