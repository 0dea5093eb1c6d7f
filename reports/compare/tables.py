"""Comparisons as tables: for the terminal, for files and for reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.controls import IMAGE
from benchmarks.statistics.clusters import Interval
from benchmarks.tables import shortened
from reports.compare.comparison import Comparison, Lead
from reports.compare.flips import Flip
from reports.compare.numbers import Group
from reports.document import Cell, Column, Table, number, printed
from reports.runs.headline import benchmark_name

SCORES = {"accuracy": "accuracy", "f1": "F1", "yes_ratio": "yes ratio"}
INTERVALS = (
    "[95 % intervals] from resampling images, the same ones for both runs: images are what is sampled, and questions "
    "about one image share its difficulty."
)
DETECTABLE = (
    "detectable: the smallest true difference found with 80 % power at two-sided alpha 0.05: (1.960 + 0.842) x the "
    "standard error of the paired difference over images (Miller 2024, arXiv 2411.00640). A tie says nothing of "
    "smaller ones."
)
TESTS = (
    "McNemar: exact, as if questions were independent. They are not: design effect is how many times the difference "
    "varies more than that (Kish 1965). p by image: exact p of exchanging the two runs on whole images; believe this "
    "one where they differ."
)


def heading(one: Comparison) -> str:
    """Benchmark, which way round, and what differs beside the models."""
    extra = "".join(f"; {u.said(one.base, one.other)}" for u in one.unlike)
    return f"{asked(one)}, {one.other.named} less {one.base.named}{extra}"


def asked(one: Comparison) -> str:
    """The benchmark's name, and the control under which it was asked, if any."""
    data = one.base.opened.manifest.get("data", ())
    name = benchmark_name(one.base.benchmark, str(data[0]["name"]) if data and "name" in data[0] else "")
    condition = one.base.opened.condition
    return name if condition == IMAGE else f"{name} ({condition})"


def conditions(one: Comparison) -> list[str]:
    """On what, how asked and how read, and what did not enter."""
    manifest, held = one.base.opened.manifest, one.pairing
    data = ", ".join(str(d.get("data_version")) for d in manifest.get("data", ()))
    prompt = manifest.get("prompt", {}).get("name", "not stated")
    kind = "protocol" if one.base.benchmark == "pope" else "reading"
    varied = {u.aspect for u in one.unlike}
    parts = [
        "data as named in the title" if varied & {"data", "limit"} else f"data {data}",
        "prompts as named in the title" if "prompt" in varied else f"prompt {prompt}",
        f"{kind}s as named in the title" if "protocol" in varied else f"{kind} {one.base.opened.reading}",
        *([f"condition {one.base.opened.condition}"] if one.base.opened.condition != IMAGE else []),
    ]
    a, b = one.base.letter, one.other.letter
    # With none, the line is the same for all runs.
    more = ""
    if held.only_base or held.only_other:
        more = f"; {held.only_base:,} more count only in {a}, {held.only_other:,} only in {b}"
    said = [
        "; ".join(parts),
        f"{len(held.pairs):,} questions about {one.images:,} images that both answered{more}",
    ]
    for (first, second), what in (
        (held.unanswered, "questions have no answer (not asked yet, or the model failed)"),
        (held.not_counted, f"answers are not counted by the {kind}"),
    ):
        if first or second:
            said.append(f"{first:,} {what} in {a}, {second:,} in {b}; they are left out")
    splits = {q.split for side in (one.base, one.other) for q in side.opened.questions}
    lacking = splits - {shared.split for shared, _ in held.pairs}
    if lacking and one.base.benchmark == "pope":
        said.append(f"no shared question of {', '.join(sorted(lacking))}: no mean has it")
    if held.changed:
        said.append(
            f"{held.changed:,} questions have one id and another text, image (name or file) or official answer in {b}; "
            "left out"
        )
    if one.same_model:
        said.append(f"{a} and {b} are of one model, to the last byte")
    return said


def sentence(lead: Lead) -> str:
    """The headline in words."""
    one, d = lead.comparison, lead.difference
    what = f"{SCORES[lead.metric]} ({one.headline.name}, {len(one.pairing.pairs):,} questions)"
    gain = f"{gain_cell(d.gain)} points: {lead.verdict}"
    return f"{what} of {one.other.named} less that of {one.base.named}: {gain}"


