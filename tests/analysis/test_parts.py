"""Records of an analysis on disk."""

import os

import pyarrow as pa
import pytest

from agevlm.errors import RunFolderError
from analysis import parts as module
from analysis.parts import Parts

SCHEMA = pa.schema([("group", pa.string()), ("value", pa.float64()), ("map", pa.list_(pa.float16()))])


def rows(*values):
    return [{"value": float(v), "map": [v, v + 0.5]} for v in values]


def test_what_is_appended_is_read_back_in_order(tmp_path):
    parts = Parts(tmp_path, "a-b", SCHEMA)
    assert parts.read().num_rows == 0
    assert not parts.done()
    parts.append({"one": rows(1, 2), "none": []})
    parts.append({"two": rows(3)})
    again = Parts(tmp_path, "a-b", SCHEMA)
    assert again.done() == {"one", "none", "two"}
    assert again.read().to_pydict() == {
        "group": ["one", "one", "two"],
        "value": [1.0, 2.0, 3.0],
        "map": [[1.0, 1.5], [2.0, 2.5], [3.0, 3.5]],
    }
    assert again.read(["value"]).column_names == ["value"]
    assert Parts(tmp_path, "a", SCHEMA).read().num_rows == 0, "another model's"


def test_many_small_files_become_few(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY", 4)
    parts = Parts(tmp_path, "m", SCHEMA)
    for number in range(11):
        parts.append({f"g{number}": rows(number)})
    assert len(parts.files) == 2 + 3
    assert parts.read()["value"].to_pylist() == [float(n) for n in range(11)]
    assert parts.done() == {f"g{n}" for n in range(11)}


def test_killed_between_merging_and_removing_nothing_counts_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY", 3)
    monkeypatch.setattr(module.Path, "unlink", lambda *_, **__: None)
    parts = Parts(tmp_path, "m", SCHEMA)
    for number in range(3):
        parts.append({f"g{number}": rows(number)})
    assert len(list((tmp_path / "probes").iterdir())) == 4
    assert parts.read()["value"].to_pylist() == [0.0, 1.0, 2.0]
    monkeypatch.undo()
    parts.append({"g3": rows(3)})
    assert parts.read()["value"].to_pylist() == [0.0, 1.0, 2.0, 3.0]


def test_a_half_written_file_is_not_seen_and_a_damaged_one_is_named(tmp_path):
    parts = Parts(tmp_path, "m", SCHEMA)
    parts.append({"one": rows(1)})
    (tmp_path / "probes" / ".m.part").write_bytes(b"PAR1 half")
    assert parts.done() == {"one"}
    path = parts.files[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunFolderError, match=r"m-000001\.parquet: damaged"):
        parts.done()


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    parts = Parts(tmp_path, "m", SCHEMA)
    parts.append({"one": rows(1)})

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left"):
        parts.append({"two": rows(2)})
    monkeypatch.undo()
    assert parts.done() == {"one"}
    assert not list((tmp_path / "probes").glob(".*"))


def test_damaged_files_cost_their_own_rows_alone_where_that_is_wanted(tmp_path):
    parts = Parts(tmp_path, "m", SCHEMA)
    for number in range(3):
        parts.append({f"g{number}": rows(number)})
    damaged = parts.files[1]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    remarks: list[str] = []
    assert parts.read(["value"], remarks)["value"].to_pylist() == [0.0, 2.0]
    assert [str(damaged) in remark for remark in remarks] == [True]
    with pytest.raises(RunFolderError, match=r"000002\.parquet: damaged"):
        parts.read(["value"])
