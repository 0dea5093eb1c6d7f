"""Which files there are, and whose files are touched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agevlm.errors import DataError
from reports.document import Report, Section
from reports.writing.files import check_folder, write_report
from tests.reports.writing.conftest import report, tables


def small(*kept: int) -> Report:
    return Report("T", "now", "command", (), [Section("s", "S", (), [tables()[k] for k in kept])])


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written(written: Path) -> None:
    ids = [table.id for table in tables()]
    assert names(written) == {
        "report.html", "tables.tex", "tables.md", "files.json", "figures/fig.png", "figures/fig.svg",
        *(f"tables/{one}.{kind}" for one in ids for kind in ("tex", "md", "csv")),
    }  # fmt: skip
    assert set(json.loads((written / "files.json").read_text())["files"]) == names(written)
    assert (written / "figures/fig.png").read_bytes() == report().figures[0].png


def test_two_builds_are_the_same_to_the_byte_but_for_the_time(written: Path, tmp_path: Path) -> None:
    write_report(report(), tmp_path / "b")
    write_report(report(made="2030-12-31 23:59 UTC"), tmp_path / "c")
    assert names(written) == names(tmp_path / "b") == names(tmp_path / "c")
    for name in names(written):
        first = (written / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == first
        assert (tmp_path / "c" / name).read_bytes().replace(b"2030-12-31 23:59", b"2026-01-02 03:04") == first
    assert (tmp_path / "c/report.html").read_bytes() != (written / "report.html").read_bytes()


def test_a_later_report_takes_the_place_of_the_earlier_one_and_leaves_other_files(tmp_path: Path) -> None:
    page = write_report(small(0, 1), tmp_path / "r")
    assert page == tmp_path / "r/report.html"
    (tmp_path / "r/tables.pdf").write_text("made by hand")
    (tmp_path / "r/tables/mine.csv").write_text("mine")
    (tmp_path / "r/deep/er").mkdir(parents=True)
    (tmp_path / "r/deep/er/notes").write_text("n")
    assert "tables/wide.csv" in names(tmp_path / "r")
    write_report(small(0), tmp_path / "r")
    found = names(tmp_path / "r")
    assert "tables/wide.csv" not in found
    assert "tables/nasty.csv" in found
    assert (tmp_path / "r/tables.pdf").read_text() == "made by hand"
    assert (tmp_path / "r/tables/mine.csv").read_text() == "mine"
    assert (tmp_path / "r/deep/er/notes").read_text() == "n"
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("list_", [None, "[]", "{", '{"kind": "x", "files": []}', '{"kind": "agevlm report"}'])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, list_: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    if list_ is not None:
        (tmp_path / "files.json").write_text(list_)
    before = names(tmp_path)
    with pytest.raises(DataError, match="no report"):
        write_report(small(0), tmp_path)
    assert names(tmp_path) == before


def test_a_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(DataError, match="no report"):
        write_report(small(0), tmp_path / "f")
    assert (tmp_path / "f").read_text() == "x"


def test_a_file_of_mine_that_a_new_table_would_overwrite(tmp_path: Path) -> None:
    write_report(small(0), tmp_path / "r")
    (tmp_path / "r/tables/wide.csv").write_text("mine")
    with pytest.raises(DataError, match=r"wide\.csv.*move it"):
        write_report(small(0, 1), tmp_path / "r")
    assert (tmp_path / "r/tables/wide.csv").read_text() == "mine"


def test_an_empty_folder_and_the_working_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "e").mkdir()
    monkeypatch.chdir(tmp_path / "e")
    assert write_report(small(0), Path(".")).is_file()


def test_nothing_is_there_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(small(0), tmp_path / "r")
    before = {name: (tmp_path / "r" / name).read_bytes() for name in names(tmp_path / "r")}
    real, count = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        count.append(path)
        if len(count) == 4:
            raise OSError(28, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(small(0, 1), tmp_path / "r")
    count.clear()
    with pytest.raises(OSError, match="No space"):
        write_report(small(0, 1), tmp_path / "new")
    monkeypatch.undo()
    assert {name: (tmp_path / "r" / name).read_bytes() for name in names(tmp_path / "r")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_two_tables_of_one_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'nasty'"):
        write_report(small(0, 0), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    write_report(report(), tmp_path / "a", said.append)
    assert said == []
    monkeypatch.setattr("reports.writing.files.page", lambda made: ("<html>", ["3 pictures left out"]))
    write_report(replace(report(), gallery=None), tmp_path / "b", said.append)
    assert said == ["3 pictures left out"]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file is no folder; choose another --out"):
        check_folder(tmp_path / "file" / "deep" / "er")
    check_folder(tmp_path / "new" / "deep")
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "disk")
    with pytest.raises(DataError, match=r"disk: a mounted disk"):
        check_folder(tmp_path / "disk")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(DataError, match=r"no permission in "):
        check_folder(tmp_path / "new" / "deep")

    def refused(path: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(DataError, match=r"r: cannot be written: Permission denied .*; choose another --out"):
        write_report(small(0), tmp_path / "r")
    assert names(tmp_path) == {"file"}