def all_conditions(found: Sequence[Lead]) -> list[str]:
    """`conditions` of several runs, each line once, with the runs that it is of."""
    letters: dict[str, list[str]] = {}
    for lead in found:
        for note in conditions(lead.comparison):
            letters.setdefault(note, []).append(lead.comparison.other.letter)
    return [f"{', '.join(of)}: {note}" for note, of in letters.items()]


def overview(found: Sequence[Lead], name: str = "compared") -> Table:
    """The headline of every run against A."""
    metric = SCORES[found[0].metric]
    several = len(found) > 1
    columns = [Column("run", numeric=False), *map(Column, ("questions", f"{metric} of A", "of the run", "run less A"))]
    columns += [Column("verdict", numeric=False), Column("p by image")]
    columns += [Column(f"p, Holm over {len(found)}")] if several else []
    columns += map(Column, ("detectable", "only A right", "only the run right"))
    rows = []
    for lead in found:
        one, d = lead.comparison, lead.difference
        gained = sum(f.gained for f in one.flips)
        rows.append(
            [
                run_cell(lead, found),
                Cell(printed(len(one.pairing.pairs), "count")),
                number(d.second),
                number(d.first),
                gain_cell(d.gain),
                Cell(lead.verdict),
                p_cell(d.p),
                *([p_cell(lead.p)] if several else []),
                Cell(printed(d.detectable, "percent")),
                Cell(printed(len(one.flips) - gained, "count")),
                Cell(printed(gained, "count")),
            ]
        )
    notes = [
        INTERVALS,
        f"established: the interval leaves 0 out, and p{', Holm,' if several else ' by image'} is at most 0.05.",
        "p by image: of exchanging the two runs on whole images; exact for a share of questions, of means and F1 by "
        "9,999 random exchanges.",
        DETECTABLE,
        *all_conditions(found),
    ]
    return Table(name, overview_title(found), columns, rows, notes)


def run_cell(lead: Lead, found: Sequence[Lead]) -> Cell:
    """A run, and its headline's name where others have another one."""
    names = {one.comparison.headline.name for one in found}
    own = f", {lead.comparison.headline.name}" if len(names) > 1 else ""
    return Cell(f"{lead.comparison.other.named}{own}")


def overview_title(found: Sequence[Lead]) -> str:
    """What the headline is, of which runs, and what differs beside the models."""
    first = found[0].comparison
    alike = [f"{first.headline.name}, "] if len({lead.comparison.headline.name for lead in found}) == 1 else []
    what = f"{SCORES[found[0].metric]}, {''.join(alike)}%"
    varied = (u.said(lead.comparison.base, lead.comparison.other) for lead in found for u in lead.comparison.unlike)
    return "; ".join([f"{asked(first)}: {what}; each run less {first.base.named}", *dict.fromkeys(varied)])


def score_table(one: Comparison) -> Table:
    """All numbers of both runs with their differences."""
    a, b = one.base.letter, one.other.letter
    scores = [score for score in SCORES if score in one.numbers[0].scores]
    columns = [Column("questions", numeric=False)]
    for score in scores:
        # Each by its whole name: in a CSV file there is nothing else to tell it from the other scores'.
        columns += [Column(f"{SCORES[score]} {what}") for what in (a, b, f"{b} less {a}")]
        columns += [Column(f"{SCORES[score]} detectable")] if score != "yes_ratio" else []
    rows = []
    for line in one.numbers:
        row = [Cell(line.name)]
        for score in scores:
            d = line.scores[score]
            row += [number(d.second), number(d.first), gain_cell(d.gain)]
            row += [Cell(printed(d.detectable, "percent"))] if score != "yes_ratio" else []
        rows.append(row)
    notes = [INTERVALS, DETECTABLE, *conditions(one)]
    return Table(f"{_id(one)}-scores", f"{heading(one)}: scores, %", columns, rows, notes)


def test_table(one: Comparison) -> Table:
    """Discordant answers and their tests: by split of POPE, and over all questions."""
    title = f"{heading(one)}: answers right in one run alone"
    rows = [_group_row(group, family=False) for group in one.groups]
    rule = "verdict: established where the 95 % interval leaves 0 out and p by image is at most 0.05."
    notes = [TESTS, rule, *conditions(one)]
    return Table(f"{_id(one)}-tests", title, _group_columns(one, "questions", family=False), rows, notes)


