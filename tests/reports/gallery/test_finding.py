"""Which image is shown beside a question: the one that the model saw, or none."""

from __future__ import annotations

import io
import json
import shutil
import socket

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agevlm.errors import DataError
from reports.gallery.making import Wanted, gallery_of
from reports.gallery.sources import RenderedImages
from reports.opened import open_runs
from tests.benchmarks.runs.stub import StubVlm, make_data
from tests.reports.gallery.conftest import ask, gallery

NAMES = ['it\'s "quoted".png', "two\nlines.png", "<script>alert(1)<.png", "ünï/ côdé.png"]


@pytest.fixture
def own(tmp_path):
    """A run over images that a test may change: its folder and that of the images."""
    data = make_data(tmp_path / "data", 8, size=(40, 30))
    assert ask("pope", StubVlm(), data, tmp_path / "run") == 0
    return tmp_path / "run", data.images


def of(picture, folder, name):
    """Whether a picture is of this file."""
    with Image.open(io.BytesIO(picture.data)) as small, Image.open(folder / name) as whole:
        # Noise loses much of its colour in a JPEG, but little of its light.
        light = [np.asarray(one.convert("L"), float).ravel() for one in (small, whole)]
    return np.corrcoef(light)[0, 1] > 0.9


def test_each_question_has_the_picture_of_its_image(own):
    run, images = own
    found = gallery(run)
    assert len(found.pictures) == 8
    for item in found.items:
        assert of(found.pictures[item.picture], images, item.image)
    other = sorted({item.image for item in found.items})
    shown = {item.image: found.pictures[item.picture] for item in found.items}
    assert not of(shown[other[0]], images, other[1])
    assert found.notes == ()


def test_images_that_are_gone_are_told_and_found_elsewhere(own, tmp_path):
    run, images = own
    whole = gallery(run)
    moved = images.rename(tmp_path / "moved")
    gone = gallery(run)
    assert not gone.pictures
    assert all(item.picture is None for item in gone.items)
    assert len(gone.items) == len(whole.items)
    assert any("8 of 8 images not found" in note for note in gone.notes)
    assert any(str(images) in note and "not there" in note for note in gone.notes)
    assert gallery(run, images=moved) == whole
    (moved / sorted(p.name for p in moved.iterdir())[0]).unlink()
    less = gallery(run, images=moved)
    assert len(less.pictures) == 7
    assert any("1 of 8 images not found: 000000000000.png" in note for note in less.notes)


def test_a_changed_file_is_not_shown(own):
    run, images = own
    first, second = sorted(images.iterdir())[:2]
    shutil.copy(second, first)
    found = gallery(run)
    assert len(found.pictures) == 7
    assert all((item.picture is None) == (item.image == first.name) for item in found.items)
    assert any("1 of 8 images not shown" in note and first.name in note for note in found.notes)
    # A question without an answer is about the same image as the others.
    answers = (run / "answers-00000.jsonl").read_text().splitlines(keepends=True)
    place = next(k for k, line in enumerate(answers) if json.loads(line)["image"] == first.name)
    answers[place] = "{]\n"
    (run / "answers-00000.jsonl").write_text("".join(answers))
    found = gallery(run)
    assert any(item.kind == "not answered" for item in found.items)
    assert all((item.picture is None) == (item.image == first.name) for item in found.items)


def test_a_file_that_no_model_could_open_is_told(tmp_path):
    data = make_data(tmp_path / "data", 6)
    files = sorted(data.images.iterdir())
    files[0].write_bytes(b"no image at all")
    files[1].write_bytes(b"")
    files[2].write_bytes(files[2].read_bytes()[:200])
    assert ask("pope", StubVlm(), data, tmp_path / "run") == 3
    found = gallery(tmp_path / "run")
    broken = {path.name for path in files[:3]}
    assert {item.image for item in found.items if item.kind == "model failed"} == broken
    assert {item.image for item in found.items if item.picture is None} == broken
    assert any("3 of 6 images cannot be opened" in note for note in found.notes)


def test_paths_are_relative_to_where_the_report_is_made_or_to_the_run(own, tmp_path, monkeypatch):
    run, images = own
    whole = gallery(run)
    manifest = json.loads((run / "run.json").read_text())

    def named(path):
        (run / "run.json").write_text(json.dumps({**manifest, "images": path}))
        return gallery(run)

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert named("../data/images").pictures == whole.pictures, "from the current folder"
    shutil.copytree(images, run / "pics")
    assert named("pics").pictures == whole.pictures, "from the run folder"
    assert not named("data/images").pictures, "guessed nowhere else"


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "a\\b.png", "", "images/../../secret.png", "nul\0l.png"]
)
def test_names_cannot_leave_the_folder(own, name, tmp_path):
    run, images = own
    # The very bytes that the model saw, where the name leads: it is the name that is refused.
    shutil.copy(sorted(images.iterdir())[0], images.parent / "secret.png")
    rows = [json.loads(line) for line in (run / "questions.jsonl").read_text().splitlines()]
    for row in rows:
        row["question"]["image"] = name
    (run / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = gallery(run)
    assert not found.pictures
    assert {item.image for item in found.items} == {name}


def test_odd_names_are_found_and_told_inert(tmp_path):
    data = make_data(tmp_path / "data", 4)
    names = dict(zip(sorted(p.name for p in data.images.iterdir()), NAMES, strict=True))
    for old, new in names.items():
        (data.images / new).parent.mkdir(exist_ok=True)
        (data.images / old).rename(data.images / new)
    for path in data.questions.iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "image": names[row["image"]]}) + "\n" for row in rows))
    assert ask("pope", StubVlm(), data, tmp_path / "run") == 0
    found = gallery(tmp_path / "run")
    assert {item.image for item in found.items} == set(NAMES)
    assert len(found.pictures) == 4
    assert all(picture.name.replace(".", "").isalnum() for picture in found.pictures)
    shutil.rmtree(data.images)
    assert all("\n" not in note for note in gallery(tmp_path / "run").notes)


