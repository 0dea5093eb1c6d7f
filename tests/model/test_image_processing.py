"""The pixels do what the geometry says: change the image, watch which tokens notice."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agevlm.errors import DataError
from agevlm.model.image_processing import AgeVlmImageProcessor

MODES = ["letterbox", "squash", "crop"]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def small(**settings):
    return AgeVlmImageProcessor(**{"image_size": 64, "stride": 16, **settings})


def random_image(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tokens(processor, image):
    """A strictly local stand-in for the vision tower: (rows, columns, channels)."""
    torch.manual_seed(0)
    patchify = torch.nn.Conv2d(3, 32, processor.stride, stride=processor.stride, dtype=torch.float64)
    pixels = processor(image, return_tensors="pt")["pixel_values"].double()
    return patchify(pixels)[0].permute(1, 2, 0).detach().numpy()


def change(processor, image, box):
    """How much each token changes when the pixels of a box turn from dark to bright."""
    x0, y0, x1, y1 = box
    dark, bright = image.copy(), image.copy()
    dark[y0:y1, x0:x1] = 0
    bright[y0:y1, x0:x1] = 255
    return np.linalg.norm(tokens(processor, bright) - tokens(processor, dark), axis=-1)


@settings(deadline=None)
@given(st.sampled_from(MODES), st.integers(2, 300), st.integers(2, 300), st.booleans(), st.data())
def test_only_the_named_cells_see_a_pixel(mode, width, height, flat, data):
    processor = small(resize_mode=mode)
    geometry = processor.geometry(width, height)
    image = np.zeros((height, width, 3), np.uint8) if flat else random_image(width, height)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    changed = change(processor, image, (x, y, x + 1, y + 1)) > 1e-9

    # Bicubic: a pixel reaches two pixels of the coarser of the two images around its centre.
    u, v = geometry.to_input(x + 0.5, y + 0.5)
    reach_x, reach_y = 2 * max(1, geometry.scale_x), 2 * max(1, geometry.scale_y)
    for row, column in np.argwhere(changed):
        assert column * 16 - reach_x <= u <= (column + 1) * 16 + reach_x
        assert row * 16 - reach_y <= v <= (row + 1) * 16 + reach_y

    cell = geometry.cell_of(x + 0.5, y + 0.5)
    if cell is not None:
        # On a random image the ringing of the filter could hide a bright pixel beside white ones.
        assert changed[cell] or not flat


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(200, 120), (120, 200), (97, 290), (300, 300), (64, 64), (130, 64)])
def test_a_change_to_a_cells_own_area_shows_most_in_that_cell(mode, size):
    processor = small(resize_mode=mode)
    geometry, image = processor.geometry(*size), random_image(*size)
    for row, column in np.argwhere(geometry.coverage() > 0.9):
        x0, y0, x1, y1 = (round(edge) for edge in geometry.cell_box(row, column))
        box = max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1])
        changed = change(processor, image, box)
        assert np.unravel_index(changed.argmax(), changed.shape) == (row, column)
        assert changed[row, column] > 2 * np.sort(changed.ravel())[-2]


@pytest.mark.parametrize("mode", MODES)
def test_the_far_corners_land_in_the_far_cells(mode):
    processor = small(resize_mode=mode)
    changed = change(processor, random_image(100, 100), (70, 5, 95, 20))
    assert np.unravel_index(changed.argmax(), changed.shape) == (0, 3)


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(2, 300))
def test_padding_is_exactly_zero_and_named_by_the_mask(width, height):
    processor = small()
    # No colour of this image is the mean, so that what is zero is padding.
    out = processor(np.full((height, width, 3), 255, np.uint8))
    empty = (out["pixel_values"][0] == 0).all(axis=0)
    left, top, right, bottom = processor.geometry(width, height).input_box
    expected = np.ones((64, 64), bool)
    expected[top:bottom, left:right] = False
    np.testing.assert_array_equal(empty, expected)
    holds = ~expected.reshape(4, 16, 4, 16).all(axis=(1, 3)).ravel()
    np.testing.assert_array_equal(out["vision_token_mask"][0], holds)
    np.testing.assert_array_equal(out["vision_token_mask"][0], processor.geometry(width, height).coverage().ravel() > 0)


def test_the_mask_goes_row_by_row():
    mask = small()(random_image(64, 16), return_tensors="pt")["vision_token_mask"]
    assert mask.dtype == torch.bool
    assert mask.reshape(4, 4).tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


def test_padding_can_have_a_colour():
    pixels = small(pad_color=(0, 255, 51))(random_image(64, 16))["pixel_values"][0]
    expected = (np.array([0, 1, 0.2]) - MEAN) / STD
    np.testing.assert_allclose(pixels[:, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(pixels[:, -1, -1], expected, rtol=1e-5)


def test_an_image_of_the_input_size_is_only_normalised():
    image = random_image(64, 64)
    for mode in MODES:
        pixels = small(resize_mode=mode)(image)["pixel_values"]
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels[0], ((image / 255 - MEAN) / STD).transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("pad_color", [None, (3, 250, 77)])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (64, 16), (16, 64)])
def test_levels_are_the_formulas_in_float32_bit_for_bit(width, height, pad_color):
    image = random_image(width, height)
    assert len(np.unique(image)) == 256
    mean, std = MEAN.astype(np.float32), STD.astype(np.float32)
    expected = np.zeros((64, 64, 3), np.float32)
    if pad_color is not None:
        expected += (np.asarray(pad_color, np.float32) / np.float32(255) - mean) / std
    top, left = (64 - height) // 2, (64 - width) // 2
    expected[top : top + height, left : left + width] = (image.astype(np.float32) / np.float32(255) - mean) / std
    pixels = small(pad_color=pad_color)([image, image])["pixel_values"]
    assert pixels.dtype == np.float32
    assert pixels[0].tobytes() == pixels[1].tobytes() == np.ascontiguousarray(expected.transpose(2, 0, 1)).tobytes()


@pytest.mark.parametrize("size", [(90, 50), (50, 90), (31, 200)])
def test_letterbox_and_crop_resize_with_the_very_integers(size):
    image = Image.fromarray(random_image(*size))
    width, height = size
    long = max(size)
    new = round(width * 64 / long), round(height * 64 / long)
    canvas = np.tile(MEAN * 255, (64, 64, 1))
    left, top = (64 - new[0]) // 2, (64 - new[1]) // 2
    canvas[top : top + new[1], left : left + new[0]] = np.asarray(image.resize(new, Image.Resampling.BICUBIC))
    pixels = small()(image)["pixel_values"][0]
    np.testing.assert_allclose(pixels, ((canvas / 255 - MEAN) / STD).transpose(2, 0, 1), atol=1e-5)

    short = min(size)
    x0, y0 = (width - short) / 2, (height - short) / 2
    cropped = image.resize((64, 64), Image.Resampling.BICUBIC, box=(x0, y0, x0 + short, y0 + short))
    pixels = small(resize_mode="crop")(image)["pixel_values"][0]
    np.testing.assert_allclose(pixels, ((np.asarray(cropped) / 255 - MEAN) / STD).transpose(2, 0, 1), atol=1e-5)


def test_other_filters_can_be_chosen():
    image = random_image(20, 20)
    nearest = small(resample=Image.Resampling.NEAREST)(image)["pixel_values"][0]
    expected = (np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST)) / 255 - MEAN) / STD
    np.testing.assert_allclose(nearest, expected.transpose(2, 0, 1), atol=1e-5)


def test_all_layouts_and_batches_agree():
    image, other = random_image(40, 30), random_image(17, 90, seed=1)
    processor = small()
    alone = processor(image, return_tensors="pt")["pixel_values"]
    assert alone.shape == (1, 3, 64, 64)
    channels_first = torch.from_numpy(image).permute(2, 0, 1)
    for same in (Image.fromarray(image), channels_first, [image], [[image]], image[None], channels_first[None]):
        assert torch.equal(processor(same, return_tensors="pt")["pixel_values"], alone)
    both = processor([image, Image.fromarray(other)], return_tensors="pt")
    assert both["pixel_values"].shape == (2, 3, 64, 64)
    assert both["vision_token_mask"].shape == (2, 16)
    assert torch.equal(both["pixel_values"][:1], alone)
    assert torch.equal(both["pixel_values"][1:], processor(other, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_pil_images_of_other_modes_become_rgb(mode):
    image = Image.fromarray(random_image(40, 30)).convert(mode)
    np.testing.assert_array_equal(small()(image)["pixel_values"], small()(image.convert("RGB"))["pixel_values"])


@pytest.mark.parametrize(
    "image",
    [
        Image.new("I;16", (40, 30)),
        Image.new("F", (40, 30)),
        np.zeros((30, 40, 3), np.float32),
        np.zeros((3, 30, 40), np.uint8),
        np.zeros((30, 40), np.uint8),
        np.zeros((30, 40, 4), np.uint8),
        torch.zeros((30, 40, 3), dtype=torch.uint8),
        torch.zeros((3, 30, 40)),
    ],
)
def test_images_whose_meaning_would_be_guessed_are_refused(image):
    with pytest.raises(DataError, match=r"8 bits|uint8"):
        small()(image)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 40), (40, 1), (2, 401)])
def test_thin_images_are_refused(mode, size):
    with pytest.raises(DataError, match=r"under 2 pixels|over 200 times"):
        small(resize_mode=mode)(random_image(*size))


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no images"):
        small()([])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"resize_mode": "stretch"}, "letterbox, squash, crop"),
        ({"image_size": 70}, "multiple of the stride 16"),
        ({"image_size": 0}, "multiple of the stride"),
        ({"stride": 0}, "multiple of the stride"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_std": [1, 1, 0]}, "std above 0"),
        ({"pad_color": (0, 0)}, "red, green and blue"),
        ({"pad_color": (0, 0, 256)}, "0 to 255"),
        ({"resample": 99}, "99"),
        ({"resizemode": "crop"}, "resizemode"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        small(**settings)


def test_settings_are_not_changed_per_call():
    with pytest.raises(ValueError, match="image_size"):
        small()(random_image(40, 30), image_size=32)


def test_settings_survive_saving(tmp_path):
    processor = small(
        resize_mode="crop", resample=2, image_mean=(0.1, 0.2, 0.3), image_std=(1, 2, 3), pad_color=(1, 2, 3)
    )
    processor.save_pretrained(tmp_path)
    loaded = AgeVlmImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    image = random_image(33, 70)
    np.testing.assert_array_equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])
    assert loaded.geometry(33, 70) == processor.geometry(33, 70)
    assert AgeVlmImageProcessor.from_pretrained(tmp_path, image_size=128).image_size == 128


def test_the_defaults_are_the_papers_and_are_written_out(tmp_path):
    AgeVlmImageProcessor().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert {k: written.get(k) for k in ("image_size", "stride", "resize_mode", "resample", "pad_color")} == {
        "image_size": 768,
        "stride": 32,
        "resize_mode": "letterbox",
        "resample": 3,
        "pad_color": None,
    }
    out = AgeVlmImageProcessor()(random_image(640, 480))
    assert out["pixel_values"].shape == (1, 3, 768, 768)
    assert out["vision_token_mask"].shape == (1, 576)
