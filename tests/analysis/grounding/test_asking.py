"""From one image's regions to rows and back, with a model that is known beforehand and one that is a stub."""

import numpy as np
import pytest
from PIL import Image

from agevlm.data.masks import encode_mask
from agevlm.errors import NotSupported
from agevlm.geometry import Geometry
from agevlm.vlm.contract import Ask, EncodedImages, Fingerprint, Probe, ProbedToken, ProbeSpec, Reply, Vlm
from analysis.grounding.asking import AskedImage, How, Room, look, room
from analysis.grounding.measures import area_matched_iou, ceilings, mass_inside, scores
from analysis.grounding.records import KINDS, NO_ANSWER, NO_TOKEN, SCHEMA, UNSEEN, look_of, packed
from analysis.regions import Region
from benchmarks.prompts import DEFAULT, OFFICIAL
from tests.analysis.test_planted import MODES, SIZES, looks_at_what_is_bright, patches, with_patch

ROWS, COLUMNS = 3, 4
LAYERS = (2, 5)


class _Images(EncodedImages):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)


class Stub(Vlm):
    """Words are tokens; a token's attention is a map drawn from its place, its layer and its head."""

    fingerprint = Fingerprint("stub", {})
    capabilities = frozenset({"logprobs", "probe"})

    def __init__(self, geometry=None, answer="Yes", ids=(7, 8)):
        self.calls, self.given, self.reply, self.ids = [], geometry, answer, ids

    def encode(self, images):
        self.calls.append("encode")
        return _Images(images)

    def answer(self, encoded, asks):
        self.calls.append("answer")
        if self.reply is None:
            return [Reply.failed("out of luck") for _ in asks]
        return [Reply(self.reply, "eos", {"yes": -0.1, "no": -2.0}, self.ids) for _ in asks]

    def rank(self, encoded, asks, options):
        raise NotImplementedError

    def geometry(self, encoded, image):
        return self.given or Geometry.squash(encoded.images[0].size, (40, 30), (ROWS, COLUMNS))

    def tokens(self, encoded, asks, answers):
        found = []
        for ask, answer in zip(asks, answers, strict=True):
            tokens, at = [ProbedToken("USER:", "template", 0, 5)], 0
            for word in ask.prompt.split(" "):
                if word != "mute":
                    tokens.append(ProbedToken(word, "prompt", at, at + len(word)))
                at += len(word) + 1
            tokens.append(ProbedToken("ASSISTANT:", "template", 5, 15))
            tokens += [ProbedToken(str(k), "answer", k, k + 1) for k in range(len(answer))]
            found.append(tuple(tokens))
        return found

    def probe(self, encoded, asks, answers, spec, wanted=None):
        self.calls.append(("probe", len(asks), [len(a) for a in answers]))
        found = []
        for ask, tokens, own in zip(asks, self.tokens(encoded, asks, answers), wanted, strict=True):
            heads = np.stack([self.map_of(ask.prompt, k) for k in own], axis=2)
            geometry = self.geometry(encoded, 0)
            found.append(
                Probe(
                    tuple(tokens[k] for k in own),
                    LAYERS,
                    heads.mean(1),
                    np.full((len(LAYERS), len(own)), 0.125, np.float32),
                    geometry,
                    heads if spec.heads else None,
                )
            )
        return found

    def map_of(self, prompt, token):
        """(layers, heads, rows, columns)."""
        rng = np.random.default_rng([len(prompt), token])
        maps = rng.random((len(LAYERS), 3, ROWS, COLUMNS)).astype(np.float32)
        return maps / maps.sum((-2, -1), keepdims=True) / 2


def region(phrase, mask, **given):
    return Region("a.png", phrase, encode_mask(mask), mask.shape, id=given.pop("id", phrase), **given)


def box(x0, y0, x1, y1, size=(30, 40)):
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


IMAGE = Image.new("RGB", (40, 30))
HOW = How(OFFICIAL, False, 16, (0, 1))


def asked(*regions):
    return AskedImage("a.png", regions, "")