def test_images_in_the_question_file(own, tmp_path):
    run, images = own
    whole = gallery(run)
    table = pa.Table.from_pylist(
        [
            {
                "question_id": str(k),
                "image_source": path.stem,
                "question": "Is there a dog in the image?",
                "answer": "no",
                "category": "random",
                "image": {"bytes": path.read_bytes(), "path": path.name},
            }
            for k, path in enumerate(sorted(images.iterdir()))
        ]
    )
    pq.write_table(table, tmp_path / "data.parquet")
    manifest = json.loads((run / "run.json").read_text())
    manifest["images"] = "in the question files"
    manifest["data"][0]["from"] = [str(tmp_path / "data.parquet")]
    (run / "run.json").write_text(json.dumps(manifest))
    rows = (run / "questions.jsonl").read_text().replace(".png", ".jpg")  # as parquet rows are named
    (run / "questions.jsonl").write_text(rows)
    shutil.rmtree(images)
    assert gallery(run).pictures == whole.pictures
    (tmp_path / "data.parquet").write_bytes(b"PAR1 no more")
    found = gallery(run)
    assert not found.pictures
    assert any("data.parquet" in note and "not a sound parquet file" in note for note in found.notes)


def test_nothing_is_fetched(own, monkeypatch):
    run, _ = own
    manifest = json.loads((run / "run.json").read_text())
    manifest["images"] = "in the question files"
    manifest["data"][0]["from"] = ["nobody-at-all/no-such-set"]
    (run / "run.json").write_text(json.dumps(manifest))

    import datasets
    import huggingface_hub.constants as hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    calls = []
    monkeypatch.setattr(socket.socket, "connect", lambda *a: calls.append(a))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: calls.append(a))
    found = gallery(run)
    assert not found.pictures
    assert not calls
    assert any("nobody-at-all/no-such-set" in note for note in found.notes)
    assert not hub.HF_HUB_OFFLINE, "as it was before"
    assert not datasets.config.HF_HUB_OFFLINE


def test_scenes_are_drawn_again_and_only_shown_if_they_are_the_same(inside, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(inside / "pope", run)
    found = gallery(run)
    assert len(found.pictures) == 6
    drawn = []
    original = RenderedImages.read

    def other(self, name):
        file = original(self, name)
        drawn.append(name)
        # A world of another version: the picture is not the one that the model saw.
        return type(file)(file.name, file.data + b"\0") if name.endswith("1.png") else file

    monkeypatch.setattr(RenderedImages, "read", other)
    changed = gallery(run)
    lost = {item.image for item in changed.items if item.picture is None}
    assert lost
    assert all(name.endswith("1.png") for name in lost)
    assert any("not the one that the model saw" in note for note in changed.notes)
    assert len(drawn) <= 6, "each at most once"
    for name in ("images/1.png", "x.png", "images/٣.png", "../000500000001.png"):
        with pytest.raises(DataError, match="not a rendered scene"):
            original(RenderedImages("scenes"), name)


def test_without_pictures_nothing_is_looked_for(own, monkeypatch):
    run, images = own
    shutil.rmtree(images)
    found = gallery(run, pictures=False)
    assert not found.pictures
    assert len(found.items) == len(gallery(run).items)
    assert found.notes == ("pictures were not asked for",)


def test_two_calls_are_equal_and_stay_in_the_budget(own, made, inside):
    run, _ = own
    folders = [run, inside / "pope", made / "cvbench", inside / "grounding"]
    before = None
    for most in (0, 3_000, 20_000, 60_000, 200_000):
        found = gallery(*folders, most_bytes=most)
        assert found == gallery(*folders, most_bytes=most)
        size = sum(len(p.data) for p in found.pictures)
        size += sum(len(o.attention) + len(o.mask or b"") for o in found.overlays)
        assert size <= most
        assert before is None or len(found.pictures) >= len(before.pictures)
        assert before is None or len(found.overlays) >= len(before.overlays)
        before = found
    assert before.overlays
    runs, _ = open_runs(folders)
    assert gallery_of(runs, Wanted(seed=1)).items == gallery_of(runs, Wanted(seed=2)).items


def test_little_room_is_for_the_worst_and_a_draw(own):
    run, _ = own
    whole = gallery(run)
    worst = max((i for i in whole.items if i.kind in ("false yes", "missed", "unparsed")), key=lambda i: i.margin)
    sizes = set()
    for most in range(0, 8_000, 400):
        found = gallery(run, most_bytes=most)
        sizes.add(len(found.pictures))
        shown = [i for i in found.items if i.picture is not None]
        if found.pictures:
            assert worst.image in {i.image for i in shown}
        if len(found.pictures) < 8:
            assert any("left out to keep the page small" in note for note in found.notes)
            assert any(f"{len(found.pictures)} images have a picture" in note for note in found.notes)
    assert len(sizes) > 4
