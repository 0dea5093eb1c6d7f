"""Where pixels go in the LLaVA family's image processors: pixels are changed, and what changes in the input is found.

The pure function is also compared with a longhand of the steps in exact fractions.
"""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor, LlavaImageProcessor, LlavaNextImageProcessor, SiglipImageProcessor

from agevlm.checkpoints.tiny import TinyLlava, build_model, build_processor
from agevlm.vlm import Fingerprint
from agevlm.vlm.hf.preprocessing import clip_geometry
from agevlm.vlm.hf.session import HfVlm

SIDE = {"height": 56, "width": 56}
SHORTEST = {"shortest_edge": 56}
CASES = {
    "CLIP": (CLIPImageProcessor(size=SHORTEST, crop_size=SIDE), {}),
    "LLaVA, padded to a square": (LlavaImageProcessor(size=SHORTEST, crop_size=SIDE, do_pad=True), {"pad": True}),
    "LLaVA-NeXT, view of the whole": (
        LlavaNextImageProcessor(size=SHORTEST, crop_size=SIDE, image_grid_pinpoints=[[112, 112], [56, 112]]),
        {"squash": True},
    ),
    "LLaVA-NeXT, resizing switched off for the tiles": (
        LlavaNextImageProcessor(size=SHORTEST, crop_size=SIDE, do_resize=False, image_grid_pinpoints=[[112, 112]]),
        {"squash": True},
    ),
    "SigLIP, stretched": (SiglipImageProcessor(size=SIDE), {}),
    "a crop smaller than the shortest side": (CLIPImageProcessor(size={"shortest_edge": 67}, crop_size=SIDE), {}),
    "a crop larger than the shortest side": (CLIPImageProcessor(size={"shortest_edge": 41}, crop_size=SIDE), {}),
    "no resizing": (CLIPImageProcessor(do_resize=False, crop_size=SIDE), {}),
}
SIZES = [(56, 56), (90, 40), (40, 91), (57, 41), (333, 77), (77, 332), (23, 31), (200, 9)]
"""Widths and heights: square, wide, tall, odd differences that halves of must be rounded, smaller than the input."""


def geometry_of(case, size):
    processor, how = CASES[case]
    return clip_geometry(processor, size, (4, 4), **({"pad": False, "squash": False} | how))


