"""The numbers behind the picture, on a probe made by hand: no model, every value longhand."""

import dataclasses
import math

import numpy as np
import pytest

from agevlm.errors import DataError
from agevlm.geometry import Geometry
from agevlm.vlm.contract import Probe, ProbedToken, Reply
from analysis.look import content_words, gazes, panels, shown_layers

PROMPT = "Is a dining table or a dog there?"
ANSWER = "No dog, a cat."
PIECES = {
    "template": [("<s>", 0, 0), ("USER:", 0, 5)],
    "prompt": [
        ("Is", 0, 2), (" a", 2, 4), (" din", 4, 8), ("ing", 8, 11), (" table", 11, 17), (" or", 17, 20), (" a", 20, 22),
        (" d", 22, 24), ("og", 24, 26), (" there?", 26, 33),
    ],
    "header": [(" ASS:", 40, 45)],
    "answer": [("No", 0, 2), (" dog", 2, 6), (", a", 6, 9), (" c", 9, 11), ("at.", 11, 14), ("", 14, 14)],
}  # fmt: skip
TOKENS = tuple(
    ProbedToken(text, "template" if part == "header" else part, start, end)
    for part, pieces in PIECES.items()
    for text, start, end in pieces
)
SEEING = 2
"""The first token that sees the image."""
LAYERS = (3, 8)
GEOMETRY = Geometry.letterbox((60, 30), (60, 60), (2, 3))
"""A wide image: of two rows of cells each is half padding."""
REPLY = Reply(ANSWER, "eos")


def a_probe():
    rng = np.random.default_rng(5)
    attention = rng.random((2, len(TOKENS), 2, 3)).astype(np.float32) / 8
    elsewhere = rng.random((2, len(TOKENS))).astype(np.float32) / 8
    attention[:, :SEEING] = 0
    elsewhere[:, :SEEING] = 0
    return Probe(TOKENS, LAYERS, attention, elsewhere, GEOMETRY)


PROBE = a_probe()


def index(text, part="prompt"):
    return next(i for i, t in enumerate(TOKENS) if (t.text, t.part) == (text, part))


@pytest.mark.parametrize(
    ("word", "token", "part"),
    [
        ("dining", "ing", "prompt"),
        ("DINING", "ing", "prompt"),
        ("dining table", " table", "prompt"),
        (" table ", " table", "prompt"),
        ("dining table or a dog", "og", "prompt"),
        ("dog", "og", "prompt"),
        ("a", " a", "prompt"),
        ("there?", " there?", "prompt"),
        ("No", "No", "answer"),
        ("cat", "at.", "answer"),
        ("No dog, a cat.", "at.", "answer"),
    ],
)
def test_a_word_looks_where_its_last_token_looks(word, token, part):
    gaze = gazes(PROBE, PROMPT, REPLY, [word])[0]
    place = index(token, part)
    assert gaze.label == word
    assert gaze.tokens == (place,)
    np.testing.assert_array_equal(gaze.maps, PROBE.attention[:, place])
    np.testing.assert_array_equal(gaze.elsewhere, PROBE.elsewhere[:, place])


@pytest.mark.parametrize("word", ["din", "umbrella", "dogs", "able", "", "  ", "table or the dog", "ASS", ".*"])
def test_a_word_that_stands_nowhere_is_refused(word):
    with pytest.raises(DataError, match=r"stands neither in the question .* nor in the answer 'No dog, a cat\.'"):
        gazes(PROBE, PROMPT, REPLY, ["dog", word])


def test_rows_are_the_words_as_given_then_the_answer_then_the_control():
    labels = [g.label for g in gazes(PROBE, PROMPT, REPLY, ["table", "dog", "table", "cat"])]
    assert labels == ["table", "dog", "cat", "→ No dog, a cat.", "all tokens (control)"]


def test_without_words_the_content_words_of_the_question_are_followed():
    assert [g.label for g in gazes(PROBE, PROMPT, REPLY, [])][:-2] == ["dining", "table", "dog"]


def test_the_answers_row_is_the_position_that_predicts_its_first_token():
    answer = gazes(PROBE, PROMPT, REPLY, ["dog"])[-2]
    assert answer.tokens == (index(" ASS:", "template"),) == (index("No", "answer") - 1,)
    alone = dataclasses.replace(PROBE, tokens=TOKENS[:13], attention=PROBE.attention[:, :13])
    alone = dataclasses.replace(alone, elsewhere=PROBE.elsewhere[:, :13])
    silent = gazes(alone, PROMPT, Reply("", "eos"), ["dog"])[-2]
    assert (silent.label, silent.tokens) == ("→ answer", (12,))
    wordy = gazes(PROBE, PROMPT, Reply("one\n two\t three  four five six seven", "length"), ["dog"])[-2]
    assert wordy.label == "→ one two three four five "[:26]


def test_the_control_is_the_mean_of_the_prompts_tokens_that_see_the_image():
    control = gazes(PROBE, PROMPT, REPLY, ["dog"])[-1]
    members = [i for i, t in enumerate(TOKENS) if t.part != "answer" and i >= SEEING]
    assert control.tokens == tuple(members)
    for layer in range(2):
        total = sum(PROBE.attention[layer, i].astype(np.float64) for i in members)
        np.testing.assert_allclose(control.maps[layer], total / len(members), rtol=1e-5)
        rest = sum(float(PROBE.elsewhere[layer, i]) for i in members)
        assert control.elsewhere[layer] == pytest.approx(rest / len(members), rel=1e-5)


