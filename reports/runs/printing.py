"""Questions as lines for a terminal. Whatever a model or a data file wrote is printed inert: see `printable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from reports.runs.files import printable
from reports.runs.showing import VERDICTS, Choice, Opened, Shown

COLOURS = {"right": "green", "wrong": "red", "error": "magenta", "missing": "magenta", "not counted": "yellow"}
MOST_REMARKS = 10


def remark_lines(remarks: Sequence[str]) -> Iterator[str]:
    """The first remarks, and how many more there are."""
    yield from (printable(remark) for remark in remarks[:MOST_REMARKS])
    if len(remarks) > MOST_REMARKS:
        yield f"{len(remarks) - MOST_REMARKS} more lines are damaged"


def lines(opened: Opened, choice: Choice) -> Iterator[str]:
    """What is printed: the run, the chosen questions, how many there are. Raises DataError: see `Choice.of`."""
    found = choice.of(opened.questions)
    yield click.style(printable(opened.title), bold=True)
    shown = choice.limited(found)
    for question in shown:
        yield ""
        yield from question_lines(question)
    counts = opened.count()
    said = ", ".join(f"{counts[v]} {v}" for v in (*VERDICTS, "unparsed") if counts[v])
    how = f", drawn by seed {choice.seed}" if choice.seed is not None and len(shown) < len(found) else ""
    yield ""
    yield f"{len(shown)} of {len(found)} that fit{how} · the run: {len(opened.questions)} questions ({said or 'none'})"


def question_lines(one: Shown) -> Iterator[str]:
    """A question in four to six lines."""
    verdict = click.style(f"{one.read.verdict:<11}", fg=COLOURS[one.read.verdict])
    yield f"{verdict} {printable(f'{one.split} {one.number} · {one.category} · {one.image}')}"
    yield f"  question  {printable(one.text)}"
    yield f"  official  {printable(one.official)}"
    if one.error is not None:
        yield f"  error     {printable(one.error)}"
    elif one.answer is not None:
        # As Python writes it: where it begins and ends, and what in it cannot be seen, is to be seen.
        yield f"  answer    {one.answer!r}"
        yield f"  read as   {printable(one.read.label)} ({printable(one.read.rule)})"
    if one.logprobs:
        yield f"  log p     {printable('  '.join(f'{name} {value:.3f}' for name, value in one.likeliest))}"