def test_every_kind_of_query_is_the_token_it_says():
    stub = Stub()
    one = region("traffic light", box(0, 0, 20, 10))
    (row,) = look(stub, asked(one), IMAGE, HOW)
    found = look_of(row, row["layers"])
    prompt = "Is there a traffic light in the image?"
    words = ["USER:", *prompt.split(" "), "ASSISTANT:", "answer"]
    places = {
        "phrase": [words.index("traffic"), words.index("light")],
        "phrase-last": [words.index("light")],
        "last": [words.index("ASSISTANT:")],
        "answer": [words.index("answer")],
    }
    assert found.layers == ("mean", "2", "5")
    for kind, tokens in places.items():
        maps = np.mean([stub.map_of(prompt, k).mean(1) for k in tokens], axis=0)
        longhand = np.concatenate([maps.mean(0, keepdims=True), maps])
        assert found.maps[KINDS.index(kind)] == pytest.approx(longhand, rel=1e-3)
    assert found.elsewhere == pytest.approx(np.full((4, 3), 0.125))
    assert (row["answer"], row["said"], row["logprob_yes"], row["trouble"]) == ("Yes", "yes", -0.1, None)
    assert (found.mask == box(0, 0, 20, 10)).all()
    assert stub.calls == ["encode", "answer", ("probe", 1, [1])], "one token of the answer is enough"


def test_questions_that_are_alike_are_asked_once_and_the_template_shifts_the_phrase():
    stub = Stub()
    question = "Is the red cat there?"
    regions = [
        region("red", box(0, 0, 9, 9), question=question),
        region("cat", box(0, 0, 19, 9), question=question),
        region("dog", box(0, 0, 0, 0), answer="no"),
    ]
    rows = look(stub, asked(*regions), IMAGE, How(DEFAULT, False, 16, (0, 1)))
    assert stub.calls[2] == ("probe", 1, [1]), "what has no mask is not probed"
    assert [row["phrase"] for row in rows] == ["red", "cat", "dog"]
    assert [look_of(row, ("mean",)) is None for row in rows] == [False, False, True]
    prompt = DEFAULT.of(question)
    for row, token in zip(rows, (3, 4), strict=False):
        held = look_of(row, row["layers"]).maps[KINDS.index("phrase-last"), 1:]
        assert held == pytest.approx(stub.map_of(prompt, token).mean(1), rel=1e-3)
    assert rows[2]["right"] == "no"
    assert rows[2]["mask"] is None


def test_heads_are_scored_one_by_one():
    stub, mask = Stub(), box(0, 0, 20, 10)
    (row,) = look(stub, asked(region("cat", mask)), IMAGE, How(OFFICIAL, True, 16, (1,)))
    found = look_of(row, row["layers"])
    assert found.layers == ("mean", "5")
    assert found.heads.shape == (4, 1, 3, 2)
    geometry = stub.geometry(_Images([IMAGE]), 0)
    share, coverage = geometry.mask_to_grid(mask), geometry.coverage()
    heads = stub.map_of("Is there a cat in the image?", 4)[1]
    longhand = np.stack([area_matched_iou(heads, share, coverage), mass_inside(heads, share, coverage)], -1)
    assert found.heads[KINDS.index("phrase-last"), 0] == pytest.approx(longhand, abs=1e-3)


def test_what_cannot_be_looked_for_is_said_and_the_rest_is_looked_for():
    good, mute = region("cat", box(0, 0, 9, 9)), region("mute", box(0, 0, 9, 9), question="Is it mute there?")
    rows = look(Stub(), asked(good, mute), IMAGE, HOW)
    assert [row["trouble"] for row in rows] == [None, NO_TOKEN]
    (failed,) = look(Stub(answer=None), asked(good), IMAGE, HOW)
    assert failed["trouble"] == f"{NO_ANSWER}: out of luck"
    assert (failed["answer"], failed["said"]) == (None, "error")
    # A crop of the middle: what is at the left edge is cut off.
    cropped = Geometry.crop((40, 10), (30, 30), (ROWS, COLUMNS))
    edge = region("cat", box(0, 0, 5, 10, (10, 40)))
    (row,) = look(Stub(cropped), asked(edge), Image.new("RGB", (40, 10)), HOW)
    assert row["trouble"] == UNSEEN


def test_an_answer_without_tokens_has_no_map_and_the_others_have():
    (row,) = look(Stub(answer="", ids=()), asked(region("cat", box(0, 0, 9, 9))), IMAGE, HOW)
    assert row["kinds"] == ["phrase", "phrase-last", "last"]
    held = look_of(row, row["layers"]).maps
    assert np.isnan(held[KINDS.index("answer")]).all()
    assert not np.isnan(held[:3]).any()
    assert row["said"] == "empty"


