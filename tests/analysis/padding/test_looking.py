"""One image under every condition with a model that looks where it is told to."""

import io

import numpy as np
import pytest
from PIL import Image

from agevlm.data.sources import ContainerImages
from agevlm.errors import NotSupported
from agevlm.vlm.batching import memory_message
from agevlm.vlm.contract import ProbedToken, Reply
from analysis.padding.attention import attended
from analysis.padding.canvas import Condition, conditions, place
from analysis.padding.looking import Looker, mean_colour, schema, wanted_tokens
from analysis.padding.questions import Asked, ImageItem, Masks, share_left
from analysis.padding.score import _prepared
from benchmarks.statistics.clusters import resampling_weights
from tests.analysis.padding.stub import LAYERS, StubVlm, at_black, uniform

WAYS = conditions(("letterbox", "squash", "crop"), ("black", "mean"))
PADDED = ["native", "letterbox black", "letterbox mean"]
PROMPT = "Is there a dining table in the image?\nAnswer briefly."


def item(size, box=None, *, text="Is there a dining table in the image?", thing="dining table", name="a.png"):
    image = Image.fromarray(np.random.default_rng(1).integers(1, 256, (size[1], size[0], 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    questions = (
        Asked(text, PROMPT, thing, True, ("random", "popular")),
        Asked("Is it?", "Is it?", None, False, ("x",)),
    )
    return ImageItem("made", name, "0" * 64, questions, ContainerImages({name: buffer.getvalue()}))


def looked(vlm, one, looker=None):
    looker = looker or Looker(WAYS, {}, 8)
    return looker.look(vlm, one, looker.load(one))


def scored(records, condition, query):
    import pyarrow as pa

    frame = _prepared(pa.Table.from_pylist([{**r, "group": "g"} for r in records], schema=schema()))
    rows = frame[frame["condition"] == condition].assign(cluster=0)
    return attended(rows, query, resampling_weights(1, 100, 0))


@pytest.mark.parametrize("size", [(96, 48), (40, 64), (50, 49)])
def test_uniform_attention_has_ratio_one_wherever_there_is_padding(size):
    records = looked(StubVlm(uniform), item(size))
    assert {r["condition"] for r in records} == {w.name for w in WAYS}
    for condition in [*PADDED, "squash"]:
        for query in ("object", "last"):
            found = scored(records, condition, query)
            assert set(found) == {*LAYERS, None}
            assert all(a.ratio.value == pytest.approx(1, abs=1e-6) for a in found.values())
            assert all(a.share.value == pytest.approx(1 - min(size) / max(size), abs=0.01) for a in found.values())
    cropped = scored(records, "crop", "last")[None]
    assert cropped.cells == 0
    assert np.isnan(cropped.ratio.value), "no padding, no ratio"


def test_a_model_that_looks_at_black_alone_has_all_its_mass_on_black_padding():
    # 2:1 on 6 x 6 cells: two rows wholly black, two half.
    def looks(image, geometry, layer):
        return uniform(image, geometry, layer) if image.width != image.height else at_black(image, geometry, layer)

    records = looked(StubVlm(looks), item((96, 48)))
    black, mean = (scored(records, f"letterbox {c}", "last")[None] for c in ("black", "mean"))
    assert black.share.value == pytest.approx(1)
    assert black.ratio.value == pytest.approx(2)
    assert black.empty_ratio.value == pytest.approx(3), "all of it on a third of the cells"
    assert black.visual.value == pytest.approx(0.5), "half of it is not on the image at all"
    # No black there: as the same rule without black cells, uniform.
    assert mean.ratio.value == pytest.approx(1)


def test_what_lies_on_the_same_places_of_a_squashed_image_is_told():
    def top(image, geometry, layer):
        cells = np.zeros((6, 6))
        cells[0] = 1 / 6
        return cells

    records = looked(StubVlm(top), item((96, 48)))
    assert scored(records, "letterbox black", "last")[None].share.value == pytest.approx(1)
    assert scored(records, "squash", "last")[None].share.value == pytest.approx(1), "a habit of place, not of padding"
    assert np.isnan(scored(records, "crop", "last")[None].share.value), "no padding to lie on"


def test_a_query_that_gives_the_image_nothing_is_counted_and_left_out():
    def nothing(image, geometry, layer):
        return np.zeros((6, 6)) if layer == LAYERS[0] else np.full((6, 6), 0.01)

    found = scored(looked(StubVlm(nothing), item((96, 48))), "native", "last")
    assert (found[LAYERS[0]].n, found[LAYERS[0]].without_attention) == (0, 2)
    assert np.isnan(found[LAYERS[0]].ratio.value)
    assert (found[LAYERS[1]].n, found[LAYERS[1]].without_attention) == (2, 0)
    assert found[None].n == 0


def test_a_question_without_an_object_has_no_object_word():
    records = looked(StubVlm(uniform), item((96, 48)))
    assert [r["object_visual"] is None for r in records] == [False, True] * len(WAYS)
    found = scored(records, "native", "object")[None]
    assert (found.n, found.without_query) == (1, 1)


def test_square_images_are_asked_about_once():
    vlm = StubVlm(uniform)
    records = looked(vlm, item((48, 48)))
    assert [r["condition"] for r in records] == ["native", "native"]
    assert vlm.shown == [(48, 48)]
    assert vlm.hidden == []


def test_hidden_are_the_cells_without_image_and_only_where_there_may_be_padding():
    vlm = StubVlm(uniform)
    records = looked(vlm, item((96, 48)))
    hidden = [r for r in records if r["hidden_yes"] is not None]
    assert {r["condition"] for r in hidden} == set(PADDED)
    assert len(vlm.hidden) == 6
    for cells in vlm.hidden:
        # Half of rows 1 and 4 is image.
        assert cells.any(1).tolist() == [True, False, False, False, False, True]
        assert cells.all(1).tolist() == cells.any(1).tolist()
    assert all((r["hidden_yes"], r["hidden_no"]) == (r["no"], r["yes"]) for r in hidden), "the stub turns round"
    # 9:8 has no cell that is padding alone.
    vlm = StubVlm(uniform)
    assert all(r["hidden_yes"] is None for r in looked(vlm, item((48, 43))))
    assert vlm.hidden == []


def test_the_mean_colour_is_that_of_the_models_normalisation():
    assert mean_colour(StubVlm(uniform)) == (51, 102, 153)
    canvas = place(Image.new("RGB", (6, 2)), Condition("letterbox", "mean"), (51, 102, 153))
    assert canvas.image.getpixel((0, 0)) == (51, 102, 153)


def test_a_model_without_a_mean_colour_is_told_what_to_ask_for(monkeypatch):
    monkeypatch.setattr(StubVlm, "mean_colour", lambda self: None)
    with pytest.raises(NotSupported, match="--colour black"):
        looked(StubVlm(uniform), item((80, 40)))
    only = conditions(("letterbox",), ("black",))
    assert len(looked(StubVlm(uniform), item((80, 40)), Looker(only, {}, 8))) == 4


def test_an_answer_that_memory_lacked_for_is_asked_again_and_not_recorded(monkeypatch):
    vlm = StubVlm(uniform)
    monkeypatch.setattr(vlm, "answer", lambda encoded, asks: [Reply.failed(memory_message(MemoryError()))] * len(asks))
    with pytest.raises(MemoryError, match="out of memory"):
        looked(vlm, item((80, 40)))
    monkeypatch.setattr(vlm, "answer", lambda encoded, asks: [Reply.failed("logits are no numbers")] * len(asks))
    assert {r["error"] for r in looked(vlm, item((80, 40)))} == {"logits are no numbers"}


def tokens(*texts):
    found, at = [], 0
    for text in texts:
        found.append(ProbedToken(text, "prompt", at, at + len(text)))
        at += len(text)
    return [ProbedToken("<s>", "template", 0, 3), *found, ProbedToken(":", "template", 9, 10)]


def test_the_tokens_of_a_phrase_are_all_that_hold_some_of_it_as_whole_words():
    prompt = "Is a category of cat here?"
    own = tokens("Is", " a", " cat", "egory", " of", " c", "at", " here", "?")

    def wanted(thing, text=prompt):
        return wanted_tokens(own, Asked(text, prompt, thing, True, ()))

    assert wanted("cat") == wanted("Cat") == {"last": (10,), "object": (6, 7)}
    assert wanted("dog") == {"last": (10,)}
    assert wanted(None) == {"last": (10,)}
    assert wanted("a") == {"last": (10,), "object": (2,)}
    assert wanted("a", "category of cat here?") == {"last": (10,)}, "the word before the question is not the question's"


def test_what_a_crop_leaves_of_an_object_comes_from_its_mask():
    mask = np.zeros((40, 80), bool)
    mask[10:20, 10:30] = True
    asked = []

    def find(image, size, thing):
        asked.append((image, size, thing))
        return mask

    looker = Looker(WAYS, {"made": Masks(find, "x")}, 8)
    records = looked(StubVlm(uniform), item((80, 40)), looker)
    assert asked == [("a.png", (80, 40), "dining table")], "of objects that are there alone"
    assert {r["left_by_crop"] for r in records if r["label"]} == {0.5}
    assert {r["left_by_crop"] for r in records if not r["label"]} == {None}
    assert share_left(np.zeros((4, 4), bool), (0, 0, 4, 4)) is None


def test_the_key_follows_all_that_a_record_depends_on():
    one = item((96, 48))
    keys = {
        Looker(WAYS, {}, 8).key(one),
        Looker(WAYS[:2], {}, 8).key(one),
        Looker(WAYS, {}, 9).key(one),
        Looker(WAYS, {"made": Masks(lambda *_: None, "x")}, 8).key(one),
        Looker(WAYS, {"made": Masks(lambda *_: None, "y")}, 8).key(one),
        Looker(WAYS, {"other": Masks(lambda *_: None, "y")}, 8).key(one),
        Looker(WAYS, {}, 8).key(item((96, 48), text="Is there one?")),
        Looker(WAYS, {}, 8).key(item((96, 48), name="b.png")),
    }
    assert len(keys) == 7
    assert Looker(WAYS, {}, 8).key(item((96, 48))) in keys
