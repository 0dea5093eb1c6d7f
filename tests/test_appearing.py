"""Whole or not at all, whatever goes wrong in between."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest

from agevlm.appearing import file_appears, folder_appears


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def interrupted(target):
    with folder_appears(target) as hidden:
        (hidden / "file").write_text("half")
        raise KeyboardInterrupt


def interrupted_file(target):
    with file_appears(target) as hidden:
        hidden.write_text("half")
        raise KeyboardInterrupt


def test_a_folder_appears_at_the_end_and_replaces_what_was_there(tmp_path):
    target = tmp_path / "deep" / "made"
    for text in ("one", "two"):
        with folder_appears(target) as hidden:
            (hidden / "sub").mkdir()
            (hidden / "sub" / "file").write_text(text)
            assert not target.exists() or (target / "sub" / "file").read_text() == "one"
        assert (target / "sub" / "file").read_text() == text
        assert names(target.parent) == ["made"]


@pytest.mark.parametrize("before", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, before):
    target = tmp_path / "made"
    if before:
        with folder_appears(target) as hidden:
            (hidden / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(target)
    assert names(tmp_path) == (["made"] if before else [])
    assert not before or (target / "file").read_text() == "old"


def test_too_little_room_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(OSError, match="are needed") as caught, folder_appears(tmp_path / "made", 10**18):
        pytest.fail("entered")
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_a_failed_swap_puts_back_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "made"
    with folder_appears(target) as hidden:
        (hidden / "file").write_text("old")
    rename = type(target).rename

    def fails(self, to):
        if ".unfinished-" in self.name and not self.name.endswith("-replaced"):
            raise OSError(errno.EIO, "broken")
        return rename(self, to)

    monkeypatch.setattr(type(target), "rename", fails)
    with pytest.raises(OSError, match="broken"), folder_appears(target) as hidden:
        (hidden / "file").write_text("new")
    assert names(tmp_path) == ["made"]
    assert (target / "file").read_text() == "old"


def test_a_killed_writer_never_leaves_a_part_under_the_name(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from agevlm.appearing import folder_appears\n"
        "with folder_appears(Path(sys.argv[1])) as hidden:\n"
        "    (hidden / 'file').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "made")], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".made.unfinished-")
    # The next writer clears up, and takes nothing that is not a writer's.
    (tmp_path / ".made.unfinished-by-hand").mkdir()
    with folder_appears(tmp_path / "made") as hidden:
        (hidden / "file").write_text("whole")
    assert names(tmp_path) == [".made.unfinished-by-hand", "made"]


def test_what_another_writer_is_at_is_left_alone(tmp_path):
    with folder_appears(tmp_path / "made") as first:
        (first / "file").write_text("one")
        with folder_appears(tmp_path / "made") as second:
            (second / "file").write_text("two")
        assert (first / "file").read_text() == "one"
    assert (tmp_path / "made" / "file").read_text() == "one"
    assert names(tmp_path) == ["made"]


def test_a_writer_that_is_killed_between_two_renames_loses_nothing(tmp_path):
    target = tmp_path / "made"
    with folder_appears(target) as hidden:
        (hidden / "file").write_text("old")
    code = (
        "import os, pathlib, signal, sys; from agevlm.appearing import folder_appears\n"
        "rename = pathlib.Path.rename\n"
        "def killed(self, to): rename(self, to); os.kill(os.getpid(), signal.SIGKILL)\n"
        "pathlib.Path.rename = killed\n"
        "with folder_appears(pathlib.Path(sys.argv[1])) as hidden:\n"
        "    (hidden / 'file').write_text('new')"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert len(names(tmp_path)) == 2
    assert "made" not in names(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted(target)
    assert names(tmp_path) == ["made"]
    assert (target / "file").read_text() == "old"


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "deep" / "file"
    with pytest.raises(FileNotFoundError), file_appears(target) as hidden:
        hidden.write_text("one")
    target.parent.mkdir()
    with file_appears(target) as hidden:
        hidden.write_text("one")
        assert not target.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted_file(target)
    assert names(target.parent) == ["file"]
    assert target.read_text() == "one"
