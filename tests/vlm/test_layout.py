"""Where visual tokens lie, shown by the models themselves: pixels are changed, and which features change is seen.

With the output of attention in their vision towers set to zero, patches stay by themselves: a feature depends on the
pixels of its own token alone. What is compared is the checkpoint's own processor and model, pixels in, features out.
"""

import dataclasses
import functools
import json
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.mask import decode
from scipy.ndimage import binary_dilation
from scipy.sparse import csr_array

from agevlm.checkpoints.standins import STANDINS
from agevlm.checkpoints.standins.tiled import build_llava_onevision
from agevlm.checkpoints.tiny import TinyLlava, build_model, build_processor
from agevlm.errors import NotSupported
from agevlm.vlm import Fingerprint
from agevlm.vlm.hf.general import General
from agevlm.vlm.hf.layout import Layout
from agevlm.vlm.hf.mrope import MRope
from agevlm.vlm.hf.session import HfVlm

pytestmark = pytest.mark.usefixtures("numbers_in_words")
ATTENTION_OUTPUTS = ("attn.proj", "self_attn.out_proj", "self_attn.o_proj", "attention.projection_layer")
SIZES = [(300, 220), (130, 310), (420, 100)]
"""Widths and heights: a photo's, tall, wide."""


def tiny_llava(sizes, seed):
    processor = build_processor(sizes)
    return build_model(sizes, processor, seed), processor


def pooled(seed):
    """LLaVA-OneVision whose tiles are too many, so that their features are scaled down."""
    model, processor = build_llava_onevision(seed, side=56)
    model.config.vision_aspect_ratio = processor.vision_aspect_ratio = "anyres_max_2"
    return model, processor


BUILD = {
    **STANDINS,
    "llava": partial(tiny_llava, TinyLlava()),
    "llava, padded": partial(tiny_llava, TinyLlava(padding=True)),
    "llava_next": partial(tiny_llava, TinyLlava(model_type="llava_next")),
    "llava_next, odd": partial(tiny_llava, TinyLlava(model_type="llava_next", image_size=42)),
}
KINDS = sorted(BUILD)
NEARLY = {
    "patches that do not fill tiles": partial(build_llava_onevision, side=62),
    "scaled down": pooled,
}
"""Where cells and patches differ by less than a cell."""


def isolate(model):
    """Cut every patch off from the others, by the weights alone. Returns how many layers were cut."""
    inner = model.model
    tower = next(getattr(inner, n) for n in ("vision_tower", "vision_model", "visual") if hasattr(inner, n))
    outputs = [
        module
        for name, module in tower.named_modules()
        if ".".join(name.split(".")[-2:]) in ATTENTION_OUTPUTS and isinstance(module, torch.nn.Linear)
    ]
    for module in outputs:
        for parameter in module.parameters():
            parameter.data.zero_()
    return len(outputs)


class Eye:
    """The vision half of a model: features of an image, and where it says that they lie."""

    def __init__(self, model, processor):
        self.vlm = HfVlm(model, processor, Fingerprint("", {}))
        self.family = self.vlm.family

    @torch.inference_mode()
    def see(self, pixels):
        return self.family.features(self.family.moved(self.family.preprocess(Image.fromarray(pixels))))

    def features(self, pixels):
        """(visual tokens, numbers): all that the language model is given of each token."""
        seen = self.see(pixels)
        if isinstance(seen, torch.Tensor):
            return seen
        visual = seen.visual.reshape(-1, seen.visual.shape[-1])
        return torch.cat([visual, *seen.deepstack], dim=-1)

    def layout(self, pixels):
        height, width = pixels.shape[:2]
        return self.family.layout(self.see(pixels), width, height)

    def changed(self, before, pixels):
        """(visual tokens,): how far the features moved from those before."""
        return (self.features(pixels) - before).norm(dim=-1).numpy()


@pytest.fixture(scope="module")
def eye():
    """eye(kind): a stand-in whose patches are cut off from each other."""

    def build(kind):
        model, processor = (BUILD | NEARLY)[kind](3)
        assert isolate(model) >= 2, "nothing was cut off"
        return Eye(model, processor)

    return functools.cache(build)


def picture(size, seed=0):
    return np.random.default_rng(seed).integers(60, 196, (size[1], size[0], 3), dtype=np.uint8)