def shown(case, pixels):
    """The model's input, (3, 56, 56): of LLaVA-NeXT the view of the whole image, which stands first."""
    values = CASES[case][0](images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"][0]
    return values[0] if values.dim() == 4 else values


def change(case, size, block):
    """What a brighter block of the image changes in the input, per pixel."""
    width, height = size
    x0, y0, x1, y1 = block
    pixels = np.full((height, width, 3), 100, np.uint8)
    before = shown(case, pixels)
    pixels[y0:y1, x0:x1] = 200
    return (shown(case, pixels) - before).sum(0).double().numpy()


def blocks(size):
    """Two pixels by two, over the whole image, its corners included."""
    width, height = size
    for share_x, share_y in [(0.0, 0.0), (0.5, 0.5), (0.3, 0.8), (1.0, 1.0), (0.6, 0.1), (0.5, 0.0)]:
        x, y = round(share_x * (width - 2)), round(share_y * (height - 2))
        yield x, y, x + 2, y + 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_changed_pixels_turn_up_where_the_geometry_says(case, size):
    geometry = geometry_of(case, size)
    assert (geometry.input_width, geometry.input_height) == shown(case, np.zeros((*size[::-1], 3), np.uint8)).shape[
        :0:-1
    ]
    # A bicubic kernel reaches two pixels, of the image or of the input, whichever are larger.
    reach_x, reach_y = (2 * max(1.0, s) + 1 for s in (geometry.scale_x, geometry.scale_y))
    inside = 0
    for block in blocks(size):
        (left, top), (right, bottom) = geometry.to_input(*block[:2]), geometry.to_input(*block[2:])
        found = change(case, size, block)
        rows, columns = np.nonzero(np.abs(found) > 1e-6)
        if right < -reach_x or left > 56 + reach_x or bottom < -reach_y or top > 56 + reach_y:
            assert not len(rows), "cut off by the crop"
            continue
        if left < reach_x or right > 56 - reach_x or top < reach_y or bottom > 56 - reach_y:
            # At an edge part of the kernel is cut off: the rest must still lie where it should.
            if len(rows):
                assert columns.min() >= left - reach_x
                assert columns.max() + 1 <= right + reach_x
                assert rows.min() >= top - reach_y
                assert rows.max() + 1 <= bottom + reach_y
            continue
        inside += 1
        assert len(rows)
        weight = found.sum()
        centre_x = (found.sum(0) * (np.arange(56) + 0.5)).sum() / weight
        centre_y = (found.sum(1) * (np.arange(56) + 0.5)).sum() / weight
        assert centre_x == pytest.approx((left + right) / 2, abs=0.25 * max(1.0, geometry.scale_x))
        assert centre_y == pytest.approx((top + bottom) / 2, abs=0.25 * max(1.0, geometry.scale_y))
    assert inside or min(size) < 10, "every block lay at an edge: nothing was tested"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_what_is_seen_of_the_image_and_what_is_not(case, size):
    """A change of everything outside `seen_box` changes nothing; of the outermost line inside it, something."""
    geometry = geometry_of(case, size)
    x0, y0, x1, y1 = geometry.seen_box
    width, height = size
    pixels = np.full((height, width, 3), 100, np.uint8)
    before = shown(case, pixels)
    reach_x, reach_y = (2 * max(1.0, 1 / s) + 1 for s in (geometry.scale_x, geometry.scale_y))
    outside = np.ones((height, width), bool)
    outside[
        max(0, int(np.floor(y0 - reach_y))) : int(np.ceil(y1 + reach_y)),
        max(0, int(np.floor(x0 - reach_x))) : int(np.ceil(x1 + reach_x)),
    ] = False
    pixels[outside] = 255
    assert torch.equal(shown(case, pixels), before)
    for line in (
        np.s_[:, int(np.floor(x0))],
        np.s_[:, int(np.ceil(x1)) - 1],
        np.s_[int(np.floor(y0)), :],
        np.s_[int(np.ceil(y1)) - 1, :],
    ):
        changed = np.full((height, width, 3), 100, np.uint8)
        changed[line] = 255
        assert not torch.equal(shown(case, changed), before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_padding_is_what_no_pixel_of_the_image_changes(case, size):
    geometry = geometry_of(case, size)
    dark, bright = (shown(case, np.full((*size[::-1], 3), v, np.uint8)) for v in (50, 200))
    changed = ((bright - dark).abs() > 1e-6).all(0).numpy()
    x0, y0, x1, y1 = geometry.input_box
    # Resized padding and image blend into each other over a kernel's width.
    reach = int(np.ceil(2 * max(1.0, geometry.scale_x, geometry.scale_y))) if CASES[case][1].get("pad") else 0
    assert changed[y0:y1, x0:x1].all()
    changed[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach] = False
    assert not changed.any()
    assert (geometry.coverage().min() < 1) == ((x0, y0, x1, y1) != (0, 0, 56, 56))


def longhand(size, *, pad, squash, resize, shortest, exact, crop):
    """Each edge of the image through the steps, one after another; exact."""
    edges = [[Fraction(0), Fraction(n)] for n in size]
    canvas = list(size)
    if pad:
        side = max(canvas)
        edges = [[e + (side - n) // 2 for e in pair] for pair, n in zip(edges, canvas, strict=True)]
        canvas = [side, side]
    if resize or squash:
        if exact:
            new = list(exact)
        elif squash:
            new = [shortest, shortest]
        else:
            small = min(canvas)
            # The longer side is rounded down to whole pixels.
            new = [shortest if n == small else shortest * n // small for n in canvas]
        edges = [[e * m / n for e in pair] for pair, n, m in zip(edges, canvas, new, strict=True)]
        canvas = new
    if crop:
        # Missing pixels are added, the smaller half first; surplus ones cut, the smaller half first.
        moved = [(c - n) // 2 if c > n else -((n - c) // 2) for n, c in zip(canvas, crop, strict=True)]
        edges = [[e + m for e in pair] for pair, m in zip(edges, moved, strict=True)]
        canvas = list(crop)
    return edges, canvas


sides = st.integers(2, 700)
targets = st.integers(8, 400)


@given(
    st.tuples(sides, sides),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    targets,
    st.none() | st.tuples(targets, targets),
    st.none() | st.tuples(targets, targets),
)
def test_the_map_is_the_longhand_of_its_steps(size, pad, squash, resize, shortest, exact, crop):
    pad = pad and not squash
    processor = SimpleNamespace(
        do_resize=resize,
        size={"width": exact[0], "height": exact[1]} if exact else {"shortest_edge": shortest},
        do_center_crop=crop is not None,
        crop_size={"width": crop[0], "height": crop[1]} if crop else None,
    )
    geometry = clip_geometry(processor, size, (3, 5), pad=pad, squash=squash)
    edges, canvas = longhand(size, pad=pad, squash=squash, resize=resize, shortest=shortest, exact=exact, crop=crop)
    assert (geometry.input_width, geometry.input_height) == tuple(canvas)
    assert (geometry.image_width, geometry.image_height, geometry.rows, geometry.columns) == (*size, 3, 5)
    for corner in (0, 1):
        at = geometry.to_input(size[0] * corner, size[1] * corner)
        assert at == pytest.approx((float(edges[0][corner]), float(edges[1][corner])), abs=1e-6)


# Through the whole vision side: a model whose patches do not look at each other.

KINDS = {
    "llava": (TinyLlava(), "default"),
    "llava, padded": (TinyLlava(padding=True), "default"),
    "llava, class token kept": (TinyLlava(), "full"),
    "llava_next": (TinyLlava(model_type="llava_next"), "default"),
}


@pytest.fixture(scope="module")
def short_sighted():
    """short_sighted(kind): a LLaVA whose vision tower sees each patch by itself."""

    def build(kind):
        sizes, strategy = KINDS[kind]
        processor = build_processor(sizes)
        network = build_model(sizes, processor, 0)
        processor.vision_feature_select_strategy = strategy
        network.config.vision_feature_select_strategy = strategy
        with torch.no_grad():
            for name, parameter in network.model.vision_tower.named_parameters():
                if "self_attn.out_proj" in name:
                    parameter.zero_()
        return HfVlm(network, processor, Fingerprint("", {}))

    return build


@pytest.mark.parametrize("size", [(112, 56), (56, 130), (57, 57), (200, 90)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_visual_tokens_that_change_are_those_of_the_cells_that_hold_the_pixels(short_sighted, kind, size):
    model = short_sighted(kind)
    family, (width, height) = model.family, size
    geometry = family.geometry(width, height)
    rows, columns = family.grid
    assert (rows, columns) == (4, 4)
    assert family.before_grid == (kind == "llava, class token kept")
    pixels = np.full((height, width, 3), 90, np.uint8)

    def features(image):
        with torch.inference_mode():
            return family.features(family.preprocess(Image.fromarray(image)))

    before = features(pixels)
    assert len(before) >= 16 + family.before_grid
    tried = 0
    for row in range(4):
        for column in range(4):
            x0, y0, x1, y1 = geometry.cell_box(row, column)
            # The middle of the cell, so that no resampling kernel reaches its neighbours.
            low_x, high_x = int(np.ceil(x0 + 0.4 * (x1 - x0))), int(np.floor(x0 + 0.6 * (x1 - x0)))
            low_y, high_y = int(np.ceil(y0 + 0.4 * (y1 - y0))), int(np.floor(y0 + 0.6 * (y1 - y0)))
            if not (0 <= low_x < high_x <= width and 0 <= low_y < high_y <= height):
                continue
            changed = pixels.copy()
            changed[low_y:high_y, low_x:high_x] = 250
            moved = (features(changed) - before).abs().amax(-1)[family.before_grid :][:16] > 1e-4
            assert moved.nonzero().squeeze(1).tolist() == [row * 4 + column]
            assert geometry.cell_of((low_x + high_x) / 2, (low_y + high_y) / 2) == (row, column)
            tried += 1
    assert tried >= 4


def test_without_that_edit_every_visual_token_would_change():
    sizes = TinyLlava()
    processor = build_processor(sizes)
    model = HfVlm(build_model(sizes, processor, 0), processor, Fingerprint("", {}))
    pixels = np.full((56, 56, 3), 90, np.uint8)
    changed = pixels.copy()
    changed[18:22, 18:22] = 250
    with torch.inference_mode():
        one, other = (model.family.features(model.family.preprocess(Image.fromarray(p))) for p in (pixels, changed))
    assert ((one - other).abs().amax(-1) > 1e-4).all()
