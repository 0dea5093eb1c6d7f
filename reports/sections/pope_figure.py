"""POPE's figure: accuracy and F1 by split, all runs, with what no image at all is worth."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures import figure
from benchmarks.pope.rows import MEAN, POOLED
from reports.document import Figure, printed
from reports.sections.drawing import WIDTH, column_style, dots, finished, looks, places
from reports.sections.side_by_side import Asked

PANELS = {"accuracy": "accuracy, %", "f1": "F1, %"}
FLOORS = {"floor:always-yes": ("always yes", ":"), "floor:object-prior": ("object's name alone", "--")}


def by_split(id: str, asked: Sequence[Asked]) -> Figure:
    """Dots with intervals, floors as strokes."""
    splits = [s for s in dict.fromkeys(row["split"] for one in asked for row in one.of()) if s != POOLED]
    with column_style() as seaborn:
        drawn = figure(WIDTH, 3.6 + 0.14 * len(asked))
        panels = drawn.subplots(2, 1, sharex=True)
        for axes, (score, name) in zip(panels, PANELS.items(), strict=True):
            for floor, (told, dash) in FLOORS.items():
                rows = [asked[0].row(split, floor) for split in splits]
                for x, row in enumerate(rows):
                    if row is not None and row.get(score) is not None:
                        label = told if x == 0 else None
                        axes.hlines(
                            100 * row[score], x - 0.4, x + 0.4, color="0.4", linestyle=dash, lw=1.1, label=label
                        )
            looked = looks(seaborn, [one.label for one in asked])
            for shift, one, look in zip(places(len(asked)), asked, looked, strict=True):
                at = [x + shift for x in range(len(splits))]
                dots(axes, at, [one.row(split) for split in splits], score, look)
            axes.set_ylabel(name)
            axes.grid(visible=False, axis="x")
        panels[-1].set_xticks(range(len(splits)), ["mean" if s == MEAN else s for s in splits])
        panels[-1].set_xlabel("split")
        handles, labels = panels[-1].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=1 if len(asked) > 2 else 2)
        return finished(
            drawn,
            id,
            f"{asked[0].titled}, by split; bars: 95 % intervals over images",
            _alt(asked),
            f"Floors, of the questions that {asked[0].label} answered: always yes, and the object's name alone, which "
            "answers with the more frequent label of the same name in other images.",
        )


def _alt(asked: Sequence[Asked]) -> str:
    said = []
    for one in asked:
        names = [row["split"] for row in one.of()]
        row = one.row(MEAN if MEAN in names else names[0]) if names else None
        if row is not None:
            said.append(
                f"{one.label}: accuracy {printed(row['accuracy'], 'percent')} %, F1 {printed(row['f1'], 'percent')} %"
            )
    return f"Accuracy and F1 of each split with intervals. Mean of the splits: {'; '.join(said)}."
