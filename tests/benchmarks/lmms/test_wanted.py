"""What lmms-eval's requests are read as. No lmms-eval here."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agevlm.errors import DataError, NotSupported
from benchmarks.lmms.wanted import (
    DEFAULT_TOKENS,
    Images,
    chat_parts,
    identity,
    one_image,
    plain_prompt,
    read_decoding,
)

SQUARE = Image.new("RGB", (3, 3), "red")


@pytest.mark.parametrize(
    ("settings", "tokens", "until", "ignored"),
    [
        ({}, DEFAULT_TOKENS, (), ()),
        ({"max_new_tokens": 16, "temperature": 0, "do_sample": False, "top_p": 1.0, "num_beams": 1}, 16, (), ()),
        ({"until": ["\n\n"], "do_sample": False}, DEFAULT_TOKENS, ("\n\n",), ()),
        ({"until": "\n", "max_new_tokens": 4}, 4, ("\n",), ()),
        ({"until": ["", "###"]}, DEFAULT_TOKENS, ("###",), ()),
        ({"until": None, "temperature": None, "top_p": None}, DEFAULT_TOKENS, (), ()),
        ({"temperature": 1.0, "do_sample": False}, DEFAULT_TOKENS, (), ()),
        ({"temperature": 0.0, "do_sample": True}, DEFAULT_TOKENS, (), ()),
        (
            {"length_penalty": 1.0, "image_aspect_ratio": "pad"},
            DEFAULT_TOKENS,
            (),
            ("image_aspect_ratio", "length_penalty"),
        ),
    ],
)
def test_settings_are_read_and_left_as_they_are(settings, tokens, until, ignored):
    before = copy.deepcopy(settings)
    decoding = read_decoding(settings, "task/test/0")
    assert (decoding.max_new_tokens, decoding.until, decoding.ignored) == (tokens, until, ignored)
    assert settings == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"temperature": 0.2}, r"task/test/0: asks for sampling \(temperature=0.2\)"),
        ({"do_sample": True}, "asks for sampling"),
        ({"do_sample": True, "temperature": 1.0}, "do_sample=True, temperature=1.0"),
        ({"num_beams": 3}, "3 beams"),
    ],
)
def test_what_is_not_greedy_is_refused(settings, problem):
    with pytest.raises(NotSupported, match=problem):
        read_decoding(settings, "task/test/0")


@given(st.text("ab\n#", max_size=12), st.lists(st.text("\n#", min_size=1, max_size=3), max_size=3))
def test_an_answer_ends_before_the_first_stop_string(text, stops):
    cut = read_decoding({"until": stops}, "").cut(text)
    ends = [n for n in range(len(text) + 1) if any(text.startswith(stop, n) for stop in stops)]
    assert cut == text[: min(ends, default=len(text))]


def test_one_image_in_any_form_is_rgb(tmp_path):
    file = tmp_path / "a.png"
    SQUARE.save(file)
    for visuals in ([SQUARE], (SQUARE,), SQUARE, [SQUARE.convert("P")], [str(file)], [{"url": str(file)}]):
        assert identity(one_image(visuals, "here")) == identity(SQUARE)
    assert one_image(None, "here") is None
    assert one_image([], "here") is None


@pytest.mark.parametrize(
    ("visuals", "problem"),
    [
        ([SQUARE, SQUARE], "task/test/3: has 2 images"),
        (["clip.mp4"], "clip.mp4 is no image"),
        ([{"type": "video", "url": "clip.mp4"}], "clip.mp4 is no image"),
        ([{"array": [0.0], "sampling_rate": 16000}], "dict is no image"),
    ],
)
def test_several_images_and_video_are_refused(visuals, problem):
    with pytest.raises(NotSupported, match=problem):
        one_image(visuals, "task/test/3")


def test_images_side_by_side_lie_centred_on_black_with_a_margin():
    red, blue = Image.new("RGB", (3, 6), "red"), Image.new("RGB", (2, 2), "blue")
    joined = one_image([red, blue.convert("P")], "here", join=True)
    assert joined.size == (3 + 10 + 2, 6)
    expected = Image.new("RGB", (15, 6), "black")
    for x in range(15):
        for y in range(6):
            if x < 3:
                expected.putpixel((x, y), (255, 0, 0))
            elif x >= 13 and 2 <= y < 4:
                expected.putpixel((x, y), (0, 0, 255))
    assert identity(joined) == identity(expected)
    assert identity(one_image([red], "here", join=True)) == identity(red)


def test_a_missing_image_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png"):
        one_image([str(tmp_path / "gone.png")], "here")


def test_identity_is_of_size_and_pixels():
    tall, wide = Image.new("RGB", (2, 6)), Image.new("RGB", (6, 2))
    assert tall.tobytes() == wide.tobytes()
    assert identity(tall) != identity(wide)
    assert identity(tall) == identity(tall.copy())


def test_images_are_opened_again_and_the_same_picture_is_one():
    opened = []

    def opener(number, image):
        def open_it():
            opened.append(number)
            return image

        return open_it

    images = Images()
    first, same, blind = (
        images.add("a", opener(0, SQUARE)),
        images.add("b", opener(1, SQUARE.copy())),
        images.add("c", opener(2, None)),
    )
    assert first.identity == same.identity
    assert (first.name, blind) == ("a", None)
    assert images.load(same).tobytes() == SQUARE.tobytes()
    assert opened == [0, 1, 2, 0]


def user(*parts):
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def test_the_texts_of_a_turn_are_joined_and_the_image_stands_first():
    image = {"type": "image", "url": SQUARE}
    assert chat_parts([user(image, " Is it red?\n")], "") == ([SQUARE], " Is it red?\n")
    assert chat_parts([user("Look:", image, "Is it red?")], "") == ([SQUARE], "Look:\nIs it red?")
    system = {"role": "system", "content": "Be brief."}
    assert chat_parts([system, user("Why?")], "") == ([], "Be brief.\nWhy?")
    assert chat_parts([{"role": "user", "content": "Why?"}], "") == ([], "Why?")


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([user("a"), {"role": "assistant", "content": "b"}, user("c")], "several turns"),
        ([user("a"), user("b")], "several turns"),
        ([user({"type": "video", "url": "x"})], "part of type 'video'"),
        ([user({"type": "audio", "url": "x"})], "part of type 'audio'"),
    ],
)
def test_conversations_and_other_media_are_refused(messages, problem):
    with pytest.raises(NotSupported, match=problem):
        chat_parts(messages, "task/test/0")


def test_a_tasks_own_placeholder_makes_room_for_the_image():
    assert plain_prompt("<image>\nIs it red?", with_image=True) == "Is it red?"
    assert plain_prompt("<image>\nIs it red?", with_image=False) == "<image>\nIs it red?"
    assert plain_prompt(" Is it red?\n", with_image=True) == " Is it red?\n"


@pytest.mark.parametrize("tokens", [0, -1, "many", "", 1.5, True, float("inf")])
def test_a_token_budget_that_is_none_is_refused_and_not_taken_for_the_default(tokens):
    with pytest.raises(DataError, match=r"task/test/0: max_new_tokens=.* at least 1"):
        read_decoding({"max_new_tokens": tokens}, "task/test/0")
    assert read_decoding({"max_new_tokens": 8.0}, "").max_new_tokens == 8
    assert read_decoding({"max_new_tokens": "8"}, "").max_new_tokens == 8
