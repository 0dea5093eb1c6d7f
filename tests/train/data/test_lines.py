"""JSON lines: found as Python's own line reader finds them, whatever the blocks, in any process."""

import json
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from train.data import lines
from train.data.lines import JsonLines
from train.data.samples import BadSample

REGION = '"phrases": [{"message": 0, "segmentation": [1]}]'
KINDS = [
    "",
    "  ",
    "\t\r",
    "3",
    "not JSON",
    '{"id": "ü"}',
    "  " + '{"id": 1}',
    '{"value": "phrases"}',
    '{"value": "\\"phrases\\": [{\\"segmentation\\": [1]}]"}',
    '{"phrases": []}',
    '{"phrases": [{"message": 0}]}',
    '{"phrases": [{"segmentation": null}]}',
    "{" + REGION + "}",
    '{"phrases" : [ {"segmentation" :{"size": [1, 1]}}], "x": "' + "y" * 90 + '"}',
]


def longhand(path):
    """(number, line, whether it has a region) of each line that is not blank."""
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        phrases = record.get("phrases", []) if isinstance(record, dict) else []
        found.append((number, line.strip(), any(p.get("segmentation") is not None for p in phrases)))
    return found


@given(st.lists(st.sampled_from(KINDS), max_size=20), st.booleans(), st.integers(1, 200))
@example(["", "3", "", "", "{" + REGION + "}"], False, 7)
@example(["{" + REGION + "}"] * 9, True, 1)
def test_lines_are_those_of_a_loop(tmp_path_factory, written, ended, block):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_text("\n".join(written) + ("\n" if ended else ""))
    before = lines.BLOCK
    lines.BLOCK = block
    try:
        found = JsonLines(path)
    finally:
        lines.BLOCK = before
    expected = longhand(path)
    assert [(found.number(i), found[i].strip()) for i in range(len(found))] == [(n, line) for n, line, _ in expected]
    assert list(found.guided) == [i for i, (*_, region) in enumerate(expected) if region]
    again = pickle.loads(pickle.dumps(found))
    assert [again[i] for i in range(len(again))] == [found[i] for i in range(len(found))]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": "x" * (i % 50)}) + "\n" for i in range(3000)))
    return path


def test_lines_across_the_blocks_of_a_larger_file(path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 4096)
    found = JsonLines(path)
    assert [json.loads(found[i])["id"] for i in range(len(found))] == list(range(3000))


def test_workers_read_lines(path):
    found = JsonLines(path)
    assert json.loads(found[2999])["id"] == 2999  # the file is open here already
    loader = DataLoader(found, batch_size=None, num_workers=2, sampler=range(7, 3000, 7))
    assert [json.loads(line)["id"] for line in loader] == list(range(7, 3000, 7))


def test_a_file_that_was_cut_short_is_bad_data_and_no_crash(path):
    found = JsonLines(path)
    last = found[2999]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)
    assert json.loads(found[2998])["id"] == 2998
    with pytest.raises(BadSample, match=r"many\.jsonl:3000: the file is shorter"):
        found[2999]
    assert json.loads(last)["id"] == 2999


def test_memory_is_eight_bytes_a_line(path):
    found = JsonLines(path)
    assert len(pickle.dumps(found)) < 8 * 3000 + 1000
