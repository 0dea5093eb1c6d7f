"""Images are prepared by another thread while the model is at work, and are answered about as ever."""

import functools
import threading

import pytest

from agevlm.checkpoints.standins import STANDINS, build_standin
from agevlm.vlm import Ask, Prepared
from agevlm.vlm.hf.session import HfVlm
from benchmarks.plan import Planner, Shown
from benchmarks.records import AnswerWriter, load_answers
from benchmarks.run import run_groups

QUESTIONS = ["Is there a dog?", "Is there a zebra in the image?", "Why is it so?"]
LIMIT = 4


@pytest.fixture(scope="module", params=sorted({*STANDINS} - {"smolvlm"}))
def vlm(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return HfVlm.load(build_standin(request.param, folder, seed=1), device="cpu")


def test_another_thread_prepares_and_answers_are_the_same(vlm, pictures, tmp_path, monkeypatch):
    threads, encoded = set(), []
    preprocess, seen = vlm.family.preprocess, vlm._seen

    def watched(image):
        threads.add(threading.current_thread())
        return preprocess(image)

    def noted(image):
        encoded.append(isinstance(image, Prepared))
        return seen(image)

    monkeypatch.setattr(vlm.family, "preprocess", watched)
    monkeypatch.setattr(vlm, "_seen", noted)
    planner = Planner({"max_new_tokens": LIMIT}, vlm.fingerprint.digest)
    keys = {}
    for number in range(len(pictures)):
        for question in QUESTIONS:
            keys[number, question] = planner.add(Shown(str(number), f"{number}.png"), question)
    writer = AnswerWriter(tmp_path / "answers.jsonl")
    load = functools.partial(lambda shown: pictures[int(shown.identity)])
    tally = run_groups(vlm, planner.groups(0), load, writer)
    writer.close()
    assert (tally.groups, tally.errors) == (len(pictures), 0)
    assert threading.main_thread() not in threads
    assert threads
    assert encoded == [True] * len(pictures)
    monkeypatch.undo()
    records = load_answers([tmp_path / "answers.jsonl"])
    for number, picture in enumerate(pictures):
        alone = vlm.answer(vlm.encode([picture]), [Ask(question, 0, LIMIT) for question in QUESTIONS])
        for question, reply in zip(QUESTIONS, alone, strict=True):
            record = records[keys[number, question]]
            assert (record.text, record.tokens) == (reply.text, len(reply.token_ids))
            assert record.logprobs == pytest.approx(reply.logprobs, abs=1e-5)


def test_an_image_that_cannot_be_prepared_is_left_to_the_model(vlm, pictures, monkeypatch):
    def broken(image):
        raise RuntimeError("no such filter")

    monkeypatch.setattr(vlm.family, "preprocess", broken)
    assert vlm.prepare(pictures[0]) is pictures[0]
    with pytest.raises(RuntimeError, match="no such filter"):
        vlm.encode([vlm.prepare(pictures[0])])
