"""POPE's part of a report: every number is that of scores.json, and every row says whose it is."""

from __future__ import annotations

import json
import shutil

from reports.document import Figure
from reports.sections.pope import section
from tests.reports.sections.conftest import opened
from tests.reports.sections.reading import digits, ids, rows, scores_of, table, told

HEADS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "yes_ratio": "yes ratio"}
PLACES = {"mean": "mean of splits", "pooled": "all questions pooled"}


def image_rows(folder, protocol="default"):
    found = scores_of(folder)["rows"]
    return [r for r in found if (r["condition"], r["protocol"]) == ("image", protocol)]


def test_every_split_of_every_run_has_the_digits_of_its_scores(scored):
    folders = [scored / "pope", scored / "wordless"]
    runs = opened(*folders)
    shown = rows(table(section(runs), "pope"))
    assert len({run.label for run in runs}) == 2
    assert len(shown) == 2 * 5
    for run, folder in zip(runs, folders, strict=True):
        for row in image_rows(folder):
            (mine,) = [
                r for r in shown if (r["model"], r["split"]) == (run.label, PLACES.get(row["split"], row["split"]))
            ]
            assert {head: mine[head] for head in HEADS.values()} == {h: told(row, s) for s, h in HEADS.items()}
            assert (mine["n"], mine["unparsed"]) == (f"{row['n']:,}", f"{row['unparsed']:,}")
            assert mine["prompt"] == row["prompt"]  # the runs differ in it


def test_what_runs_share_is_a_note_and_no_column(scored):
    found = table(section(opened(scored / "pope")), "pope")
    assert "prompt" not in [column.name for column in found.columns]
    version = image_rows(scored / "pope")[0]["data_version"]
    assert found.notes[0] == f"Data version {version}; prompt `default`; protocol `default`. 12 images."
    assert "100 draws, seed 0" in found.notes[1]


def test_other_questions_stand_in_a_table_of_their_own(scored):
    found = section(opened(scored / "pope", scored / "pope-other"))
    assert len(ids(found)) == len(set(ids(found)))
    assert sum(id.startswith("pope-custom-") for id in ids(found)) == 2
    for name in ids(found):
        if name.startswith("pope-custom-"):
            assert len({row["model"] for row in rows(table(found, name))}) == 1


def test_bounds_of_unreadable_answers(scored):
    shown = {row["split"]: row for row in rows(table(section(opened(scored / "pope")), "pope-unparsed"))}
    for row in image_rows(scored / "pope"):
        if row["split"] == "mean":
            continue
        mine = shown[PLACES.get(row["split"], row["split"])]
        assert row["unparsed"] > 0
        for head, name in (("accuracy", "accuracy"), ("F1", "f1")):
            assert mine[f"{head}, all wrong"] == digits(row[f"{name}_if_unparsed_wrong"])
            assert mine[f"{head}, all right"] == digits(row[f"{name}_if_unparsed_right"])
            assert mine[head] == digits(row[name])


def test_the_same_answers_under_every_protocol(scored):
    found = table(section(opened(scored / "pope", scored / "wordless")), "pope-protocols")
    shown = rows(found)
    runs = opened(scored / "pope", scored / "wordless")
    protocols = scores_of(scored / "pope")["settings"]["protocols"]
    assert len(shown) == 2 * len(protocols)
    for run in runs:
        for protocol in protocols:
            (row,) = [r for r in image_rows(run.folder, protocol) if r["split"] == "mean"]
            (mine,) = [r for r in shown if r["model"] == run.label and r["protocol"].split()[0] == protocol]
            assert (mine["accuracy"], mine["F1"]) == (told(row, "accuracy"), told(row, "f1"))
            assert mine["counted"] == f"{row['counted']:,}"
            # llava's published numbers are made with the default prompt; repope's with the official one.
            if protocol in ("llava", "repope"):
                other = {"llava": "wordless", "repope": "pope"}[protocol]
                assert ("*" in mine["protocol"]) == (run.folder.name == other)
    assert any(note.startswith("* ") for note in found.notes)


def test_the_figure_is_the_same_bytes_each_time(scored):
    runs = opened(scored / "pope", scored / "wordless")
    first, second = ([i for i in section(runs).items if isinstance(i, Figure)] for _ in range(2))
    assert [f.id for f in first] == ["pope-by-split"]
    assert [(f.png, f.svg) for f in first] == [(f.png, f.svg) for f in second]
    assert first[0].png.startswith(b"\x89PNG")
    svg = first[0].svg.decode()
    for text in ("accuracy, %", "F1, %", "split", "always yes", runs[0].label, runs[1].label):
        assert f">{text}<" in svg


def test_a_model_name_that_matplotlib_would_take_for_mathematics(scored, tmp_path):
    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    manifest = json.loads((folder / "run.json").read_text())
    manifest["model"]["ckpt"] = "_$x^$ <script>"
    (folder / "run.json").write_text(json.dumps(manifest))
    (drawn,) = [i for i in section(opened(folder)).items if isinstance(i, Figure)]
    assert "_$x^$ &lt;script&gt;" in drawn.svg.decode()


def test_nothing_without_a_run_of_pope(scored):
    assert section(opened(scored / "cvbench")) is None
    assert section([]) is None


def test_undefined_scores_are_dashes(scored, tmp_path):
    folder = shutil.copytree(scored / "pope", tmp_path / "pope")
    scores = scores_of(folder)
    for row in scores["rows"]:
        row |= {"precision": None, "precision_low": None, "precision_high": None}
    (folder / "scores.json").write_text(json.dumps(scores))
    assert {row["precision"] for row in rows(table(section(opened(folder)), "pope"))} == {"–"}
