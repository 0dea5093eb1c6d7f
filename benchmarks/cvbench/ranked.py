"""The readings that need no answer: the option that a model finds most probable after the prompt.

A record keeps the summed log-probability of every text that an option can be ranked by, so that these readings are pure
functions of records, as the others are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cvbench.types import LETTERS, Reading

LETTER, BRACKET, TEXT = "{letter}", "({letter})", "{text}"
"""What an option is ranked by: its letter, the letter in brackets, its text."""


def _form(template: str, place: int, option: str) -> str:
    return option if template == TEXT else template.replace(LETTER, LETTERS[place])


@dataclass(frozen=True)
class Ranking:
    """A way to rank a question's options."""

    name: str
    form: str
    """One of LETTER, BRACKET, TEXT."""
    per_character: bool = False
    """Whether the log-probability is divided by the text's length in characters, as lm-evaluation-harness does for
    `acc_norm`; without, longer options are at a disadvantage."""


_ALL = (
    Ranking("ranked-letter", LETTER),
    Ranking("ranked-bracket", BRACKET),
    Ranking("ranked-text", TEXT),
    Ranking("ranked-text-norm", TEXT, per_character=True),
)
RANKINGS: dict[str, Ranking] = {entry.name: entry for entry in _ALL}
"""Every ranking by name, in the order tables print them."""


def ranked_texts(options: Sequence[str]) -> tuple[str, ...]:
    """The texts whose log-probabilities all rankings together need, each once."""
    forms = (BRACKET, LETTER, TEXT)
    return tuple(dict.fromkeys(_form(form, place, option) for form in forms for place, option in enumerate(options)))


def option_forms(options: Sequence[str]) -> list[dict[str, str]]:
    """The texts that options are ranked by, by their letters, in each form: in brackets, the letter alone, the text."""
    return [
        {LETTERS[place]: _form(form, place, option) for place, option in enumerate(options)}
        for form in (BRACKET, LETTER, TEXT)
    ]


def read_ranking(ranking: Ranking, logprobs: Mapping[str, float], options: Sequence[str]) -> Reading | None:
    """The most probable option, or none where two are equally probable; None where the log-probabilities are missing.

    Args:
        ranking: how to rank.
        logprobs: text -> its summed natural-log probability as the continuation of the prompt.
        options: the options' texts in their order.
    """
    texts = [_form(ranking.form, place, option) for place, option in enumerate(options)]
    if not all(text in logprobs for text in texts):
        return None
    values = [logprobs[text] / (len(text) if ranking.per_character else 1) for text in texts]
    best = [place for place, value in enumerate(values) if value == max(values)]
    return Reading(best[0], "most-probable") if len(best) == 1 else Reading(None, "tie")
