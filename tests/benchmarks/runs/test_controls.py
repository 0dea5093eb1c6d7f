"""The visual controls, pixel by pixel."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agevlm.data.images import EncodedFile
from agevlm.errors import DataError
from benchmarks.controls import GREY, GRID, blank, derangement, shuffled
from benchmarks.plan import Shown
from benchmarks.showing import load_pixels
from tests.benchmarks.runs.stub import picture

SHA = "ab" * 32


@given(st.integers(0, 30), st.integers(0, 5))
def test_no_image_stands_for_itself_and_each_is_used_once(count, seed):
    exchanged = derangement({f"{n}.jpg": [f"{n}.jpg"] for n in range(count)}, seed)
    names = {f"{n}.jpg" for n in range(count)}
    assert exchanged == {} if count < 2 else set(exchanged) == set(exchanged.values()) == names
    assert all(a != b for a, b in exchanged.items())


@given(st.lists(st.integers(1, 3), min_size=2, max_size=20), st.integers(0, 5))
def test_neither_the_image_nor_its_edited_twin_is_shown_in_its_place(sizes, seed):
    clusters = {f"pair {n}": [f"{n}/{i}.jpg" for i in range(size)] for n, size in enumerate(sizes)}
    exchanged = derangement(clusters, seed)
    assert set(exchanged) == {i for images in clusters.values() for i in images}
    for images in clusters.values():
        assert not {exchanged[i] for i in images} & set(images)


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=3), min_size=2, max_size=12), st.integers(0, 5))
def test_an_image_in_several_pairs_is_never_exchanged_for_itself_or_any_of_its_twins(members, seed):
    clusters = {f"pair {n}": [f"{i}.jpg" for i in images] for n, images in enumerate(members)}
    for image, other in derangement(clusters, seed).items():
        twins = {i for images in clusters.values() if image in images for i in images}
        assert other not in twins


def test_the_exchange_depends_on_the_seed_alone_not_on_the_order_of_questions():
    clusters = {f"{n}.jpg": [f"{n}.jpg"] for n in range(20)}
    backwards = dict(reversed(clusters.items()))
    assert derangement(clusters, 3) == derangement(backwards, 3) != derangement(clusters, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (5, 7), (16, 16), (17, 31), (50, 33), (640, 427)])
def test_shuffling_permutes_the_cells_and_nothing_else(size):
    image = picture(1, size)
    before, after = np.asarray(image), np.asarray(shuffled(image, SHA, 0))
    assert after.shape == before.shape
    assert np.array_equal(after, np.asarray(shuffled(image, SHA, 0)))
    width, height = size
    columns, rows = min(GRID, width), min(GRID, height)
    w, h = width // columns, height // rows

    def cells(pixels):
        return [pixels[y * h : y * h + h, x * w : x * w + w].tobytes() for y in range(rows) for x in range(columns)]

    assert Counter(cells(after)) == Counter(cells(before))
    assert np.array_equal(after[rows * h :], before[rows * h :])
    assert np.array_equal(after[:, columns * w :], before[:, columns * w :])
    assert cells(after) != cells(before) or rows * columns == 1


def test_the_permutation_is_the_images_own_and_the_seeds():
    image = picture(1, (64, 48))
    results = {shuffled(image, sha, seed).tobytes() for sha in (SHA, "cd" * 32) for seed in (0, 1)}
    assert len(results) == 4


def test_a_blank_image_is_grey_and_of_the_same_size():
    image = blank((13, 7))
    assert (image.size, image.mode, image.getcolors()) == ((13, 7), "RGB", [(91, GREY)])


class Files(dict):
    def read(self, name):
        return EncodedFile(name, self[name])

    def missing(self, names):
        return [n for n in names if n not in self]

    __hash__ = object.__hash__


def encoded(image, **options):
    import io

    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_a_blank_stands_for_a_sideways_photo_as_it_is_seen():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(1, (30, 20)), exif=exif)
    assert load_pixels(Shown("blank 20x30", "a.jpg", "blank"), [Files({"a.jpg": data})], 0).size == (20, 30)


def test_a_blank_needs_no_more_of_a_file_than_its_size():
    data = encoded(picture(1, (300, 200)))
    half = Files({"a.jpg": data[: len(data) // 2]})
    assert load_pixels(Shown("blank 300x200", "a.jpg", "blank"), [half], 0).size == (300, 200)


def test_of_two_containers_with_a_file_of_that_name_the_planned_one_is_shown():
    one, two = (encoded(picture(n)) for n in (1, 2))
    sources = [Files({"a.jpg": one}), Files({"a.jpg": two})]
    sha = EncodedFile("a.jpg", two).sha256
    expected = Image.open(__import__("io").BytesIO(two)).convert("RGB").tobytes()
    assert load_pixels(Shown(sha, "a.jpg"), sources, 0).tobytes() == expected


@pytest.mark.parametrize("control", [None, "shuffled", "blank"])
def test_an_image_that_changed_after_planning_is_not_shown(control):
    sha = EncodedFile("a.jpg", encoded(picture(1))).sha256
    identity = {None: sha, "shuffled": f"shuffled 16x16 seed 0 of {sha}", "blank": "blank 20x16"}[control]
    now = Files({"a.jpg": encoded(picture(2, (21, 16)))})
    with pytest.raises(DataError, match=r"a\.jpg: changed since the run was planned"):
        load_pixels(Shown(identity, "a.jpg", control), [now], 0)
    with pytest.raises(DataError, match=r"a\.jpg: gone"):
        load_pixels(Shown(identity, "a.jpg", control), [Files()], 0)
