"""The canvas against its own pixels, and composed geometry against what real processors do with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agevlm.errors import DataError
from agevlm.geometry import Geometry
from agevlm.model.image_processing import AgeVlmImageProcessor
from agevlm.vlm.hf.preprocessing import clip_geometry
from analysis.padding.canvas import NATIVE, Condition, compose, conditions, covered, padding_needed, place

SIZES = st.tuples(st.integers(2, 60), st.integers(2, 60))
WAYS = [*conditions(("letterbox", "squash", "crop"), ("black", "mean", "grey", "edge"))]
MEAN = (10, 20, 30)
FILLS = {"black": (0, 0, 0), "mean": MEAN, "grey": (128, 128, 128)}
SHAPES = [(96, 72), (60, 90), (97, 41), (30, 120), (64, 64)]


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(1, 256, (size[1], size[0], 3), dtype=np.uint8))


@given(SIZES, st.sampled_from([w for w in WAYS if w.mode in ("letterbox", "crop", "native")]))
def test_every_pixel_lies_where_the_geometry_says(size, way):
    image = noise(size)
    canvas = place(image, way, MEAN)
    shown, original = np.asarray(canvas.image), np.asarray(image)
    assert canvas.image.size == (canvas.geometry.input_width, canvas.geometry.input_height)
    y, x = np.mgrid[: size[1], : size[0]]
    column, row = (np.floor(v).astype(int) for v in canvas.geometry.to_input(x + 0.5, y + 0.5))
    inside = (column >= 0) & (column < shown.shape[1]) & (row >= 0) & (row < shown.shape[0])
    assert inside.all() or way.mode == "crop"
    assert (shown[row[inside], column[inside]] == original[inside]).all()
    seen = np.zeros(shown.shape[:2], bool)
    seen[row[inside], column[inside]] = True
    if way.colour in FILLS:
        assert (shown[~seen] == FILLS[way.colour]).all()
    elif way.mode != "letterbox":
        assert seen.all(), "no padding"
    assert seen.mean() == pytest.approx(1 - padding_needed(*size) if way.mode == "letterbox" else 1)


def test_padding_is_in_the_middle_as_processors_of_models_have_it():
    image = noise((9, 4))
    canvas = place(image, Condition("letterbox", "black"))
    assert np.asarray(canvas.image).any((1, 2)).tolist() == [False] * 2 + [True] * 4 + [False] * 3
    # The processor of AGE-VLM at the image's own size does the same.
    shown = AgeVlmImageProcessor(image_size=9, stride=1, pad_color=(0, 0, 0))(image)["pixel_values"]
    assert np.array_equal(shown, AgeVlmImageProcessor(image_size=9, stride=1)(canvas.image)["pixel_values"])


def test_edges_are_drawn_out():
    canvas = np.asarray(place(noise((6, 2)), Condition("letterbox", "edge")).image)
    assert (canvas[:2] == canvas[2]).all()
    assert (canvas[4:] == canvas[3]).all()


def test_a_squashed_image_fills_the_square_and_remembers_where_padding_would_be():
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (40, 0, 80, 20))
    canvas = place(image, Condition("squash"))
    bright = np.asarray(canvas.image.convert("L")) > 127
    assert canvas.image.size == (80, 80)
    assert bright[:40, 40:].mean() > 0.97
    assert bright.mean() == pytest.approx(0.25, abs=0.01)
    zone = covered(compose(canvas.zone, Geometry.squash((80, 80), (80, 80), (4, 4))))
    assert zone.tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.name)
def test_a_square_is_the_same_in_every_way(way):
    image = noise((31, 31))
    assert np.array_equal(np.asarray(place(image, way, MEAN).image), np.asarray(image))
    assert covered(compose(place(image, way, MEAN).zone, Geometry.squash((31, 31), (62, 62), (5, 5)))).min() == 1


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(DataError, match="side is under 2"):
        place(Image.new("RGB", (1, 40)), NATIVE)
    with pytest.raises(ValueError, match="give the mean"):
        place(noise((4, 6)), Condition("letterbox", "mean"))
    with pytest.raises(ValueError, match="cannot follow"):
        compose(place(noise((4, 6)), NATIVE).geometry, Geometry.squash((6, 6), (6, 6), (2, 2)))


def clip(size):
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def shown_to(kind, image):
    """The model's input in grey levels (height, width), and its geometry: AGE-VLM's three ways, and LLaVA's."""
    if kind == "llava":
        processor, grid = clip(64), (8, 8)
        geometry = clip_geometry(processor, image.size, grid, pad=False, squash=False)
    else:
        processor = AgeVlmImageProcessor(image_size=64, stride=8, resize_mode=kind, pad_color=(0, 0, 0))
        geometry = processor.geometry(*image.size)
    pixels = np.asarray(processor(images=[image], return_tensors="np")["pixel_values"][0])
    black = np.asarray(processor(images=[Image.new("RGB", (64, 64))], return_tensors="np")["pixel_values"][0])
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    scale = np.asarray(processor(images=[white], return_tensors="np")["pixel_values"][0]) - black
    return ((pixels - black) / scale).mean(0), geometry


@pytest.mark.parametrize("kind", ["letterbox", "squash", "crop", "llava"])
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("way", [w for w in WAYS if w.colour in (None, "black")], ids=lambda w: w.name)
def test_pixels_painted_on_the_original_land_on_the_cells_that_the_composed_geometry_names(kind, size, way):
    plain = Image.new("RGB", size)
    for share_x, share_y in ((0.3, 0.4), (0.62, 0.5)):
        x, y = int(share_x * size[0]), int(share_y * size[1])
        box = (x, y, x + max(4, size[0] // 6), y + max(4, size[1] // 6))
        painted = plain.copy()
        painted.paste((255, 255, 255), box)
        mask = np.zeros((size[1], size[0]), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        canvas = place(painted, way)
        pixels, geometry = shown_to(kind, canvas.image)
        found = pixels.reshape(8, 8, 8, 8).mean((1, 3))
        said = compose(canvas.geometry, geometry).mask_to_grid(mask)
        assert said.max() > 0.05, "the patch is seen"
        # Filters ring and blur by about an input pixel on each side: an eighth of a cell.
        assert np.abs(found - said).max() < 0.2
        assert found.sum() == pytest.approx(said.sum(), rel=0.06)
        assert found.argmax() in np.flatnonzero(said.ravel() > said.max() - 0.2)


@pytest.mark.parametrize("kind", ["letterbox", "squash", "crop", "llava"])
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("mode", ["letterbox", "native"])
def test_coverage_is_what_a_white_image_leaves_white(kind, size, mode):
    canvas = place(Image.new("RGB", size, (255, 255, 255)), Condition(mode, "black" if mode == "letterbox" else None))
    pixels, geometry = shown_to(kind, canvas.image)
    said = covered(compose(canvas.zone, geometry))
    assert np.abs(pixels.reshape(8, 8, 8, 8).mean((1, 3)) - said).max() < 0.07
    padded = mode == "letterbox" or kind == "letterbox"
    assert (said.min() < 1) == (padded and size[0] != size[1]), "what is tested is there"


@given(SIZES)
def test_cells_without_any_image_are_those_the_model_itself_would_hide(size):
    processor = AgeVlmImageProcessor(image_size=48, stride=8)
    image = noise(size)
    said = covered(compose(place(image, NATIVE).zone, processor.geometry(*size)))
    assert ((said > 0) == processor(image)["vision_token_mask"][0].reshape(6, 6)).all()
