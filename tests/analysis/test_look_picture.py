"""The picture's layout: nothing overlaps, nothing is cut off, whatever the question, the words and the shapes."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from agevlm.errors import DataError
from agevlm.geometry import Geometry
from analysis.look import Panel
from analysis.look_picture import draw

FOOTER = "What all of this is and is not, in small letters. " * 12
LONG = "Is there a dining table, for $5 or even $10, with chairs and plates and candles on or beside it in the image? "
CASES = {
    "short": {"question": "What?", "answer": "No", "words": 0, "layers": 1},
    "nothing said": {"question": "What?", "answer": " \n", "words": 1, "layers": 1},
    "long question": {"question": LONG * 3, "answer": "No", "words": 1, "layers": 1},
    "long answer": {"question": "What?", "answer": LONG * 9, "words": 0, "layers": 2},
    "all long": {"question": LONG * 9, "answer": LONG * 9, "words": 2, "layers": 4},
    "one endless word": {"question": "W" * 700, "answer": "i" * 900, "words": 1, "layers": 1, "label": "W" * 90},
    "many words and layers": {"question": LONG, "answer": "Yes", "words": 5, "layers": 4},
    "other scripts": {"question": "猫は見えますか 😀\x07\x1b[1m " * 9, "answer": "نعم\u0000", "words": 2, "layers": 1},
}
SIZES = [(64, 64), (640, 480), (1500, 150), (60, 1200)]
MODES = {"letterbox": Geometry.letterbox, "squash": Geometry.squash, "crop": Geometry.crop}


def drawn(monkeypatch, tmp_path, mode, size, question, answer, words, layers, label="every word of what you say"):
    geometry = MODES[mode](size, (96, 96), (6, 6))
    rng = np.random.default_rng(0)
    kept = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (real(self, *a, **k), kept.append(self))[0])
    labels = [*[f"{label} {n}" for n in range(words)], "→ W�W�W�W�W�W�W�W�W�W�W�W�", "all tokens (control)"]
    rows = [
        [
            Panel(name, n, rng.random((6, 6)), 0.777, 0.222, 0.111, 1234.5, -0.99)
            for n in [*range(28, 28 + layers), None]
        ]
        for name in labels
    ]
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    out = tmp_path / "look.png"
    draw(
        image, geometry, rows, question=question, answer=answer, footer=FOOTER, smooth=False, out=out
    )  # fmt: skip
    return kept[0], Image.open(out), rows


def boxes_of(figure):
    """Everything that takes room: texts by what they say, axes by number; in pixels."""
    renderer = figure.canvas.get_renderer()
    found = {f"text {t.get_text()[:40]!r}": t.get_window_extent(renderer) for t in figure.texts}
    for number, axes in enumerate(figure.axes):
        found[f"axes {number}"] = axes.get_window_extent()
        for text in (axes.title, axes.xaxis.label):
            if text.get_text():
                found[f"axes {number} {text.get_text()!r}"] = text.get_window_extent(renderer)
    return found


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(("case", "turn"), [(case, n + 2 * half) for n, case in enumerate(CASES) for half in (0, 1)])
def test_nothing_overlaps_and_nothing_is_cut_off(monkeypatch, tmp_path, case, turn):
    size, mode = SIZES[turn % 4], sorted(MODES)[turn % 3]
    figure, picture, rows = drawn(monkeypatch, tmp_path, mode, size, **CASES[case])
    assert len(figure.axes) == 1 + len(rows) * len(rows[0])
    boxes = boxes_of(figure)
    assert len(boxes) == 1 + len(rows) * len(rows[0]) * 2 + len(rows[0]) + len(figure.texts)
    for name, box in boxes.items():
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= picture.width, name
        assert box.y1 <= picture.height, name
        assert min(box.width, box.height) > 4, name
    for (one, first), (other, second) in combinations(boxes.items(), 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert wide <= 1 or high <= 1, f"{one} overlaps {other}"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_word_of_a_question_that_fits_is_there_and_what_is_left_out_is_marked(monkeypatch, tmp_path):
    figure, _, _ = drawn(monkeypatch, tmp_path, "crop", (64, 64), **CASES["long question"])
    texts = [" ".join(t.get_text().split()) for t in figure.texts]
    assert (LONG * 3).strip() in texts
    assert FOOTER.strip() in texts
    assert "No" in texts
    figure, _, _ = drawn(monkeypatch, tmp_path, "crop", (64, 64), **CASES["all long"])
    cut = [t for t in (" ".join(t.get_text().split()) for t in figure.texts) if t.endswith(" …")]
    assert len(cut) == 2
    for text in cut:
        assert (LONG * 9).startswith(text[:-2])
        assert len(text) > 250
    figure, _, _ = drawn(monkeypatch, tmp_path, "crop", (64, 64), **CASES["nothing said"])
    assert "(nothing)" in [t.get_text() for t in figure.texts]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_no_picture_is_distorted(monkeypatch, tmp_path, mode, size):
    figure, _, _ = drawn(monkeypatch, tmp_path, mode, size, **CASES["short"])
    shown = figure.axes[0].get_window_extent()
    assert shown.width / shown.height == pytest.approx(size[0] / size[1], rel=0.02)
    for axes in figure.axes[1:]:
        box = axes.get_window_extent()
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert bottom > top, "y runs downwards"
        assert box.width / (right - left) == pytest.approx(box.height / (bottom - top), rel=0.02)


def test_a_folder_that_has_gone_is_one_clear_error(tmp_path):
    geometry = Geometry.squash((8, 8), (8, 8), (1, 1))
    rows = [[Panel("dog", None, np.ones((1, 1)), 1.0, 0.0, 0.0, 1.0, None)]]
    with pytest.raises(DataError, match="cannot write: No such file or directory"):
        draw(
            Image.new("RGB", (8, 8)), geometry, rows,
            question="?", answer="No", footer="", smooth=True, out=tmp_path / "gone" / "a.png",
        )  # fmt: skip
