"""Requests against the record store, with a stub for a model."""

from __future__ import annotations

import hashlib
import itertools
import json
import os

import pytest

from agevlm.errors import NotSupported
from agevlm.vlm.contract import Reply
from benchmarks.lmms import asking
from benchmarks.lmms.asking import Records, generate, missing, rank
from benchmarks.lmms.wanted import Decoding, Images, Wanted
from benchmarks.records import AnswerWriter, load_answers, read_commits
from benchmarks.run import RunStopped
from tests.benchmarks.runs.stub import StubVlm, digest, picture


class Ranking(StubVlm):
    """Ranks by length and says the shortest option."""

    ranked = 0

    def rank(self, encoded, asks, options):
        for ask in asks:
            self.trouble(None if ask.image is None else encoded.digests[ask.image], ask.prompt)
        self.ranked += len(asks)
        return [[-float(len(o)) for o in texts] for texts in options]

    def _reply(self, picture, prompt):
        return Reply("no!", "length")


def wanted_of(images, *rows):
    """Rows of (picture's number or None, prompt, tokens or option)."""
    made = []
    for n, (number, prompt, last) in enumerate(rows):
        shown = images.add(f"task/test/{n}", lambda number=number: None if number is None else picture(number))
        option = last if isinstance(last, str) else None
        made.append(Wanted(f"task/test/{n}", shown, prompt, Decoding(1 if option else last, ()), option))
    return made


ROWS = [(0, "a", 8), (1, "a", 8), (0, "b", 8), (0, "a", 8), (None, "a", 8), (2, "b", 8), (1, "c", 4)]


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "records")


def texts(vlm, records, rows=ROWS):
    images, done = Images(), []
    answers = generate(wanted_of(images, *rows), images, lambda: vlm, "model", records, done.append)
    return [a.text for a in answers], sum(done)


def test_each_distinct_question_is_asked_once_image_by_image_and_answers_keep_their_order(records):
    vlm = StubVlm()
    found, done = texts(vlm, records)
    plain = StubVlm()
    expected = [plain._reply(None if n is None else digest(picture(n)), p).text for n, p, _ in ROWS]
    assert found == expected
    assert len(set(expected)) > 2
    assert len(vlm.asked) == done == 6
    shown = [one for one, _ in vlm.asked if one is not None]
    groups = sum(a != b for a, b in itertools.pairwise(shown)) + 1
    assert vlm.shown == groups == 3  # two token budgets of a picture are one group


def test_what_is_recorded_is_not_asked_again_and_the_model_not_loaded(records):
    first, _ = texts(StubVlm(), records)
    images = Images()

    def loaded():
        raise AssertionError("nothing is left to ask")

    again = generate(wanted_of(images, *ROWS), images, loaded, "model", records, lambda _: None)
    assert [a.text for a in again] == first
    other = StubVlm()
    images = Images()
    generate(wanted_of(images, *ROWS), images, lambda: other, "another model", records, lambda _: None)
    assert len(other.asked) == 6


def test_a_failing_question_is_an_error_record_and_all_others_are_answered(records):
    def trouble(_, prompt):
        if prompt == "b":
            raise ValueError("planted")

    images = Images()
    wanted = wanted_of(images, *ROWS[:4])
    vlm = StubVlm(trouble=trouble)
    generate(wanted, images, lambda: vlm, "model", records, lambda _: None)
    again = generate(wanted, images, lambda: vlm, "model", records, lambda _: None)
    assert [a.error for a in again] == [None, None, "ValueError: planted", None]
    assert missing(wanted, again) == (1, "task/test/2: ValueError: planted")


def test_likelihoods_are_recorded_ranked_once_and_come_back_in_order(records):
    rows = [(0, "q", " no"), (0, "q", " yes"), (1, "q", " perhaps"), (0, "r", " no"), (0, "q", " no")]
    for expected_ranked in (3, 0):
        vlm, images, done = Ranking(), Images(), []
        found = rank(wanted_of(images, *rows), images, lambda v=vlm: v, "model", records, done.append)
        assert [f.logprobs[row[2]] for f, row in zip(found, rows, strict=True)] == [-3, -4, -8, -3, -3]
        assert {f.text for f in found} == {"no!"}
        assert (vlm.ranked, sum(done)) == (expected_ranked, 3)


