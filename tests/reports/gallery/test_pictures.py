"""Small copies: never more bytes than wanted, more bytes never show fewer, and any image file becomes one or none."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from agevlm.data.images import EncodedFile, decode, original_bytes
from reports.gallery.pictures import LARGEST, STEPS, fit

IMAGES = {f"{k:064x}": (60 + 97 * k, 400 - 41 * k) for k in range(9)}


@cache
def opened(identity: str) -> Image.Image | None:
    """Noise, so that size decides about bytes; every fourth image is not there."""
    if int(identity, 16) % 4 == 3:
        return None
    width, height = IMAGES[identity]
    noise = np.random.default_rng(width).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


WHOLE = [sum(len(p.data) for p in fit(IMAGES, opened, 10**9).pictures.values())]
THERE = [identity for identity in IMAGES if int(identity, 16) % 4 != 3]


@settings(max_examples=20)
@given(budgets=st.lists(st.integers(0, WHOLE[0] + 1000), min_size=2, max_size=4).map(sorted))
def test_never_above_the_budget_and_never_fewer_of_more(budgets):
    before: list[str] = []
    for most in budgets:
        found = fit(IMAGES, opened, most)
        assert sum(len(p.data) for p in found.pictures.values()) <= most
        shown = list(found.pictures)
        assert shown == THERE[: len(shown)], "the most wanted first"
        assert shown[: len(before)] == before
        assert found.left_out == (len(shown) < len(THERE))
        assert not found.left_out or found.step == len(STEPS) - 1
        side = STEPS[found.step][0]
        for identity, picture in found.pictures.items():
            width, height = IMAGES[identity]
            with Image.open(io.BytesIO(picture.data)) as image:
                assert (image.format, image.size) == ("JPEG", (picture.width, picture.height))
            assert max(picture.width, picture.height) == min(side, max(width, height))
            assert picture.width / picture.height == pytest.approx(width / height, rel=0.05)
        before = shown


def test_all_steps_are_taken_as_room_shrinks():
    taken = {fit(IMAGES, opened, WHOLE[0] * k // 100).step for k in (*range(2, 100, 4), 100)}
    assert taken == set(range(len(STEPS)))
    assert fit(IMAGES, opened, 0).pictures == {}


def saved(image: Image.Image, form: str, **options) -> EncodedFile:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return EncodedFile("an image", buffer.getvalue())


def card(width: int, height: int) -> Image.Image:
    """Red to the left, blue to the right."""
    image = Image.new("RGB", (width, height), "red")
    ImageDraw.Draw(image).rectangle((width // 2, 0, width, height), fill="blue")
    return image


@pytest.mark.parametrize(
    "file",
    [
        saved(card(1, 1), "PNG"),
        saved(card(20_000, 30), "PNG"),
        saved(card(20_000, 30), "JPEG"),
        saved(card(640, 480).convert("CMYK"), "JPEG"),
        saved(card(640, 480).convert("P"), "PNG"),
        saved(card(640, 480).convert("RGBA"), "PNG"),
        saved(card(640, 480).convert("LA"), "PNG"),
        saved(Image.fromarray(np.full((300, 400), 40_000, np.uint16)), "PNG"),
        saved(card(640, 480).convert("1"), "PNG"),
        saved(card(640, 480), "GIF"),
        saved(card(640, 480), "WEBP"),
    ],
)
def test_images_of_all_kinds(file):
    (picture,) = fit(["0" * 64], lambda _: decode(file, LARGEST), 10**6).pictures.values()
    whole = decode(file)
    assert max(picture.width, picture.height) == min(320, max(whole.size))
    with Image.open(io.BytesIO(picture.data)) as small:
        assert small.mode == "RGB"
        like = whole.resize(small.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(small, float) - np.asarray(like, float)).mean() < 25


@pytest.mark.parametrize("turned", range(1, 9))
def test_small_copies_are_upright(turned):
    exif = Image.Exif()
    exif[0x0112] = turned
    file = saved(card(1600, 1200), "JPEG", exif=exif)
    small, whole = decode(file, LARGEST), decode(file)
    assert max(small.size) == 400, "decoded at a quarter"
    assert small.width * whole.height == small.height * whole.width
    like = np.asarray(whole.resize(small.size), float)
    assert np.abs(np.asarray(small, float) - like).mean() < 4
    assert original_bytes(whole) is None or turned == 1
    assert original_bytes(small) is None, "its pixels are not the file's"
