"""All numbers of a run: conditions, readings, floors and gains, against longhand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

import pytest

from agevlm.errors import DataError
from benchmarks.cvbench.floors import FLOORS, floor_options
from benchmarks.cvbench.questions import Question, QuestionSet
from benchmarks.cvbench.ranked import RANKINGS, ranked_texts
from benchmarks.cvbench.readers import READERS, chosen_readers
from benchmarks.cvbench.results import Answered, ResultRow, Results, results
from benchmarks.cvbench.score import Row, gains, official_mean, score
from benchmarks.cvbench.types import Reading
from benchmarks.records import Answer

DRAWS = 200
TASKS = {"ADE20K": "Count", "COCO": "Relation", "Omni3D": "Depth"}


def questions(n: int = 120, seed: int = 0) -> tuple[Question, ...]:
    """Two questions about every image, all three sources; in Depth the lamp is right whenever it is offered."""
    random, made = Random(seed), []
    for number in range(n):
        source = ("ADE20K", "COCO", "Omni3D")[number // 2 % 3]
        options = random.sample(["lamp", "sofa", "desk", "bin"], 2) if source == "Omni3D" else ["1", "2", "3", "4"]
        gold = options.index("lamp") if "lamp" in options else random.randrange(len(options))
        image = f"{number // 2}.png"
        kind = "3D" if source == "Omni3D" else "2D"
        made.append(
            Question(str(number), source, kind, TASKS[source], image, image, f"{number}?", tuple(options), gold, "here")
        )
    return tuple(made)


QUESTIONS = questions()
SET = QuestionSet("custom@test", "", QUESTIONS)


def letter(place: int) -> str:
    return f"({'ABCD'[place]})"


def answered(share: float, seed: int = 1) -> dict[str, Answer]:
    """Right letters with this probability; some answers say "I cannot tell." and some are missing or failed."""
    random, found = Random(seed), {}
    for q in QUESTIONS:
        draw = random.random()
        ranks = {text: -random.random() for text in ranked_texts(q.options)}
        place = q.gold if random.random() < share else (q.gold + 1) % len(q.options)
        if draw < 0.05:
            found[q.idx] = Answer(None)
        elif draw < 0.1:
            found[q.idx] = Answer("I cannot tell.", ranks)
        elif draw > 0.02:
            found[q.idx] = Answer(letter(place), ranks)
    return found


WITH, BLIND = answered(0.9), answered(0.4, seed=2)
ALL = tuple(READERS.values())


@pytest.fixture(scope="module")
def whole() -> Results:
    return results(Answered(SET, {"image": WITH, "blind": BLIND}, "official"), ALL, draws=DRAWS)


def rows(found: Results, condition: str, reading: str) -> dict[str, ResultRow]:
    return {r.score.name: r for r in found.rows if (r.condition, r.reading) == (condition, reading)}


def right(given: dict[str, Answer], which: Sequence[Question]) -> list[tuple[str, bool]]:
    return [
        (q.source, given[q.idx].text == letter(q.gold))
        for q in which
        if q.idx in given and given[q.idx].text is not None
    ]


def test_numbers_of_every_condition(whole: Results) -> None:
    for condition, given in (("image", WITH), ("blind", BLIND)):
        found = rows(whole, condition, "rules")
        assert found["official"].score.accuracy.value == official_mean(right(given, QUESTIONS))
        failed = sum(a.text is None for a in given.values())
        assert found["row mean"].score.n == len(given) - failed
        assert found["row mean"].score.missing == len(QUESTIONS) - len(given) + failed > 0
        assert found["row mean"].score.unparsed == sum(a.text == "I cannot tell." for a in given.values()) > 0
        assert whole.errors[condition] == failed
        assert whole.missing[condition] == len(QUESTIONS) - len(given) + failed
        assert {r.reading for r in whole.rows if r.condition == condition} == set(READERS)


def test_gains_are_paired_by_question(whole: Results) -> None:
    both = [q for q in QUESTIONS if all(g.get(q.idx, Answer(None)).text is not None for g in (WITH, BLIND))]
    assert len(both) < len(right(WITH, QUESTIONS))
    first, second = (official_mean(right(g, both)) for g in (WITH, BLIND))
    assert first is not None
    assert second is not None
    found = rows(whole, "blind", "rules")["official"].gain
    assert found is not None
    assert found.value == pytest.approx(first - second, abs=1e-12)
    assert 0 < found.low < found.value < found.high
    assert all(r.gain is None for r in whole.rows if r.condition != "blind")


def test_gains_need_the_same_questions() -> None:
    made = [Row(q.image, q.source, q.type, q.task, 2, q.gold, Reading(0, "letter")) for q in QUESTIONS[:4]]
    assert gains(made, made, draws=DRAWS)["row mean"].value == 0
    for other in ([], made[:3], made[::-1]):
        with pytest.raises(ValueError, match="same questions"):
            gains(made, other, draws=DRAWS)


def test_an_answer_compared_with_itself_gains_nothing() -> None:
    same = results(Answered(SET, {"image": WITH, "blank": WITH}, "official"), ALL[:1], draws=DRAWS)
    for row in rows(same, "blank", "rules").values():
        assert row.gain is not None
        assert row.gain.value == 0
        assert row.gain.low <= 0 <= row.gain.high


def test_a_model_that_ranks_nothing_has_no_ranked_rows_and_it_is_said() -> None:
    plain = {idx: Answer(a.text) for idx, a in WITH.items()}
    found = results(Answered(SET, {"image": plain}, "official"), ALL, draws=DRAWS)
    ranked = {(c, r): n for (c, r), n in found.absent.items()}
    assert ranked == {("image", name): sum(a.text is not None for a in plain.values()) for name in RANKINGS}
    assert {r.reading for r in found.rows if not r.is_floor} == set(READERS) - set(RANKINGS)


def test_readings_are_counted_by_rule_and_difference(whole: Results) -> None:
    for one in whole.readings:
        assert sum(one.rules.values()) == one.answers
        assert sum(n for (_, found), n in one.rules.items() if not found) == one.unparsed
    (rules,) = (one for one in whole.readings if (one.condition, one.reading) == ("image", "rules"))
    assert rules.differs == 0
    assert rules.rules["letter-alone", True] == len(right(WITH, QUESTIONS)) - rules.unparsed
    assert whole.agreement["rules", "strict"] == len(QUESTIONS)
    assert all(len(d.readings) == len(READERS) for d in whole.disagreements)


def test_floors_learn_from_other_images_alone() -> None:
    found = floor_options("option-text", QUESTIONS)
    lamps = [(q, place) for q, place in zip(QUESTIONS, found, strict=True) if "lamp" in q.options]
    assert lamps
    assert all(q.options[place] == "lamp" for q, place in lamps)
    # a single image has nothing to learn from: the first option
    alone = [q for q in QUESTIONS if q.image == "4.png"]
    for floor in FLOORS:
        assert floor_options(floor, alone) == [0, 0]
    # what is right in a question's own image plays no part in its answer
    flipped = tuple(Question(**{**vars(q), "gold": 1 - q.gold}) if q.image == alone[0].image else q for q in QUESTIONS)
    for floor in FLOORS:
        before, after = floor_options(floor, QUESTIONS), floor_options(floor, flipped)
        assert [before[int(q.idx)] for q in alone] == [after[int(q.idx)] for q in alone]
    with pytest.raises(ValueError, match="majority-letter, option-text"):
        floor_options("none", QUESTIONS)


def test_the_majority_letter_is_that_of_its_task() -> None:
    always_b = tuple(Question(**{**vars(q), "gold": 1 if q.task != "Count" else 3}) for q in QUESTIONS)
    found = floor_options("majority-letter", always_b)
    assert found == [1 if q.task != "Count" else 3 for q in always_b]


def test_floors_are_scored_over_what_was_answered(whole: Results) -> None:
    for floor in FLOORS:
        found = rows(whole, f"floor:{floor}", floor)
        assert found["row mean"].score.n == rows(whole, "image", "rules")["row mean"].score.n
        assert found["row mean"].score.missing == 0
        kept = [q for q in QUESTIONS if WITH.get(q.idx, Answer(None)).text is not None]
        hits = [place == q.gold for q, place in zip(kept, floor_options(floor, kept), strict=True)]
        assert found["row mean"].score.accuracy.value == sum(hits) / len(hits)


def test_json_is_plain_and_the_same_for_the_same_answers(whole: Results) -> None:
    text = json.dumps(whole.to_json(), allow_nan=False)
    again = results(Answered(SET, {"image": WITH, "blind": BLIND}, "official"), ALL, draws=DRAWS)
    assert json.dumps(again.to_json(), allow_nan=False) == text
    official = [r for r in whole.json_rows() if (r["condition"], r["reading"], r["score"]) == ("blind", "rules", "2D")]
    assert len(official) == 1
    assert {"accuracy", "accuracy_low", "accuracy_high", "chance", "gain_accuracy", "n", "missing"} <= set(official[0])


def test_readings_are_chosen_by_name() -> None:
    assert [r.name for r in chosen_readers(("strict", "rules", "strict"))] == ["strict", "rules"]
    assert chosen_readers(()) == chosen_readers(("all",)) == ALL
    with pytest.raises(DataError, match="no CV-Bench reading judged; choose from rules, strict, official"):
        chosen_readers(("judged",))


def test_scoring_nothing() -> None:
    empty = results(Answered(SET, {"image": {}}, "official"), ALL[:1], draws=DRAWS)
    found = rows(empty, "image", "rules")["official"]
    assert (found.score.n, found.score.missing) == (0, len(QUESTIONS))
    assert found.to_json()["accuracy"] is None
    assert score([]) == []
