"""The plan: each distinct ask once, in an order that neither labels nor ids nor the order of rows can move."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.data.images import EncodedFile
from benchmarks.plan import BLIND_GROUP, Planner, Shown, remaining, share
from benchmarks.pope.planning import limit_images, plan_pope
from benchmarks.pope.questions import load_questions
from benchmarks.pope.types import Question, QuestionSet
from benchmarks.prompts import load_prompt
from benchmarks.records import AnswerRecord

OFFICIAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "pope" / "official"
DECODING = {"greedy": True, "max_new_tokens": 8}


class NamedImages:
    """Every image exists, its name is its content."""

    def read(self, name):
        return EncodedFile(name, name.encode())

    def missing(self, names):
        return []


def question(split, number, image, thing, label):
    text = f"Is there a {thing} in the image?"
    return Question(split, str(number), image, text, label, thing, image, "here")


def question_set(rows):
    return QuestionSet("coco", "custom:x", "0" * 64, tuple(rows))


ROWS = [
    question(split, n, f"{n % 7}.jpg", ["dog", "cat", "car", "cup", "bus"][n % 5], n % 2 == 0)
    for split in ("random", "popular")
    for n in range(60)
]


def planned(rows, seed=0, fingerprint="f", conditions=("image",), source=None):
    return plan_pope(
        [question_set(rows)],
        [source or NamedImages()],
        prompt=load_prompt("default"),
        conditions=conditions,
        decoding=DECODING,
        fingerprint=fingerprint,
        seed=seed,
    )


def test_identical_pairs_are_asked_once_and_every_question_knows_its_answer():
    plan = planned(ROWS)
    pairs = {(q.image, q.text) for q in ROWS}
    assert (plan.questions, plan.images, plan.pairs) == (120, 7, len(pairs))
    prompts = {a.key: (g.shown.name, a.prompt) for g in plan.groups for a in g.asks}
    assert len(prompts) == len(pairs)
    for q, row in zip(ROWS, plan.rows, strict=True):
        assert prompts[row["keys"]["image"]] == (q.image, load_prompt("default").of(q.text))


@given(st.randoms(use_true_random=False), st.lists(st.booleans(), min_size=len(ROWS), max_size=len(ROWS)))
def test_neither_labels_nor_ids_nor_the_order_of_rows_move_the_plan(draw, labels):
    ids = [str(i) for i in range(len(ROWS))]
    draw.shuffle(ids)
    changed = [replace(q, label=label, question_id=i) for q, label, i in zip(ROWS, labels, ids, strict=True)]
    draw.shuffle(changed)
    conditions = ("image", "blind", "blank", "shuffled", "other-image")
    assert planned(changed, conditions=conditions).groups == planned(ROWS, conditions=conditions).groups


def test_the_seed_alone_moves_the_order_and_only_the_order():
    first, again, other = planned(ROWS).groups, planned(ROWS).groups, planned(ROWS, seed=1).groups
    assert first == again
    assert [g.shown.name for g in first] != [g.shown.name for g in other]
    assert {frozenset(g.asks) for g in first} == {frozenset(g.asks) for g in other}


def test_keys_and_order_are_those_of_runs_that_were_made_before():
    conditions = ("image", "blind", "blank", "shuffled", "other-image")
    keys = [a.key for g in planned(ROWS, conditions=conditions).groups for a in g.asks]
    assert len(keys) == 110
    assert hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16] == "2f02fcdf3f402a52"
    planner = Planner(DECODING, "f")
    assert planner.add(Shown("sha", "a.jpg"), "Which?") == "581565c12b57005f2bcf4a5f312842ee"
    assert planner.add(None, "Which?", ("A", "B")) == "1fdabde3b07ddb18d773cbf3373aeac7"


@given(st.permutations([(prompt, tokens) for prompt in "ab" for tokens in (4, 8, 128)]))
def test_a_prompt_with_two_token_budgets_is_two_asks_of_one_group_in_an_order_of_their_own(asks):
    planner, shown = Planner({"greedy": True}, "f"), Shown("sha", "a.jpg")
    keys = {ask: planner.add(shown, ask[0], max_new_tokens=ask[1]) for ask in asks}
    assert planner.add(shown, "a", max_new_tokens=8) == keys["a", 8]
    (group,) = planner.groups(0)
    assert {(a.prompt, a.max_new_tokens): a.key for a in group.asks} == keys
    assert len(set(keys.values())) == 6
    usual = Planner({"greedy": True, "max_new_tokens": 8}, "f")
    assert [usual.add(shown, "a"), usual.add(shown, "a", max_new_tokens=4)] == [keys["a", 8], keys["a", 4]]
    assert [a.max_new_tokens for a in group.asks] == [4, 8, 128] * 2


def test_positives_do_not_come_before_negatives():
    rows = [question("random", n, "a.jpg", f"thing {n:02}", n < 20) for n in range(40)]
    order = [rows[int(a.prompt.split()[4])].label for a in planned(rows).groups[0].asks]
    assert 5 <= sum(order[:20]) <= 15


class EditedImages(NamedImages):
    def read(self, name):
        return EncodedFile(name, b"edited" if name == "3.jpg" else name.encode())


def test_an_edited_image_changes_its_own_group_and_leaves_the_others_in_place():
    before, after = planned(ROWS).groups, planned(ROWS, source=EditedImages()).groups
    others = [g for g in before if g.shown.name != "3.jpg"]
    assert [g for g in after if g.shown.name != "3.jpg"] == others
    assert not {a.key for g in after for a in g.asks} >= {a.key for g in before for a in g.asks}


class OneContent(NamedImages):
    def read(self, name):
        return EncodedFile(name, b"the same file")


def test_files_of_the_same_content_are_one_image_under_the_first_name():
    for rows in (ROWS, ROWS[::-1]):
        plan = planned(rows, source=OneContent())
        assert [g.shown.name for g in plan.groups] == ["0.jpg"]


def test_blind_prompts_are_asked_once_for_all_images_in_groups_of_limited_size():
    rows = [question("random", n, f"{n % 3}.jpg", f"thing {n % 150}", True) for n in range(300)]
    blind = [g for g in planned(rows, conditions=("blind",)).groups if g.shown is None]
    assert sorted(len(g.asks) for g in blind) == [150 - 2 * BLIND_GROUP, BLIND_GROUP, BLIND_GROUP]
    assert len({a.prompt for g in blind for a in g.asks}) == 150


@given(st.integers(0, 40), st.integers(1, 9))
def test_the_shares_of_all_processes_are_the_plan(count, world):
    planner = Planner(DECODING, "f")
    for n in range(count):
        planner.add(Shown(f"sha {n}", f"{n}.jpg"), "prompt")
    groups = planner.groups(0)
    shares = [share(groups, rank, world) for rank in range(world)]
    assert sorted((g for s in shares for g in s), key=str) == sorted(groups, key=str)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_what_is_left_is_what_has_no_answer_with_earlier_failures_last():
    groups = planned(ROWS).groups
    records = {}
    for place, group in enumerate(groups[:3]):
        for number, ask in enumerate(group.asks):
            error = None if place == 0 or (place == 1 and number) else "E: x"
            records[ask.key] = AnswerRecord(ask.key, "", "", "", None if error else "Yes", "eos", error=error)
    left = remaining(groups, records)
    assert left[:-2] == groups[3:]
    assert [g.failed_before for g in left] == [False] * (len(groups) - 3) + [True, True]
    assert left[-2].asks == groups[1].asks[:1]
    assert left[-1].asks == groups[2].asks
    assert remaining(groups, {}) == groups


@given(st.integers(1, 9), st.integers(0, 3))
def test_a_limit_takes_whole_images_and_a_larger_one_takes_the_same_and_more(limit, seed):
    (some,) = limit_images([question_set(ROWS)], limit, seed)
    (more,) = limit_images([question_set(ROWS)], limit + 1, seed)
    images = {q.image for q in some.questions}
    assert len(images) == min(limit, 7)
    assert some.questions == tuple(q for q in ROWS if q.image in images)
    assert images <= {q.image for q in more.questions}


def test_the_seed_chooses_the_images_of_a_limit():
    chosen = {frozenset(q.image for q in limit_images([question_set(ROWS)], 2, s)[0].questions) for s in range(10)}
    assert len(chosen) > 3


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="POPE's official files are not on this machine")
def test_popes_nine_thousand_coco_questions_are_5127_asks_in_500_groups():
    (coco,) = load_questions([str(OFFICIAL / f"coco_pope_{s}.json") for s in ("random", "popular", "adversarial")])
    plan = planned(coco.questions)
    assert (plan.questions, plan.pairs, plan.images, len(plan.groups)) == (9000, 5127, 500, 500)
    shuffled = list(coco.questions)
    random.Random(5).shuffle(shuffled)
    assert planned(shuffled).groups == plan.groups