def middle_of(geometry, row, column):
    """The inner half of a cell as far as it is image, in whole pixels: slices of rows and columns."""
    x0, y0, x1, y1 = geometry.cell_box(row, column)
    sides = (y0, y1, geometry.image_height), (x0, x1, geometry.image_width)
    return tuple(
        slice(max(0, int(np.ceil(a + (b - a) / 4))), min(end, int(np.floor(b - (b - a) / 4)))) for a, b, end in sides
    )


def with_block(pixels, block, seed=1):
    changed = pixels.copy()
    shape = changed[block].shape
    changed[block] = np.random.default_rng(seed).choice([0, 255], shape)
    return changed


def near(row, column, geometry):
    """(rows * columns,): the cell and those around it."""
    cells = np.zeros((geometry.rows, geometry.columns), bool)
    cells[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
    return cells.ravel()


def disagreements(eye, pixels, layout, cells):
    """What is wrong with a layout: for each of some cells, tokens that change and should not, or the other way."""
    before, spread = eye.features(pixels), layout.spread.toarray() > 0
    alone = spread.sum(0) == 1
    coarse = spread.sum(0) > 1
    wrong = []
    for row, column in cells:
        moved = eye.changed(before, with_block(pixels, middle_of(layout.geometry, row, column)))
        changed = moved > 0.01 * moved.max()
        assert 0 < changed.sum() < len(changed), "one block, some tokens"
        here = spread[row * layout.geometry.columns + column]
        around = spread[near(row, column, layout.geometry)].any(0)
        if (changed[alone] != here[alone]).any():
            wrong.append((row, column, "finest"))
        missed = (coarse & here).any() and not (changed & coarse & here).any()
        if missed or (changed[coarse] & ~around[coarse]).any():
            wrong.append((row, column, "whole"))
        if changed[~alone & ~coarse].any():
            wrong.append((row, column, "no place"))
    return wrong


def some_cells(geometry, most=14):
    """Cells that are image for the greater part, from corner to corner, evenly spread."""
    whole = np.argwhere(geometry.coverage() > 0.45).tolist()
    step = max(1, len(whole) // most)
    return sorted({tuple(cell) for cell in [*whole[::step], whole[-1]]})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_features_change_exactly_where_their_tokens_lie(eye, kind, size):
    model, pixels = eye(kind), picture(size)
    layout = model.layout(pixels)
    assert disagreements(model, pixels, layout, some_cells(layout.geometry)) == []


def rearranged(layout, how):
    """The same tokens at other places: what a layout with an axis mixed up would say."""
    rows, columns = layout.geometry.rows, layout.geometry.columns
    places = np.arange(rows * columns).reshape(rows, columns)
    order = {
        "rows flipped": places[::-1],
        "columns flipped": places[:, ::-1],
        "transposed": places.T,
        "a row down": np.roll(places, 1, 0),
        "a column to the right": np.roll(places, 1, 1),
    }[how]
    return Layout(layout.geometry, layout.spread[order.ravel()])


@pytest.mark.parametrize(
    "how", ["rows flipped", "columns flipped", "transposed", "a row down", "a column to the right"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_at_other_places_are_noticed(eye, kind, how):
    model, pixels = eye(kind), picture(SIZES[0])
    layout = model.layout(pixels)
    wrong = disagreements(model, pixels, rearranged(layout, how), some_cells(layout.geometry, 6))
    assert any(what == "finest" for *_, what in wrong)


SEEN_TWICE = ["idefics3", "smolvlm", "internvl", "llava_next", "llava_next, odd", "llava_onevision"]
"""Cut into tiles, and whole."""


@pytest.mark.parametrize("kind", SEEN_TWICE)
def test_tokens_of_the_whole_image_at_other_places_are_noticed(eye, kind):
    model, pixels = eye(kind), picture(SIZES[0])
    layout = model.layout(pixels)
    spread = layout.spread.toarray()
    whole = ((spread > 0).sum(0) > 1).nonzero()[0]
    assert len(whole) > 1
    spread[:, whole] = spread[:, whole[::-1]]
    wrong = disagreements(model, pixels, Layout(layout.geometry, csr_array(spread)), some_cells(layout.geometry, 6))
    assert {what for *_, what in wrong} == {"whole"}


@pytest.mark.parametrize("kind", NEARLY)
def test_cells_that_are_not_patches_are_less_than_a_cell_away(eye, kind):
    model, pixels = eye(kind), picture((300, 220))
    layout = model.layout(pixels)
    geometry, spread = layout.geometry, layout.spread.toarray()
    finest, before = spread.max(0) == 1, model.features(pixels)
    assert finest.sum() == geometry.rows * geometry.columns > 16
    for row, column in some_cells(geometry, 30):
        moved = model.changed(before, with_block(pixels, middle_of(geometry, row, column)))
        around = near(row, column, geometry) @ spread == 1
        assert moved[finest & ~around].max() < 0.01 * moved.max()
        assert (moved[finest & around] > 0.1 * moved.max()).any()


PADDED = ["llava_next", "llava_next, odd", "llava, padded", "llava_onevision", "mllama", *NEARLY]


@pytest.mark.parametrize("size", [*SIZES, (90, 90), (37, 91)])
@pytest.mark.parametrize("kind", [*KINDS, *NEARLY])
def test_tokens_that_see_the_image_are_those_of_cells_that_it_covers(eye, kind, size):
    model, pixels = eye(kind), picture(size)
    layout = model.layout(pixels)
    moved = model.changed(model.features(pixels), 255 - pixels)
    covered = layout.geometry.coverage().ravel() @ layout.spread
    assert (covered <= 1 + 1e-6).all()
    # Where scaled down, a token takes from patches around it.
    sure = 0.2 if kind not in NEARLY else 0.6
    assert (moved[covered > sure] > 0.01 * moved.max()).all()
    assert (moved[covered == 0] < 0.01 * moved.max()).all()
    if kind not in PADDED:
        assert layout.geometry.coverage().min() == 1


def test_some_cells_are_padding(eye):
    """What the test above compares is there: cells of padding, whole and in part, and tokens that stand for none."""
    for kind, size in (("llava, padded", (420, 100)), ("mllama", (90, 130))):
        coverage = eye(kind).layout(picture(size)).geometry.coverage()
        assert coverage.min() == 0
        assert ((coverage > 0) & (coverage < 1)).any()
    for kind in ("llava_next", "llava_onevision", "mllama"):
        spread = eye(kind).layout(picture((420, 100))).spread
        assert (spread.sum(0) == 0).any()
    # Left out by the model are rows of nothing but padding.
    coverage = eye("llava_next").layout(picture((420, 100))).geometry.coverage()
    assert 0 < coverage.min() < 1
    assert coverage.max() == 1


def planted(model, pixels, block):
    """Attention to the tokens that see a block of pixels best of all, as the features say."""
    layout = model.layout(pixels)
    moved = model.changed(model.features(pixels), with_block(pixels, block))
    finest = np.asarray(layout.spread.max(0).toarray()).ravel() == 1
    moved[~finest | (moved < 0.02 * moved.max())] = 0
    return layout, (moved / moved.sum()).astype(np.float32)


def lands(layout, attention, block):
    """Whether attention lies on a block of pixels and not more than a cell away, and on all that the block fills."""
    geometry = layout.geometry
    mask = np.zeros((geometry.image_height, geometry.image_width))
    mask[block] = 1
    share, (found, elsewhere) = geometry.mask_to_grid(mask), layout.fold(attention)
    nearby = binary_dilation(share > 0, np.ones((3, 3)))
    return abs(found[nearby].sum() - 1) < 1e-5 and elsewhere == 0 and bool((found[share > 0.9] > 0).all())


@pytest.mark.parametrize("kind", [*KINDS, *NEARLY])
def test_attention_planted_on_tokens_lands_on_their_pixels(eye, kind):
    model, noticed = eye(kind), set()
    for size, (down, across) in zip(SIZES, [(0.1, 0.65), (0.7, 0.1), (0.1, 0.8)], strict=True):
        pixels = picture(size)
        x0, y0, x1, y1 = model.layout(pixels).geometry.seen_box
        top, left = int(y0 + down * (y1 - y0)), int(x0 + across * (x1 - x0))
        block = slice(top, int(top + (y1 - y0) / 5)), slice(left, int(left + (x1 - x0) / 6))
        layout, attention = planted(model, pixels, block)
        assert 0 < (attention > 0).sum() < len(attention)
        assert lands(layout, attention, block)
        noticed |= {
            how for how in ("rows flipped", "columns flipped") if not lands(rearranged(layout, how), attention, block)
        }
    # In a grid of two by two all cells are neighbours.
    assert noticed == ({"rows flipped", "columns flipped"} if kind != "gemma3" else set())


THIN = [(200, 9), (9, 200), (3, 150)]


@settings(max_examples=6)
@given(st.one_of(st.tuples(st.integers(2, 500), st.integers(2, 500)), st.sampled_from(THIN)))
@pytest.mark.parametrize("kind", [*KINDS, *NEARLY])
def test_every_token_has_one_place_or_none(eye, kind, size):
    if max(size) > 200 * min(size):
        return
    model, pixels = eye(kind), picture(size)
    layout, tokens = model.layout(pixels), len(model.features(pixels))
    geometry, spread = layout.geometry, layout.spread
    assert spread.shape == (geometry.rows * geometry.columns, tokens)
    assert (geometry.image_width, geometry.image_height) == size
    sums = spread.sum(0)
    assert ((abs(sums - 1) < 1e-5) | (sums == 0)).all()
    assert spread.nnz == 0 or spread.data.min() > 0
    assert (spread.max(1).toarray() == 1).all(), "each cell has a token of its own"
    attention = np.random.default_rng(0).dirichlet(np.ones(tokens), 2).astype(np.float32)
    found, elsewhere = layout.fold(attention)
    np.testing.assert_allclose(found.sum((1, 2)) + elsewhere, attention.sum(1), atol=1e-5)
    whole = np.ones((geometry.rows, geometry.columns), bool)
    assert (layout.tokens_of(whole) == (sums > 0)).all()
    assert not layout.tokens_of(~whole).any()
    flat = layout.fold((spread.max(0).toarray().ravel() == 1).astype(np.float32))[0]
    if kind not in [*SEEN_TWICE, *NEARLY]:
        assert (flat == 1).all(), "equal attention to all is a flat map"


def test_what_is_not_known_is_refused(eye, monkeypatch):
    pixels = picture((300, 100))
    following = eye("llava_next")
    monkeypatch.setattr(following.family.processor.image_processor, "size", {"shortest_edge": 70})
    with pytest.raises(NotSupported, match="resized to"):
        following.family.layout(following.see(pixels), 300, 100)
    for kind in ("gemma3", "internvl", "llava_onevision", "smolvlm", "mllama", "paligemma", "qwen2_vl"):
        seen = eye(kind).see(pixels)
        visual = seen.visual[:, 1:] if kind == "mllama" else seen.visual[1:]
        with pytest.raises(NotSupported, match="were expected of model type"):
            eye(kind).family.layout(dataclasses.replace(seen, visual=visual), 300, 100)
    for general in (General, MRope):
        model = eye("internvl" if general is General else "qwen2_vl")
        with pytest.raises(NotSupported, match="is not known"):
            general(model.vlm.model, model.vlm.processor).layout(model.see(pixels), 300, 100)
        assert not general.probes


@pytest.mark.parametrize(
    "kind", ["llava", "llava, padded", "qwen2_5_vl", "smolvlm", "paligemma", "llava_next", "internvl"]
)
def test_on_photos_attention_planted_on_an_object_lands_on_its_mask(eye, shared, kind):
    if not (shared / "photos" / "instances.json").is_file():
        pytest.skip("the photos with masks are not on this machine")
    dataset = json.loads((shared / "photos" / "instances.json").read_text())
    polygons = [a for a in dataset["annotations"] if not a["iscrowd"] and a["area"] > 4000]
    model, landed = eye(kind), 0
    for image in dataset["images"][:12:2]:
        pixels = np.array(Image.open(shared / "photos" / "images" / image["file_name"]).convert("RGB"))
        for annotation in [a for a in polygons if a["image_id"] == image["id"]][:1]:
            mask = decode(annotation["segmentation"]).astype(bool)
            if model.layout(pixels).geometry.mask_to_grid(mask).max() < 0.5:
                continue  # too small for this grid, or cut off
            layout, attention = planted(model, pixels, mask)
            assert lands(layout, attention, mask)
            assert not lands(rearranged(layout, "rows flipped"), attention, mask) or mask.mean() > 0.1
            landed += 1
    assert landed >= 3
