"""What a POPE or CV-Bench run holds besides its scores: questions and answers, and the scores that these make.

Read so that one bad line takes nothing else away. Nothing here writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agevlm.errors import RunFolderError
from benchmarks.cvbench import answers as cvbench_answers
from benchmarks.cvbench.results import Answered as CvAnswered
from benchmarks.pope import answers as pope_answers
from benchmarks.pope.rows import Answered as PopeAnswered
from benchmarks.records import AnswerRecord
from benchmarks.statistics.scores import SCORES
from reports.runs.files import answers_of
from reports.runs.headline import FIELD
from reports.runs.questions import questions_of

DRAWS, SEED = 2000, 0
_TEXTS = ("data_version", "dataset", "prompt", "condition")
_COUNTS = ("n", "images", "missing", "unparsed")
_CELLS = ("errors", "counted", "differs_from_default", "tp", "fp", "tn", "fn")
FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "pope": ((*_TEXTS, "protocol", "split"), (*_COUNTS, *_CELLS), SCORES),
    "cvbench": ((*_TEXTS, "reading", "score"), (*_COUNTS, "below_chance"), ("accuracy", "chance")),
}
"""What every row of their scores has, and tables show: texts, whole numbers (or whether), numbers (or null)."""


@dataclass(frozen=True, eq=False)
class Held:
    """Questions with the answers that are there."""

    pope: Sequence[PopeAnswered]
    cvbench: Sequence[CvAnswered]
    """One or none."""
    asked: Counter[str]
    """Condition -> questions."""
    missing: Counter[str]
    """Condition -> questions that were never answered."""
    errors: Counter[str]
    """Condition -> questions with an error in the answer's place."""


def held(folder: Path, manifest: Mapping[str, Any], remarks: list[str]) -> Held:
    """The questions and answers of a run of POPE or CV-Bench. Damaged lines are named in `remarks` and left out.

    Raises:
        RunFolderError: there are no questions, or run.json does not say what joins them to the answers.
    """
    benchmark = str(manifest["benchmark"])
    rows = [row for _, row in questions_of(folder, manifest, remarks)]
    if not rows:
        raise RunFolderError(f"{folder / 'questions.jsonl'}: holds no questions; give the run's command again")
    records = answers_of(folder, remarks)
    asked, missing, errors = _counts(rows, records)
    if benchmark == "pope":
        sets = pope_answers.join_run(folder, manifest, rows, records)
        return Held([one for one in sets if one.questions.questions], (), asked, missing, errors)
    return Held((), (cvbench_answers.join_run(folder, manifest, rows, records),), asked, missing, errors)


def _counts(
    rows: Sequence[Mapping[str, Any]], records: Mapping[str, AnswerRecord]
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    asked: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for row in rows:
        for condition, key in row["keys"].items():
            asked[condition] += 1
            record = records.get(key)
            missing[condition] += record is None
            errors[condition] += record is not None and record.error is not None
    return asked, missing, errors


def scores_of(found: Held, manifest: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
    """The scores of what is held, as the benchmark's command writes them to scores.json, without a judge's.

    Args:
        found: questions and answers.
        manifest: of the run.
        old: scores that say which protocols or readings lead; None for all of them.
    """
    names = f"{FIELD[str(manifest['benchmark'])]}s"
    settings = (old or {}).get("settings")
    settings = settings if isinstance(settings, dict) else {}
    scoring = manifest.get("scoring")
    scoring = {**(scoring if isinstance(scoring, dict) else {}), **settings}
    draws, seed = (
        value if isinstance(value, int) else other
        for value, other in ((scoring.get("draws"), DRAWS), (scoring.get("seed"), SEED))
    )
    wanted = settings.get(names)
    wanted = tuple(map(str, wanted)) if isinstance(wanted, list) else ()
    head = {"draws": draws, "seed": seed, "level": 0.95}
    if found.pope:
        from benchmarks.pope.protocols import PROTOCOLS, chosen_protocols
        from benchmarks.pope.score import score

        protocols = chosen_protocols([name for name in wanted if name in PROTOCOLS])
        made = score(found.pope, protocols, draws=draws, seed=seed).to_json()
        return {"settings": {**head, names: [one.name for one in protocols]}, **made}
    from benchmarks.cvbench.readers import READERS, chosen_readers
    from benchmarks.cvbench.results import results

    readers = chosen_readers(tuple(name for name in wanted if name in READERS))
    read = results(found.cvbench[0], readers, draws=draws, seed=seed).to_json()
    return {"settings": {**head, names: [one.name for one in readers]}, **read}


def check_rows(benchmark: str, scores: Mapping[str, Any]) -> None:
    """Raise RunFolderError where rows of scores lack what tables show; kinds of run without rows are not looked at."""
    if benchmark not in FIELDS:
        return
    number: tuple[type, ...] = (int, float, type(None))
    kinds = zip(FIELDS[benchmark], (str, int, number), strict=True)
    wanted: dict[str, Any] = {name: kind for names, kind in kinds for name in names} | {"benchmark": str}
    for place, row in enumerate(scores["rows"]):
        # What else a row has are numbers too: limits, bounds, gains.
        wrong = [name for name in wanted if name not in row]
        wrong += [name for name, value in row.items() if not isinstance(value, wanted.get(name, number))]
        if wrong:
            raise RunFolderError(
                f"scores.json is of another version or damaged: row {place}, {', '.join(map(str, wrong))}"
            )
    settings = scores.get("settings")
    if not isinstance(settings, dict) or not all(isinstance(settings.get(name), int) for name in ("draws", "seed")):
        raise RunFolderError("scores.json is of another version or damaged: it does not say draws and seed")
    left = [scores.get(name) for name in ("missing", "errors")] if benchmark == "cvbench" else []
    if not all(isinstance(one, dict) and all(isinstance(count, int) for count in one.values()) for one in left):
        raise RunFolderError("scores.json is of another version or damaged: it does not count what is missing")


def judged(scores: Mapping[str, Any]) -> set[str]:
    """The protocols or readings in scores that a judge's verdicts make."""
    found = scores.get("judge") or []
    shares = found if isinstance(found, list) else [found]
    return {str(one.get("reading")) for one in shares if isinstance(one, dict)}


def without_judged(scores: Mapping[str, Any]) -> list[Any]:
    """The rows that need no judge."""
    names = judged(scores)
    rows = scores.get("rows")
    given = rows if isinstance(rows, list) else []
    return [r for r in given if not isinstance(r, dict) or r.get("protocol", r.get("reading")) not in names]
