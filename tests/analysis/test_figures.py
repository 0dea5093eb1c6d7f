"""Figures are written in two formats, the same bytes for the same figure, whole or not at all."""

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from PIL import Image

from agevlm.errors import DataError
from analysis.figures import encoded, figure, save, shortened, style


def drawn(heights):
    with style() as seaborn:
        made = figure(4, 3)
        axes = made.subplots()
        seaborn.histplot(heights, ax=axes, kde=True)
        axes.set_title("a_b $5 [x] 猫")
        return made


@pytest.mark.parametrize("name", ["one", "one.png", "one.SVG", "v1.5"])
def test_both_formats_and_the_same_bytes_again(tmp_path, name):
    save(drawn([1, 2, 2, 3]), tmp_path / name)
    files = sorted(tmp_path.iterdir())
    stem = name if name == "v1.5" else "one"
    assert [f.name for f in files] == [f"{stem}.png", f"{stem}.svg"]
    first = [f.read_bytes() for f in files]
    with Image.open(files[0]) as picture:
        assert picture.size == (640, 480)
    assert b"a_b" in first[1]
    assert list(encoded(drawn([1, 2, 2, 3]))) == first
    assert save(drawn([1, 2, 2, 3]), tmp_path / name) == files
    assert [f.read_bytes() for f in files] == first
    save(drawn([1, 2, 2, 4]), tmp_path / name)
    assert all(f.read_bytes() != old for f, old in zip(files, first, strict=True))


def test_settings_outside_stay(tmp_path):
    before = dict(mpl.rcParams)
    drawn([1, 2])
    assert {k: v for k, v in mpl.rcParams.items() if before.get(k) != v} in ({}, {"backend": "agg"})


def test_what_cannot_be_written_leaves_no_part(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot write: No such file"):
        save(drawn([1]), tmp_path / "nowhere" / "one")

    def full(self, target, **kwargs):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(DataError, match=r"one\.png: cannot write: No space left"):
        save(figure(1, 1), tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def test_long_names_lose_their_middle():
    assert shortened("scenes/age-vlm") == "scenes/age-vlm"
    assert shortened("a" * 30 + "b" * 30) == "a" * 19 + "…" + "b" * 20
    assert len(shortened("x" * 100, 21)) == 21