def test_maps_of_any_size_come_back_to_a_thousandth():
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(12), (4, 3)).reshape(4, 3, 3, 4) * 10.0 ** -np.arange(12).reshape(4, 3, 1, 1)
    content, peaks = packed(maps)
    back = np.frombuffer(content, np.float16).reshape(maps.shape) * np.reshape(peaks, (4, 3, 1, 1))
    assert np.abs(back / maps - 1).max() < 2e-2
    assert np.median(np.abs(back / maps - 1)) < 1e-3
    assert packed(np.zeros((1, 2, 2)))[1] == [0.0]


def test_room_for_few_layers_keeps_some_that_are_spread_and_always_one():
    found = room(Stub(), IMAGE, heads=True)
    assert (found.layers, found.cells, found.heads) == (LAYERS, ROWS * COLUMNS, 3)
    assert room(Stub(), IMAGE, heads=False).heads == 0
    deep = Room(tuple(range(32)), 576)
    assert deep.bytes(32) == 4 * 33 * 576 * 2
    assert deep.kept(deep.bytes(32)) == tuple(range(32))
    assert deep.kept(deep.bytes(3)) == (0, 16, 31)
    assert deep.kept(1) == (0,)
    assert Room(deep.layers, 576, 32).bytes(32) == 4 * (33 * 576 + 32 * 32 * 2) * 2
    for layers in range(1, 33):
        assert deep.bytes(len(deep.kept(deep.bytes(layers)))) <= deep.bytes(layers)


def test_columns_are_those_of_the_records():
    rows = look(Stub(), asked(region("cat", box(0, 0, 9, 9)), region("dog", box(0, 0, 0, 0))), IMAGE, HOW)
    assert all({"group", *row} == set(SCHEMA.names) for row in rows)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_a_planted_look_lands_on_its_mask_for_any_shape_and_any_other_mask_misses_it(mode, size):
    model, size = looks_at_what_is_bright(mode), SIZES[size]
    tried = list(patches(mode, size))
    # Off the diagonals: a map that is turned or flipped must not pass.
    (row, column), where = next(x for x in tried[len(tried) // 3 :] if x[0][0] not in (x[0][1], 5 - x[0][1]))
    here = box(*where, (size[1], size[0]))
    others = [box(*other, here.shape) for cell, other in tried if abs(cell[0] - row) + abs(cell[1] - column) > 2]
    regions = [region("dog", here), *(region("dog", mask, id=str(k)) for k, mask in enumerate(others))]
    rows = look(model, asked(*regions), with_patch(size, where), How(DEFAULT, False, 4, (0, 1)))
    for place, found in enumerate(rows):
        held = look_of(found, found["layers"])
        share, coverage = held.geometry.mask_to_grid(held.mask), held.geometry.coverage()
        got, top = scores(held.maps[:3], share, coverage), ceilings(share, coverage)
        if place == 0:
            assert (got["iou"] > 0.97 * top["iou"]).all()
            assert (got["pointing"] > 0.99 * top["pointing"]).all()
            assert (got["mass"] > 0.3).all()
        else:
            assert (got["iou"] < 0.2).all()
            assert (got["pointing"] == 0).all()


def test_a_probe_is_the_same_as_all_tokens_looked_at_together():
    model = looks_at_what_is_bright("letterbox", planted=False)
    image = with_patch((96, 64), (10, 10, 40, 30))
    one = region("dog", box(10, 10, 40, 30, (64, 96)))
    (row,) = look(model, asked(one), image, How(DEFAULT, False, 4, (0, 1)))
    images = model.encode([image])
    prompt = DEFAULT.of("Is there a dog in the image?")
    ids = model.answer(images, [Ask(prompt, 0, 4)])[0].token_ids
    (whole,) = model.probe(images, [Ask(prompt, 0)], [ids], ProbeSpec())
    tokens = [k for k, t in enumerate(whole.tokens) if t.part == "prompt" and prompt[t.start : t.end].strip() == "dog"]
    first = next(k for k, t in enumerate(whole.tokens) if t.part == "answer")
    found = look_of(row, row["layers"])
    for kind, token in {"phrase-last": tokens[-1], "last": first - 1, "answer": first}.items():
        assert found.maps[KINDS.index(kind), 1:] == pytest.approx(whole.attention[:, token], rel=2e-3, abs=1e-6)


def test_a_model_that_is_closed_says_what_it_can_do():
    class Closed(Stub):
        tokens, probe, geometry = Vlm.tokens, Vlm.probe, Vlm.geometry

    with pytest.raises(NotSupported, match="offers logprobs"):
        look(Closed(), asked(region("cat", box(0, 0, 9, 9))), IMAGE, HOW)
