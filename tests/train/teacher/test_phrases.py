"""Words to look for: in lists, as the data name them, by spaCy."""

import itertools
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agevlm.errors import DataError
from train.data.samples import Message, Sample, Words
from train.teacher.phrases import COCO, Given, Vocabulary, open_finder


def said(*texts, words=()):
    roles = ("user", "assistant")
    return Sample("s", tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)), words=tuple(words))


def found(finder, *texts):
    sample = said(*texts)
    return [sample.messages[w.message].text[w.start : w.end] for w in finder.find(sample)]


def test_whole_words_in_any_case_and_number_the_longest_first():
    finder = Vocabulary(["dog", "hot dog", "person", "knife", "traffic light", "bus"], "list")
    assert found(finder, "Two people eat Hot Dogs; a dog and its doghouse.") == ["people", "Hot Dogs", "dog"]
    assert found(finder, "knives at the traffic\n lights", "Buses, hot-dog stands, dog-like.") == [
        "knives",
        "traffic\n lights",
        "Buses",
        "hot-dog",
    ]
    assert found(finder, "nothing of the kind") == []


@given(st.lists(st.sampled_from(["dog", "dogs", "hot dog", "cat", "a", "catdog", "-", ","]), max_size=12))
def test_found_words_are_in_the_list_apart_and_in_order(words):
    text = " ".join(words)
    spans = Vocabulary(["dog", "cat", "hot dog"], "list").find(said(text))
    assert all(text[w.start : w.end] in ("dog", "dogs", "cat", "hot dog", "hot dogs") for w in spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    assert len(spans) == sum(word in ("dog", "dogs", "cat", "hot dog") for word in words)


def test_coco_s_eighty_categories():
    terms = COCO.read_text().splitlines()
    assert len(terms) == len(set(terms)) == 80
    assert found(open_finder("coco"), "A person with a teddy bear, two sheep and skis.") == [
        "person",
        "teddy bear",
        "sheep",
        "skis",
    ]


def test_the_version_tells_lists_apart_but_not_their_order(tmp_path):
    for name, text in (("a", "dog\ncat\n"), ("b", "cat\n\ndog"), ("c", "dog\ncow")):
        (tmp_path / name).write_text(text)
    versions = [open_finder(str(tmp_path / name)).version.split("(")[1] for name in "abc"]
    assert versions[0] == versions[1] != versions[2]


def test_given_phrases_come_in_order_each_once_and_those_within_others_too():
    words = [Words(1, 4, 9), Words(0, 3, 5), Words(0, 3, 8), Words(0, 5, 12), Words(0, 3, 5)]
    expected = [Words(0, 3, 8), Words(0, 3, 5), Words(0, 5, 12), Words(1, 4, 9)]
    assert Given().find(said("x" * 20, "y" * 20, words=words)) == expected


def test_what_the_system_says_is_not_looked_through():
    sample = Sample("s", (Message("system", "A dog."), Message("user", "a dog?"), Message("assistant", "no dog")))
    assert Vocabulary(["dog"], "list").find(sample) == [Words(1, 2, 5), Words(2, 3, 6)]


@pytest.mark.parametrize(
    ("name", "says"), [("no-such-file", "cannot be read"), ("{empty}", "no phrase"), ("spacy:x", "spaCy")]
)
def test_lists_and_pipelines_that_are_not_there(tmp_path, name, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(DataError, match=says):
        open_finder(name.format(empty=tmp_path / "empty"))


def test_noun_phrases_come_without_articles_and_pronouns(monkeypatch):
    """With a stand-in for spaCy, which is no dependency: its interface is used as its documentation has it."""

    def token(text, at, pos):
        return types.SimpleNamespace(text=text, idx=at, pos_=pos)

    text = "The red dog sees it"
    chunks = [[token("The", 0, "DET"), token("red", 4, "ADJ"), token("dog", 8, "NOUN")], [token("it", 17, "PRON")]]

    class Pipeline:
        meta = {"lang": "en", "name": "small", "version": "9"}  # noqa: RUF012
        pipe_names = ("tagger", "parser")

        def __call__(self, said):
            assert said == text
            return types.SimpleNamespace(noun_chunks=chunks)

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=lambda name: Pipeline()))
    finder = open_finder("spacy:en_core_web_sm")
    assert found(finder, text) == ["red dog"]
    assert finder.version == "noun phrases of spaCy's en_small 9"
    monkeypatch.setattr(Pipeline, "pipe_names", ("tagger",))
    with pytest.raises(DataError, match="no parser"):
        open_finder("spacy:en_core_web_sm")
