"""Answer records on disk: whole commits or nothing, whatever cuts the file."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agevlm.errors import RunFolderError
from benchmarks import append_only
from benchmarks.records import AnswerRecord, AnswerWriter, answer_key, load_answers, read_commits, to_lines
from tests.benchmarks.runs.launch import small_disk

ANY_TEXT = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from("\n\r\u2028\u2029\x85\x00\ud800\udfff\U0001f600"))
)
RECORDS = st.builds(
    AnswerRecord,
    key=ANY_TEXT,
    image=st.none() | ANY_TEXT,
    shown=st.none() | ANY_TEXT,
    prompt=ANY_TEXT,
    text=st.none() | ANY_TEXT,
    stop=st.sampled_from(["eos", "length", "error"]),
    logprobs=st.dictionaries(st.sampled_from(["yes", "no"]), st.floats(allow_nan=False)),
    tokens=st.integers(0, 1000),
    error=st.none() | ANY_TEXT,
)


def made(key, text="Yes", error=None):
    stop = "eos" if error is None else "error"
    return AnswerRecord(key, "a.jpg", "sha", f"prompt {key}\nü\u2028", None if error else text, stop, error=error)


COMMITS = [[made("a"), made("b", "No\n")], [made("c", "\ud83d")], [made("d"), made("e", error="Boom: x"), made("f")]]


def commits_of(path):
    return [commit for commit, _ in read_commits(path)]


@given(st.lists(st.lists(RECORDS, min_size=1, max_size=4), max_size=4))
@settings(max_examples=100, deadline=None)
def test_whatever_text_was_asked_or_answered_comes_back_as_it_was(commits):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers-00000.jsonl"
        writer = AnswerWriter(path)
        for commit in commits:
            writer.commit(commit)
        writer.close()
        assert commits_of(path) == commits
        assert path.read_bytes().isascii()


def test_a_cut_at_any_byte_of_the_last_commit_leaves_the_earlier_ones_and_room_for_the_next(tmp_path):
    whole = "".join(to_lines(c) for c in COMMITS).encode()
    before = len("".join(to_lines(c) for c in COMMITS[:-1]))
    path = tmp_path / "answers-00000.jsonl"
    for cut in range(before, len(whole)):
        path.write_bytes(whole[:cut])
        assert commits_of(path) == COMMITS[:-1], cut
        writer = AnswerWriter(path)
        assert path.read_bytes() == whole[:before]
        writer.commit(COMMITS[-1])
        writer.close()
        assert path.read_bytes() == whole


def test_a_commit_is_not_torn_by_the_end_of_the_file_alone(tmp_path):
    path = tmp_path / "a"
    path.write_text("".join(to_lines(c) for c in COMMITS))
    assert commits_of(path) == COMMITS


@pytest.mark.parametrize(
    ("line", "first", "last"), [(1, 1, 2), (2, 1, 2), (3, 3, 3), (4, 4, 6), (5, 4, 6)], ids=lambda v: str(v)
)
@pytest.mark.parametrize("damage", [b"", b"\x00\x00\x00", b"null", b"[]", b'{"commit": [0, 1]}', b'{"key": "x'])
def test_damage_in_the_middle_names_file_line_and_what_to_remove_and_removing_that_heals(
    tmp_path, line, first, last, damage
):
    path = tmp_path / "answers-00007.jsonl"
    lines = "".join(to_lines(c) for c in COMMITS).encode().splitlines(keepends=True)
    lines[line - 1] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunFolderError, match=rf"answers-00007\.jsonl:{line}: .*Remove lines {first} to {last} "):
        commits_of(path)
    with pytest.raises(RunFolderError, match=f":{line}:"):
        AnswerWriter(path)
    assert path.read_bytes() == b"".join(lines), "a damaged file must not be touched"
    path.write_bytes(b"".join(lines[: first - 1] + lines[last:]))
    assert commits_of(path) == [c for c in COMMITS if c[0].key != COMMITS[(1, 1, 2, 3, 3)[line - 1] - 1][0].key]


def test_a_line_missing_from_a_commit_is_damage(tmp_path):
    path = tmp_path / "a"
    lines = "".join(to_lines(c) for c in COMMITS).splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(RunFolderError, match="Remove lines 1 to 1 "):
        commits_of(path)


def test_an_error_gives_way_to_an_answer_whichever_file_it_is_in(tmp_path):
    for order in ([made("k", error="E: x")], [made("k")]), ([made("k")], [made("k", error="E: x")]):
        paths = []
        for number, commit in enumerate(order):
            paths.append(tmp_path / f"answers-{number:05d}.jsonl")
            paths[-1].write_text(to_lines(commit))
        assert load_answers(paths) == {"k": made("k")}


def test_the_order_of_commits_and_files_never_matters_to_what_is_loaded(tmp_path):
    one, two = tmp_path / "answers-00000.jsonl", tmp_path / "answers-00001.jsonl"
    one.write_text("".join(to_lines(c) for c in COMMITS))
    two.write_text("")
    forward = load_answers([one, two])
    two.write_text("".join(to_lines(c) for c in reversed(COMMITS[:2])))
    one.write_text(to_lines(COMMITS[2]))
    assert load_answers([two, one]) == forward


def test_a_second_process_may_not_write_the_same_file(tmp_path):
    path = tmp_path / "answers-00000.jsonl"
    writer = AnswerWriter(path)
    code = f"from benchmarks.records import AnswerWriter; AnswerWriter(__import__('pathlib').Path({str(path)!r}))"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is writing it" in refused.stderr
    writer.close()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_write_that_stops_halfway_on_a_full_disk_costs_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    path = tmp_path / "answers-00000.jsonl"
    writer = AnswerWriter(path)
    writer.commit(COMMITS[0])
    kept = path.read_bytes()
    plain, room = os.pwrite, [40, 30]

    def full(fd, data, offset):
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(fd, data[: room.pop()], offset)

    with monkeypatch.context() as patch:
        patch.setattr(append_only.os, "pwrite", full)
        with pytest.raises(
            RunFolderError, match=r"answers-00000\.jsonl: the disk is full; all earlier answers are safe"
        ):
            writer.commit(COMMITS[1])
    assert path.read_bytes() == kept
    writer.commit(COMMITS[2])
    writer.close()
    assert commits_of(path) == [COMMITS[0], COMMITS[2]]


def test_after_a_failed_commit_the_next_one_is_whole_even_if_the_cut_failed_too(tmp_path, monkeypatch):
    path = tmp_path / "answers-00000.jsonl"
    writer = AnswerWriter(path)
    writer.commit(COMMITS[0])

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(append_only.os, "fsync", failing)
        patch.setattr(append_only.os, "ftruncate", failing)
        with pytest.raises(RunFolderError, match="Input/output error"):
            writer.commit(COMMITS[2])
    writer.commit(COMMITS[1])
    writer.close()
    AnswerWriter(path).close()
    assert commits_of(path) == [COMMITS[0], COMMITS[1]]


def test_a_really_full_disk_loses_nothing_and_the_writer_goes_on_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        writer = AnswerWriter(disk / "answers-00000.jsonl")
        filler = disk / "filler"
        filler.write_bytes(b"x" * 40_000)
        written = []

        def fill():
            for number in range(100):
                commit = [made(f"{number}-{i}", "Yes" * 100) for i in range(3)]
                writer.commit(commit)
                written.append(commit)

        with pytest.raises(RunFolderError, match="the disk is full"):
            fill()
        assert written
        assert commits_of(writer.path) == written
        filler.unlink()
        writer.commit(COMMITS[0])
        writer.close()
        assert commits_of(writer.path) == [*written, COMMITS[0]]


def test_keys_differ_exactly_if_anything_that_can_change_an_answer_does():
    texts = ("", "a", "b", "\ud800")
    asks = [(i, p, n, f) for i in (None, *texts) for p in texts for n in (1, 2) for f in texts]
    keys = [answer_key(i, p, {"greedy": True, "max_new_tokens": n}, f) for i, p, n, f in asks]
    assert len(set(keys)) == len(asks)
    assert keys == [answer_key(i, p, {"max_new_tokens": n, "greedy": True}, f) for i, p, n, f in asks]
