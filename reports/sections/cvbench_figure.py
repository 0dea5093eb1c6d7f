"""CV-Bench's figure: each number under the leading reading, all runs, beside chance."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures import figure
from benchmarks.cvbench.score import OFFICIAL, ROW_MEAN
from reports.document import Figure, printed
from reports.sections.drawing import WIDTH, column_style, finished, looks, places, strokes
from reports.sections.side_by_side import Asked


def by_score(id: str, asked: Sequence[Asked]) -> Figure:
    """Dots with intervals by number, from above; chance as strokes."""
    names = [n for n in dict.fromkeys(row["score"] for one in asked for row in one.of()) if not n.startswith("source ")]
    with column_style() as seaborn:
        drawn = figure(WIDTH, 0.9 + (0.2 + 0.1 * len(asked)) * len(names) + 0.14 * len(asked))
        axes = drawn.subplots()
        for y, name in enumerate(names):
            chance = next((row["chance"] for one in asked for row in one.of() if row["score"] == name), None)
            if chance is not None:
                axes.vlines(
                    100 * chance, y - 0.4, y + 0.4, color="0.4", linestyle="--", lw=1.1, label="_" if y else "chance"
                )
        for shift, one, look in zip(
            places(len(asked)), asked, looks(seaborn, [one.label for one in asked]), strict=True
        ):
            strokes(axes, [y + shift for y in range(len(names))], [one.row(name) for name in names], "accuracy", look)
        axes.set_yticks(range(len(names)), [name.removeprefix("task ") for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"accuracy, % of questions ({', '.join(dict.fromkeys(one.lead for one in asked))})")
        axes.grid(visible=False, axis="y")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1 if len(asked) > 2 else 2)
        return finished(
            drawn,
            id,
            f"{asked[0].titled}, by number; bars: 95 % intervals over images",
            _alt(asked),
        )


def _alt(asked: Sequence[Asked]) -> str:
    said = []
    for one in asked:
        name = OFFICIAL if one.row(OFFICIAL) is not None else ROW_MEAN
        row = one.row(name)
        if row is not None:
            chance = printed(row["chance"], "percent")
            said.append(f"{one.label}: {name} {printed(row['accuracy'], 'percent')} %, chance {chance} %")
    return f"Accuracy of each part and task with intervals. {'; '.join(said)}."