def category_table(one: Comparison) -> Table:
    """The same by category, the largest difference first."""
    pope = one.base.benchmark == "pope"
    what = "object" if pope else "task and source"
    title = f"{heading(one)}: accuracy by {what}, % of questions"
    rows = [_group_row(group, family=True) for group in one.categories]
    notes = [
        f"p, Holm: p by image adjusted for all {len(rows)} rows; established where it is at most 0.05 "
        "and the interval, which is not adjusted, leaves 0 out.",
        TESTS,
        *conditions(one),
    ]
    return Table(f"{_id(one)}-categories", title, _group_columns(one, what, family=True), rows, notes)


def flip_tables(one: Comparison, most: int) -> Iterator[Table]:
    """Questions that one run alone has right, the surest first; none where there are none or `most` is 0."""
    a, b = one.base.letter, one.other.letter
    for gained, right, wrong in ((True, b, a), (False, a, b)):
        found = [flip for flip in one.flips if flip.gained is gained]
        if not found or not most:
            continue
        title = f"{heading(one)}: right in {right}, wrong in {wrong}: {min(most, len(found)):,} of {len(found):,}"
        heads = ("question", "id", "image", "official", f"answer {a}", f"answer {b}")
        columns = [
            *(Column(head, numeric=False) for head in heads),
            Column(f"margin {a}, nats"),
            Column(f"margin {b}, nats"),
        ]
        notes = [
            "margin: how much likelier the wrong answer that was said (else the likeliest wrong one) was than the "
            "official one: above 0 where a model was surely wrong, below where it was surely right. First those of "
            "which both were surest, by the smaller of the two.",
            *conditions(one),
        ]
        rows = [_flip_row(flip) for flip in found[:most]]
        yield Table(f"{_id(one)}-right-in-{right.lower()}", title, columns, rows, notes)


def pair_tables(one: Comparison, most_flips: int) -> Iterator[Table]:
    """All tables of one run against A."""
    yield score_table(one)
    yield test_table(one)
    yield category_table(one)
    yield from flip_tables(one, most_flips)


def p_cell(p: float | None) -> Cell:
    """A p value; what three places cannot show is a bound."""
    if p is not None and 0 <= p < 0.001:
        return Cell("< 0.001")
    return Cell(printed(p, "number"))


def _id(one: Comparison) -> str:
    return f"{one.other.letter.lower()}-less-{one.base.letter.lower()}"


def gain_cell(gain: Interval) -> Cell:
    """A difference in points, with its interval."""
    return number(gain.value, gain.low, gain.high, "points")


def _group_columns(one: Comparison, what: str, *, family: bool) -> list[Column]:
    a, b = one.base.letter, one.other.letter
    first = map(Column, ["n", "images", a, b, f"{b} less {a}"])
    names = [f"only {a} right", f"only {b} right", "McNemar p", "design effect", "p by image"]
    names += ["p, Holm"] if family else []
    return [Column(what, numeric=False), *first, Column("verdict", numeric=False), *map(Column, names)]


def _group_row(group: Group, *, family: bool) -> list[Cell]:
    effect = group.design_effect
    return [
        Cell(group.name),
        Cell(printed(group.n, "count")),
        Cell(printed(group.images, "count")),
        number(group.base),
        number(group.other),
        gain_cell(group.gain),
        Cell(group.verdict),
        Cell(printed(group.only_base, "count")),
        Cell(printed(group.only_other, "count")),
        p_cell(group.mcnemar),
        Cell(printed(effect if math.isfinite(effect) else None, "number")),
        p_cell(group.p),
        *([p_cell(group.holm)] if family else []),
    ]


def _flip_row(flip: Flip) -> list[Cell]:
    asked = flip.base
    return [
        Cell(shortened(asked.text)),
        Cell(f"{asked.split} {asked.number}"),
        Cell(asked.image),
        Cell(asked.official),
        # As Python writes it: where it begins and ends is to be seen.
        Cell(shortened(repr(flip.base.answer))),
        Cell(shortened(repr(flip.other.answer))),
        *(Cell(printed(margin, "signed")) for margin in flip.margins),
    ]
