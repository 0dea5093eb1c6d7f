"""The measuring command measures what it says, and leaves nothing behind."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from agevlm.errors import DataError, TrainError
from train.data.llava import LlavaSource
from train.data.measure import main, measure_feed, measure_lines, write_lines


def test_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    write_lines(path, 3000)
    found = measure_lines(path)
    assert (found.lines, found.bytes) == (3000, path.stat().st_size)
    assert 300 < found.bytes / found.lines < 480
    assert 8 * 3000 < found.pickled < 8 * 3300 + 1000
    assert min(found.seconds, found.microseconds, found.pickling) > 0
    source = LlavaSource(path, None)
    assert list(source.guided) == list(range(0, 3000, 10))
    assert source.record(2999) == json.loads(path.read_text().splitlines()[-1])


def test_a_full_disk_is_seen_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"9\.6 GB must be free"):
        write_lines(tmp_path / "lines.jsonl", 10_000_000)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return folder


def test_the_command(photos, tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    options = ["--lines", "500", "--images", str(photos), "--side", "64", "--samples", "16", "--folder", str(room)]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("500 lines, 0.00 GB: indexed in ")
    assert [line.split(":")[0] for line in lines[1:]] == ["0 workers", "1 workers", "2 workers"]
    for line in lines[1:]:
        images, seconds = map(float, re.search(r" ([\d.]+) images .* take ([\d.]+) s", line).groups())
        assert seconds == pytest.approx(8 / images, abs=0.006 + 0.001 / images)
    assert not list(room.iterdir())
    assert CliRunner().invoke(main, []).exit_code == 2


def test_data_that_cannot_be_fed_are_told(photos):
    (photos / "list.jsonl").write_text(json.dumps({"id": 1, "image": "0.jpg", "conversations": 3}))
    with pytest.raises(TrainError, match="expected a list of turns"):
        measure_feed(LlavaSource(photos / "list.jsonl", photos), 64, 0, 8)