def test_numbers_of_each_panel_longhand():
    found = gazes(PROBE, PROMPT, REPLY, ["dining", "cat"])
    control = found[-1]
    assert GEOMETRY.coverage().tolist() == [[0.5] * 3] * 2
    for gaze in found:
        made = panels(PROBE, gaze, control, [8, 3])
        assert [p.layer for p in made] == [8, 3, None]
        for panel in made:
            assert panel.label == gaze.label
            wanted = [0, 1] if panel.layer is None else [LAYERS.index(panel.layer)]
            cells, other, elsewhere = [], [], 0.0
            for row in range(2):
                for column in range(3):
                    cells.append(sum(float(gaze.maps[n][row][column]) for n in wanted) / len(wanted))
                    other.append(sum(float(control.maps[n][row][column]) for n in wanted) / len(wanted))
            elsewhere = sum(float(gaze.elsewhere[n]) for n in wanted) / len(wanted)
            assert panel.map.ravel().tolist() == pytest.approx(cells, rel=1e-5)
            assert panel.on_image == pytest.approx(sum(cells) / 2, rel=1e-5)
            assert panel.on_padding == pytest.approx(sum(cells) / 2, rel=1e-5)
            assert panel.elsewhere == pytest.approx(elsewhere, rel=1e-5)
            assert panel.peak == pytest.approx(max(cells) / (sum(cells) / 6), rel=1e-5)
            if gaze is control:
                assert panel.like_all is None
                continue
            mean, mean_other = sum(cells) / 6, sum(other) / 6
            covariance = sum((a - mean) * (b - mean_other) for a, b in zip(cells, other, strict=True))
            spread = math.sqrt(sum((a - mean) ** 2 for a in cells) * sum((b - mean_other) ** 2 for b in other))
            assert panel.like_all == pytest.approx(covariance / spread, abs=1e-4)


def test_image_and_padding_share_a_map_by_what_covers_each_cell():
    # 40 x 10 in 40 x 40 pixels: rows 15 to 25 hold the image, a half of the second and a half of the third row of four.
    geometry = Geometry.letterbox((40, 10), (40, 40), (4, 2))
    attention = np.zeros((1, 1, 4, 2), np.float32)
    attention[0, 0] = [[0.1, 0.0], [0.2, 0.1], [0.0, 0.3], [0.05, 0.05]]
    probe = Probe((ProbedToken("dog", "prompt", 0, 3),), (0,), attention, np.full((1, 1), 0.2, np.float32), geometry)
    found = gazes(probe, "dog", Reply("", "eos"), ["dog"])
    panel = panels(probe, found[0], found[-1], [0])[0]
    assert panel.on_image == pytest.approx((0.3 + 0.3) / 2)
    assert panel.on_padding == pytest.approx(0.1 + 0.1 + (0.3 + 0.3) / 2)
    assert panel.elsewhere == pytest.approx(0.2)
    assert panel.peak == pytest.approx(0.3 / (0.8 / 8))
    assert panel.like_all == pytest.approx(1.0)


def test_a_flat_map_has_no_correlation_and_an_empty_one_no_peak():
    attention = np.zeros((2, 2, 2, 3), np.float32)
    attention[0] = 1 / 6
    tokens = (ProbedToken("a", "prompt", 0, 1), ProbedToken(" dog", "prompt", 1, 5))
    probe = Probe(tokens, LAYERS, attention, np.zeros((2, 2), np.float32), GEOMETRY)
    found = gazes(probe, "a dog", Reply("", "eos"), ["dog"])
    flat, empty, _ = panels(probe, found[0], found[-1], LAYERS)
    assert (flat.peak, flat.like_all) == (pytest.approx(1.0), None)
    assert (empty.peak, empty.like_all, empty.on_image) == (0.0, None, 0.0)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Is there a dining table in the image?", ["dining", "table"]),
        ("Is there a dog in the picture? Answer the question using a single word or phrase.", ["dog"]),
        ("What? Is there a dog?", []),
        ("How many handrails are there?", ["handrails"]),
        ("dog Dog dog cat", ["dog", "Dog", "cat"]),
        ("red green blue black white yellow", ["red", "green", "blue", "black"]),
        ("Is the café's T-shirt here?", ["café's", "T-shirt"]),
        ("猫 が 見えます", ["見えます"]),
        ("?", []),
    ],
)
def test_content_words(prompt, words):
    assert content_words(prompt) == words


@pytest.mark.parametrize(
    ("layers", "shown"),
    [
        ([], []),
        ([4], [4]),
        ([2, 7, 12, 17], [2, 7, 12, 17]),
        (range(6), [0, 1, 2, 3, 4, 5]),
        (range(7), [0, 1, 2, 4, 5, 6]),
        (range(32), [0, 6, 12, 19, 25, 31]),
        (range(10, 21), [10, 12, 14, 16, 18, 20]),
    ],
)
def test_shown_layers_are_evenly_spread_from_first_to_last(layers, shown):
    assert shown_layers(list(layers)) == shown


def test_words_with_an_underscore_are_found_again():
    assert content_words("Is there a traffic_light?") == ["traffic_light"]