def test_keys_are_those_of_records_that_were_made_before(records):
    """Or a finished run would be asked again."""
    images, likely = Images(), Images()
    texts = generate(wanted_of(images, *ROWS), images, StubVlm, "model", records, lambda _: None)
    rows = [(0, "q", " no"), (0, "q", " yes"), (None, "é", "a longer option"), (None, "r", "long " * 20)]
    ranks = rank(wanted_of(likely, *rows), likely, Ranking, "model", records, lambda _: None)
    assert [a.key[:8] for a in texts] == [
        "c5ac79bc",
        "ef454dae",
        "11807514",
        "c5ac79bc",
        "334075bd",
        "1b33f8a8",
        "0aba7ef7",
    ]
    assert [a.key[:8] for a in ranks] == ["8fa47a54", "8fa47a54", "66caba6c", "a71e1e4c"]
    longhand = json.dumps(
        [None, "é", {"greedy": True, "max_new_tokens": 16, "rank": ["a longer option"]}, "model"], ensure_ascii=False
    )
    assert ranks[2].key == hashlib.sha256(longhand.encode()).hexdigest()[:32]


def test_an_option_that_cannot_be_ranked_costs_its_image_once_and_itself_alone_afterwards(records):
    def trouble(_, prompt):
        if prompt == "bad":
            raise MemoryError("planted")

    rows = [(0, "good", " no"), (0, "bad", " no"), (1, "good", " no")]
    errors = []
    for _ in range(2):
        images = Images()
        found = rank(
            wanted_of(images, *rows), images, lambda: Ranking(trouble=trouble), "model", records, lambda _: None
        )
        errors.append([f.error for f in found])
    planted = "the options cannot be ranked (MemoryError: planted); cvbench --no-rank asks without"
    assert errors == [[planted, planted, None], [None, planted, None]]


def test_an_interrupted_ranking_keeps_what_is_done_and_the_next_asks_the_rest(records):
    def interrupt(picture, _):
        begun.add(picture)
        if len(begun) == 3:
            raise KeyboardInterrupt

    begun, images = set(), Images()
    wanted = wanted_of(images, *[(n, "q", " no") for n in range(5)])
    with pytest.raises(KeyboardInterrupt):
        rank(wanted, images, lambda: Ranking(trouble=interrupt), "model", records, lambda _: None)
    kept, vlm = records.known(), Ranking()
    assert len(kept) == 2
    found = rank(wanted, images, lambda: vlm, "model", records, lambda _: None)
    assert [f.logprobs for f in found] == [{" no": -3.0}] * 5
    assert vlm.ranked == 3
    assert records.known().items() >= kept.items()


def test_a_model_that_fails_on_every_image_ends_the_run_with_what_is_kept(records):
    def trouble(picture, _):
        raise RuntimeError("broken")

    broken = "RuntimeError: broken"
    unranked = rf"the options cannot be ranked \({broken}\)"
    for how, last, kind, said in ((generate, 8, StubVlm, broken), (rank, " no", Ranking, unranked)):
        images = Images()
        wanted = wanted_of(images, *[(n, "q", last) for n in range(5)])
        with pytest.raises(RunStopped, match=f"failed on 3 images in a row: {said}"):
            how(wanted, images, lambda k=kind: k(trouble=trouble), "model", records, lambda _: None)
    assert len(records.known()) == 6


def test_broken_images_are_no_failures_of_the_model_and_blind_options_come_in_parts(records):
    images = Images()
    wanted = wanted_of(images, *[(n, "q", " no") for n in range(5)], *[(None, f"{n}", " no") for n in range(70)])
    bad = {w.shown.identity for w in wanted[:4]}
    plain = images.load

    def load(shown):
        if shown.identity in bad:
            raise OSError("truncated")
        return plain(shown)

    images.load = load
    found = rank(wanted, images, lambda: Ranking(), "model", records, lambda _: None)
    assert [f.error for f in found[:5]] == ["OSError: truncated"] * 4 + [None]
    assert all(f.error is None for f in found[5:])
    commits = [len(c) for c, _ in read_commits(records.path / "answers-00000.jsonl")]
    assert sorted(commits) == [1, 1, 1, 1, 1, 6, 64]


def test_a_model_that_ranks_nothing_is_refused_at_once(records):
    vlm = StubVlm()
    vlm.capabilities = frozenset({"blind"})
    images = Images()
    with pytest.raises(NotSupported, match="no log-probabilities of whole options"):
        rank(wanted_of(images, (0, "q", " no")), images, lambda: vlm, "model", records, lambda _: None)


def test_two_runs_share_a_folder_each_with_a_file_of_its_own(records):
    records.path.mkdir()
    other = AnswerWriter(records.path / "answers-00000.jsonl")
    try:
        texts(StubVlm(), records)
    finally:
        other.close()
    assert sorted(p.name for p in records.path.iterdir()) == ["answers-00000.jsonl", "answers-00001.jsonl"]
    assert len(load_answers(records.path.glob("answers-*"))) == 6


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(asking.RunFolderError, match="file"), Records(tmp_path / "file" / "below").writer():
        pass
    assert os.listdir(tmp_path) == ["file"]
