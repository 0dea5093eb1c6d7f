from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agevlm.errors import DataError
from agevlm.scenes.language import Facts
from agevlm.scenes.questions import cv_scenes, to_jsonl
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import CANONICAL, WORLD_VERSION, render
from benchmarks.cvbench.questions import FULL, Question, load_all, load_questions, part_of_whole
from benchmarks.cvbench.readings import read


def fields(idx: int = 0, kind: str = "2D", **changes: Any) -> dict[str, Any]:
    options = ["left", "right"]
    row: dict[str, Any] = {
        "idx": idx,
        "type": kind,
        "task": "Relation" if kind == "2D" else "Depth",
        "source": "ADE20K" if kind == "2D" else "Omni3D",
        "prompt": f"Where is it ({idx})? Select from the following choices.\n(A) left\n(B) right",
        "choices": options,
        "answer": "(B)",
        "filename": f"img/{kind}/{idx}.png",
    }
    return {**row, **changes}


ROWS = [fields(0), fields(1, "3D", answer="(A)"), fields(2, source="COCO")]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictured = [{**row, "image": {"bytes": f"png of {row['filename']}".encode(), "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(pictured), path)
    return path


def test_json_lines_keep_every_field(tmp_path: Path) -> None:
    found = load_questions(jsonl(tmp_path / "test.jsonl", ROWS))
    assert found.questions[1] == Question(
        idx="1",
        source="Omni3D",
        type="3D",
        task="Depth",
        image="img/3D/1.png",
        cluster="img/3D/1.png",
        prompt=ROWS[1]["prompt"],
        options=("left", "right"),
        gold=0,
        where=f"{tmp_path / 'test.jsonl'}:2",
    )
    assert [q.gold for q in found.questions] == [1, 0, 1]
    assert found.image_bytes is None


def test_parquet_has_the_images_too(tmp_path: Path) -> None:
    plain = load_questions(jsonl(tmp_path / "test.jsonl", ROWS))
    parquet(tmp_path / "test_2d.parquet", [ROWS[0], ROWS[2]])
    parquet(tmp_path / "test_3d.parquet", [ROWS[1]])
    # in a folder that has both, the rows are not taken twice
    found = load_questions(tmp_path)
    assert found.content_sha256 == plain.content_sha256
    assert found.data_version == plain.data_version == f"custom@{plain.content_sha256[:12]}"
    assert found.image_bytes is not None
    assert found.image_bytes["img/3D/1.png"] == b"png of img/3D/1.png"
    assert set(found.image_bytes) == {q.image for q in found.questions}


def test_questions_made_from_one_photo_are_one_cluster(tmp_path: Path) -> None:
    rows = [fields(i, "3D", source_dataset="Omni3D SUNRGBD", source_filename="7.jpg") for i in range(2)]
    found = load_questions(
        jsonl(tmp_path / "a.jsonl", [*rows, fields(2, "3D", source_dataset="x", source_filename="")])
    )
    assert [q.cluster for q in found.questions] == ["Omni3D SUNRGBD/7.jpg", "Omni3D SUNRGBD/7.jpg", "img/3D/2.png"]
    assert len({q.image for q in found.questions}) == 3


def whole() -> list[dict[str, Any]]:
    kinds = [kind for kind, count in FULL.items() for _ in range(count)]
    return [fields(idx, kind) for idx, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kept", "version"),
    [
        (lambda row: True, "cv-bench"),
        (lambda row: row["type"] == "2D", "cv-bench 2D"),
        (lambda row: row["type"] == "3D", "cv-bench 3D"),
        (lambda row: row["idx"] > 0, "custom"),
    ],
)
def test_the_whole_and_its_halves_are_known_by_their_counts(
    tmp_path: Path, kept: Callable[[dict[str, Any]], bool], version: str
) -> None:
    rows = [row for row in whole() if kept(row)]
    found = load_questions(jsonl(tmp_path / "test.jsonl", rows))
    assert found.data_version == f"{version}@{found.content_sha256[:12]}"
    assert len(found.questions) == len(rows)


def test_a_hub_cv_bench_must_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = whole()
    asked = []

    def load_dataset(name: str, split: str) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_questions("nyu-visionx/CV-Bench").data_version.startswith("cv-bench@")
    assert asked == [("nyu-visionx/CV-Bench", "test")]
    rows.pop()
    with pytest.raises(DataError, match=r"CV-Bench: 1,438 .* 2D and 1,199 .* 3D, but CV-Bench has 1,438 and 1,200"):
        load_questions("nyu-visionx/CV-Bench")
    assert load_questions("someone/part").data_version.startswith("custom@")


BAD = [
    ({"choices": []}, r"choices \[\]; a question needs a list of 2 to 26 texts"),
    ({"choices": ["left", ""]}, r"choice '' is no text"),
    ({"choices": None}, r"choices None"),
    ({"answer": "(C)"}, r"answer '\(C\)' is none of its 2 choices; give \(A\) to \(B\)"),
    ({"answer": "right"}, r"answer 'right' is none of its 2 choices"),
    ({"type": "4D"}, r"type '4D'; CV-Bench has 2D and 3D"),
    ({"idx": 0}, r"idx 0 is also that of .*test.jsonl:1"),
    ({"idx": True}, r"idx True is neither"),
    ({"idx": 1.0}, r"idx 1\.0 is neither a whole number nor a text"),
    ({"source": "Omni3D"}, r"type 2D from source Omni3D, whose questions are 3D"),
    ({"filename": " "}, r"filename ' ' is no text"),
    ({"prompt": None}, r"prompt None is no text"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_rows_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = jsonl(tmp_path / "test.jsonl", [fields(0), {**fields(1), **changes}])
    with pytest.raises(DataError, match=rf"test\.jsonl:2: {message}"):
        load_questions(path)


def test_missing_fields_and_files_are_named(tmp_path: Path) -> None:
    row = fields()
    del row["source"]
    with pytest.raises(DataError, match=r"a\.jsonl:1: no field 'source' \(the row has idx, type"):
        load_questions(jsonl(tmp_path / "a.jsonl", [row]))
    with pytest.raises(DataError, match="no such file; give a question file"):
        load_questions(tmp_path / "b.jsonl")
    # a file's ending makes it no hub data set, whatever it looks like
    for name in ("data/test_2d.parquet", "data/test_2d.jsonl"):
        with pytest.raises(DataError, match=rf"{name}: no such file"):
            load_questions(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no parquet or JSON file here"):
        load_questions(tmp_path / "empty")


def test_cv_scenes_are_questions_of_this_form(tmp_path: Path) -> None:
    facts = [Facts.of(render(seed, CANONICAL)) for seed in split_seeds("test", 8)]
    asked = list(cv_scenes(facts))
    path = tmp_path / "cv-scenes.jsonl"
    path.write_text(to_jsonl(asked, [f"{i}.png" for i in range(len(facts))]))
    found = load_questions(path)
    assert [q.options[q.gold] for q in found.questions] == [one.asked.answer for one in asked]
    assert {q.type for q in found.questions} <= set(FULL)
    for question in found.questions:
        for place, option in enumerate(question.options):
            assert read("rules", f"It is {option}.", question.options).option == place


def test_real_questions(shared: Path) -> None:
    found = load_questions(shared / "cvbench" / "questions_sample.jsonl")
    assert Counter((q.source, q.task) for q in found.questions) == {
        ("ADE20K", "Count"): 30,
        ("COCO", "Count"): 17,
        ("ADE20K", "Relation"): 3,
        ("Omni3D", "Depth"): 8,
        ("Omni3D", "Distance"): 6,
    }
    assert found.data_version.startswith("custom@")
    for question in found.questions:
        assert f"({'ABCDEF'[question.gold]}) {question.options[question.gold]}" in question.prompt


# --- CV-Scenes, several sources, parts --------------------------------------------------------------------------------


def test_cv_scenes_by_selector_are_the_scenes_that_anyone_renders() -> None:
    found = load_questions("scenes:12")
    seeds = split_seeds("test", 12)
    facts = [Facts.of(render(seed, CANONICAL)) for seed in seeds]
    asked = list(cv_scenes(facts))
    assert found.name == "CV-Scenes"
    assert [(q.prompt, q.options[q.gold]) for q in found.questions] == [
        (one.asked.lettered().question.text, one.asked.answer) for one in asked
    ]
    assert found.image_bytes is not None
    for seed, encoded in zip(seeds, found.image_bytes.values(), strict=True):
        with Image.open(io.BytesIO(encoded)) as picture:
            assert np.array_equal(np.asarray(picture), render(seed).image)
    assert found.data_version.startswith("custom@")
    larger = load_questions("scenes:12@128")
    assert larger.content_sha256 == found.content_sha256
    with pytest.raises(DataError, match="2 to 100,000 images of 96 to 4096 pixels"):
        load_questions("scenes:1")


def test_cv_scenes_as_a_whole_have_a_version() -> None:
    found = load_questions("scenes")
    assert found.data_version == f"cv-scenes@{WORLD_VERSION}"
    assert Counter(q.task for q in found.questions) == {
        "Count": 500,
        "Color": 447,
        "Relation": 303,
        "Depth": 152,
        "Distance": 119,
    }
    assert len({q.image for q in found.questions}) == len(found.image_bytes or ()) == 500
    assert part_of_whole(found) is None


def test_several_sources_are_one_set(tmp_path: Path) -> None:
    plain = load_questions(jsonl(tmp_path / "test.jsonl", ROWS))
    halves = [str(jsonl(tmp_path / f"{i}.jsonl", [row])) for i, row in enumerate(ROWS)]
    assert load_all(halves).questions[1].where.endswith("1.jsonl:1")
    assert load_all(halves).content_sha256 == plain.content_sha256
    with pytest.raises(DataError, match=r"0\.jsonl:1: idx 0 is also that of .*0\.jsonl:1"):
        load_all([halves[0], halves[0]])
    files = [str(parquet(tmp_path / f"{i}.parquet", [row])) for i, row in enumerate(ROWS)]
    together = load_all(files)
    assert together.image_bytes is not None
    assert {name: together.image_bytes[name] for name in together.image_bytes} == {
        row["filename"]: f"png of {row['filename']}".encode() for row in ROWS
    }
    with pytest.raises(DataError, match="some hold their images and some do not"):
        load_all([files[0], halves[1]])


def test_parts_say_so(tmp_path: Path) -> None:
    found = load_questions(jsonl(tmp_path / "test.jsonl", whole()))
    assert part_of_whole(found) is None
    depth = found.of_tasks(["Depth"])
    assert len(depth.questions) == FULL["3D"]
    assert depth.data_version == f"{found.data_version} task Depth"
    assert found.of_tasks([]) is found
    few, more = found.limited(5, 0), found.limited(9, 0)
    assert len(few.questions) == 5
    assert set(few.questions) < set(more.questions)
    assert few.data_version == f"{found.data_version} limit 5 seed 0"
    assert found.limited(5, 1).questions != few.questions
    assert found.limited(10_000, 0) is found
    some = load_questions(jsonl(tmp_path / "some.jsonl", whole()[:1500]))
    assert part_of_whole(some) == (
        "a part of CV-Bench: 1,438 of type 2D and 62 of type 3D; the whole benchmark has 1,438 of type 2D and 1,200 of "
        "type 3D"
    )
    more = load_questions(jsonl(tmp_path / "more.jsonl", [*whole(), fields(9999)]))
    assert (part_of_whole(more) or "").startswith("not CV-Bench as published: 1,439 of type 2D and 1,200 of type 3D;")
    assert part_of_whole(load_questions(jsonl(tmp_path / "other.jsonl", [fields(source="mine")]))) is None
