"""Loading questions: every published form, every way it can be broken."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from agevlm.errors import DataError
from benchmarks.pope import containers, versions
from benchmarks.pope.questions import load_questions, load_repope, object_name, relabel
from benchmarks.pope.types import SPLITS

POPE = Path(__file__).parents[4] / "shared" / "data" / "pope"
real = pytest.mark.skipif(not POPE.exists(), reason="the shared POPE files are not here")

SUFFIX = "\nAnswer the question using a single word or phrase."


def row(n, label="yes", obj="cat", image="a.jpg", **more):
    return {"question_id": n, "image": image, "text": f"Is there a {obj} in the image?", "label": label} | more


ROWS = [row(1), row(2, "no", "dog"), row(3, "Yes", "bus", "b.jpg"), row(4, "NO", "dining table", "b.jpg")]


def lines(rows):
    return "".join(json.dumps(r) + "\n" for r in rows)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def plain(question_set):
    return [(q.split, q.question_id, q.image, q.text, q.label, q.object_name) for q in question_set.questions]


# forms, on made files


FORMS = {
    "LF": lines(ROWS),
    "CRLF": lines(ROWS).replace("\n", "\r\n"),
    "no final newline": lines(ROWS).rstrip("\n"),
    "blank lines": "\n \n" + lines(ROWS).replace("\n", "\n\n"),
    "byte order mark": b"\xef\xbb\xbf" + lines(ROWS).encode(),
    "pretty array": json.dumps(ROWS, indent=4),
    "tight array": json.dumps(ROWS, separators=(",", ":")),
    "array with CRLF": json.dumps(ROWS, indent=1).replace("\n", "\r\n"),
    "suffix": lines([r | {"text": r["text"] + SUFFIX} for r in ROWS]),
    "suffix after a space": lines([r | {"text": r["text"] + SUFFIX.replace("\n", " ")} for r in ROWS]),
    "ids as text": lines([r | {"question_id": str(r["question_id"])} for r in ROWS]),
}


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_load_alike(tmp_path, form, ending):
    path = write(tmp_path / f"pets_pope_random.{ending}", FORMS[form])
    (found,) = load_questions([path])
    assert found.name == "pets"
    assert found.data_version == f"custom:{found.content_sha256[:12]}"
    assert plain(found) == [
        ("random", "1", "a.jpg", "Is there a cat in the image?", True, "cat"),
        ("random", "2", "a.jpg", "Is there a dog in the image?", False, "dog"),
        ("random", "3", "b.jpg", "Is there a bus in the image?", True, "bus"),
        ("random", "4", "b.jpg", "Is there a dining table in the image?", False, "dining table"),
    ]
    assert [q.cluster for q in found.questions] == ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    reference = load_questions([write(tmp_path / "ref" / "x_random.json", FORMS["LF"])])[0]
    assert found.content_sha256 == reference.content_sha256


def test_line_separators_within_strings_do_not_end_a_row(tmp_path):
    rows = [row(1, obj="cat\u2028or\u0085dog")]
    path = write(tmp_path / "x.json", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in [*rows, row(2)]))
    assert load_questions([path])[0].questions[0].object_name == "cat\u2028or\u0085dog"


@pytest.mark.parametrize("content", [json.dumps(row(1)), json.dumps(row(1), indent=2), json.dumps([row(1)])])
def test_a_single_question(tmp_path, content):
    assert len(load_questions([write(tmp_path / "x.json", content)])[0].questions) == 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Is there an umbrella in the imange?", "umbrella"),
        ("Is there a umbrella in the image?", "umbrella"),
        ("is there a dining table in the image ?", "dining table"),
        ("Do you see a cat?", "Do you see a cat?"),
    ],
)
def test_object_name(text, name):
    assert object_name(text) == name


@pytest.mark.parametrize(
    ("file", "name", "split"),
    [
        ("coco_pope_random.json", "coco", "random"),
        ("aokvqa_pope_seem_popular.json", "aokvqa", "popular"),
        ("coco_repope_adversarial.json", "repope-coco", "adversarial"),
        ("my_own_pope_random.jsonl", "my_own", "random"),
        ("popular.json", "folder", "popular"),
        ("pets-random.json", "pets", "random"),
        ("pets.json", "pets", "pets"),
        ("randomised.json", "randomised", "randomised"),
    ],
)
def test_names_from_file_names(tmp_path, file, name, split):
    (found,) = load_questions([write(tmp_path / "folder" / file, lines(ROWS))])
    assert (found.name, found.questions[0].split) == (name, split)


def test_a_category_tells_the_split_where_the_file_name_does_not(tmp_path):
    rows = [row(1, category="popular"), row(1, category="random")]
    (found,) = load_questions([write(tmp_path / "pets.json", lines(rows))])
    assert [q.split for q in found.questions] == ["random", "popular"]


def test_splits_of_one_family_given_as_files_make_one_set(tmp_path):
    paths = [write(tmp_path / f"pets_pope_{split}.json", lines(ROWS)) for split in reversed(SPLITS)]
    (found,) = load_questions(paths)
    assert list(dict.fromkeys(q.split for q in found.questions)) == list(SPLITS)


def test_folder_passes_over_what_is_no_list_of_rows(tmp_path):
    write(tmp_path / "pets_pope_random.json", lines(ROWS))
    write(tmp_path / "pope.json", json.dumps({"kind": "pope-build", "questions": {"random": 4}}, indent=2))
    write(tmp_path / "coco_ground_truth_objects.json", '{"person": 5}')
    write(tmp_path / "README.md", "hello")
    assert [s.name for s in load_questions([tmp_path])] == ["pets"]
    with pytest.raises(DataError, match=r"pope\.json: one JSON object with the keys 'kind', 'questions'"):
        load_questions([tmp_path / "pope.json"])


def test_splits_filter(tmp_path):
    for split in SPLITS:
        write(tmp_path / f"pets_pope_{split}.json", lines(ROWS))
    (found,) = load_questions([tmp_path], splits=["popular", "random"])
    assert {q.split for q in found.questions} == {"popular", "random"}
    with pytest.raises(DataError, match=r"no split 'populer'; there are pets: random, popular, adversarial"):
        load_questions([tmp_path], splits=["populer"])
    other = write(tmp_path / "other" / "things.json", lines(ROWS))
    with pytest.raises(DataError, match="things has none of the splits random"):
        load_questions([tmp_path, other], splits=["random"])


# broken sources


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"x\.json:1: the file is empty"),
        (" \n\n", r"x\.json:1: the file is empty"),
        ("[]", r"x\.json:1: the file holds no questions"),
        (lines(ROWS[:2]) + '{"question_id": 3, "ima', r"x\.json:3: not JSON"),
        (lines(ROWS[:2]).replace("\n", "\r\n") + "\r\n{,}", r"x\.json:4: not JSON"),
        ('{"question_id": 3, "ima', r"x\.json:1: not JSON"),
        ("{}\n{", r"x\.json:2: not JSON"),
        (json.dumps(ROWS, indent=1)[:-1], r"x\.json:26: not JSON"),
        (json.dumps(ROWS, indent=1).replace('"a.jpg"', "a.jpg", 1), r"x\.json:4: not JSON"),
        (json.dumps(ROWS, indent=1) + "\n]", r"x\.json:27: not JSON: Extra data"),
        ("[{},]", r"x\.json:1: not JSON"),
        ("[{}", r"x\.json:1: not JSON"),
        ("[", r"x\.json:1: not JSON"),
        ("[\n3]", r"x\.json:2: a question is a JSON object, not int"),
        ('"text"', r"x\.json:1: a question is a JSON object, not str"),
        (lines(ROWS).encode() + b"\xff\n", r"x\.json:5: not UTF-8"),
        (lines([row(1), {"question_id": 2, "image": "a", "text": "b"}]), r"x\.json:2: no field 'label'"),
        (json.dumps([row(1), {"question_id": 2}], indent=1), r"x\.json:8: no field 'image'"),
        (lines([row(1), row(2, "maybe")]), r"x\.json:2: label must be yes or no, not 'maybe'"),
        (lines([row(1), row(2, True)]), r"x\.json:2: label must be yes or no, not True"),
        (lines([row(1), row(2), row(1)]), r"x\.json:3: id 1 appears twice in split x \(first at .*x\.json:1\)"),
        (lines([row(None), row(2)]), r"x\.json:1: question_id must be an integer or a text, not None"),
        (lines([row(1, image="")]), r"x\.json:1: image must be a text that is not empty"),
        (lines([row(1) | {"text": SUFFIX}]), r"x\.json:1: text holds the prompt suffix alone"),
        (lines([{"question_id": 1, "prompt": "?", "text": "No", "answer_id": "a"}]), "looks like a file of answers"),
        (lines([{"a": 1}, {"b": 2}]), r"x\.json:1: no field"),
    ],
)
def test_errors_name_file_and_line(tmp_path, content, message):
    path = write(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=message) as caught:
        load_questions([path])
    assert str(path) in str(caught.value)
    if "one JSON object" not in str(caught.value):
        with pytest.raises(DataError, match=message):
            load_questions([tmp_path])


@pytest.mark.parametrize("source", ["nothing.json", "no/such/place", "nothing", "org/x.jsonl", Path("org/name")])
def test_missing_sources(source, monkeypatch):
    monkeypatch.setattr(containers, "hub_rows", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="no such file"):
        load_questions([source])


def test_no_source_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no question source"):
        load_questions([])
    with pytest.raises(DataError, match="no question files"):
        load_questions([tmp_path])


def test_two_files_for_one_split(tmp_path):
    write(tmp_path / "pets_pope_random.json", lines(ROWS))
    write(tmp_path / "pets_pope_random.jsonl", lines(ROWS))
    with pytest.raises(DataError, match=r"random\.jsonl: split random of pets is also in .*random\.json; give one"):
        load_questions([tmp_path])


# LLaVA's question file


def asked(rows, category="random", shift=100):
    return [
        {"question_id": r["question_id"] + shift, "image": r["image"], "text": r["text"] + SUFFIX, "category": category}
        for r in rows
    ]


@pytest.mark.parametrize("labels", [".", "coco"])
def test_asked_questions_take_their_labels_from_beside(tmp_path, labels):
    write(tmp_path / labels / "coco_pope_random.json", lines(ROWS))
    write(tmp_path / labels / "coco_pope_popular.json", lines(ROWS))
    write(tmp_path / "gqa_pope_random.json", lines(ROWS))
    write(tmp_path / "llava_pope_test.jsonl", lines(asked(ROWS) + asked(ROWS, "popular", 200)))
    found = {s.name: s for s in load_questions([tmp_path])}
    assert found.keys() == {"coco", "gqa"}
    assert [(q.split, q.question_id, q.label) for q in found["coco"].questions] == [
        *[("random", str(100 + n), n % 2 == 1) for n in (1, 2, 3, 4)],
        *[("popular", str(200 + n), n % 2 == 1) for n in (1, 2, 3, 4)],
    ]
    assert found["coco"].questions[0].where.endswith("llava_pope_test.jsonl:1")


def test_asked_questions_without_labels(tmp_path):
    path = write(tmp_path / "llava_pope_test.jsonl", lines(asked(ROWS)))
    with pytest.raises(DataError, match=r"give the folder that holds this file together with coco_pope_random\.json"):
        load_questions([path])
    with pytest.raises(DataError, match=r"no coco_pope_\*\.json beside them"):
        load_questions([tmp_path])
    write(tmp_path / "coco_pope_random.json", lines(ROWS[:3]))
    with pytest.raises(DataError, match=r"test\.jsonl:4: question_id 104 .* has no label in split random"):
        load_questions([tmp_path])


def test_asked_questions_with_contradicting_or_repeated_rows(tmp_path):
    write(tmp_path / "llava_pope_test.jsonl", lines(asked(ROWS)))
    labels = write(tmp_path / "coco_pope_random.json", lines([*ROWS, row(9, "no")]))
    with pytest.raises(DataError, match=r"random\.json:5: the same question has the other label at .*random\.json:1"):
        load_questions([tmp_path])
    write(labels, lines(ROWS))
    write(tmp_path / "llava_pope_test.jsonl", lines(asked(ROWS) + asked(ROWS[:1])))
    with pytest.raises(DataError, match="id 101 appears twice"):
        load_questions([tmp_path])


# POPEv2


def pair(n, labels=("No", "Yes"), target="remote"):
    folders = ("/images", "/coco/train2017")
    return [
        {
            "image_id": n,
            "image_name": f"{folder}/{n:04}.jpg",
            "target_object": target,
            "query": f"Is there a {target} in the image?",
            "label": label,
        }
        for folder, label in zip(folders, labels, strict=True)
    ]


def test_popev2(tmp_path):
    (found,) = load_questions([write(tmp_path / "annotations.json", json.dumps(pair(5) + pair(6), indent=4))])
    assert found.name == "popev2"
    assert plain(found)[:2] == [
        ("popev2", "5/remote/images", "images/0005.jpg", "Is there a remote in the image?", False, "remote"),
        ("popev2", "5/remote/train2017", "coco/train2017/0005.jpg", "Is there a remote in the image?", True, "remote"),
    ]
    assert [q.cluster for q in found.questions] == ["5/remote", "5/remote", "6/remote", "6/remote"]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [(pair(5) + pair(6, ("Yes", "Yes")), "yes, yes"), (pair(5) + pair(6)[:1], "no")],
)
def test_popev2_pairs_must_be_whole(tmp_path, rows, labels):
    path = write(tmp_path / "annotations.json", lines(rows))
    with pytest.raises(DataError, match=rf"json:{len(rows)}: pair 6/remote has the labels {labels}; "):
        load_questions([path])


# RePOPE


def test_relabel_keeps_what_repope_kept(tmp_path):
    for split in ("random", "popular"):
        write(tmp_path / "official" / f"coco_pope_{split}.json", lines(ROWS))
    (official,) = load_questions([tmp_path / "official"])
    path = write(tmp_path / "re" / "coco_repope_random.json", lines([ROWS[3] | {"label": "yes"}, ROWS[0]]))
    for source in (path, path.parent):
        found = relabel(official, source)
        assert [(q.split, q.question_id, q.label) for q in found.questions] == [
            ("random", "1", True),
            ("random", "4", True),
        ]
        assert found.name == "repope-coco"
        assert found.content_sha256 == load_questions([path])[0].content_sha256
    assert load_repope(path)["random", "4"].label is True


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question_id": 77}, r"random\.json:1: id 77 is not in split random of coco"),
        ({"image": "z.jpg"}, r"random\.json:1: id 1 is .* on z\.jpg, but .* on a\.jpg at .*coco_pope_random\.json:1"),
        ({"text": "Is there a bat in the image?"}, "the image\\?' on a.jpg, but 'Is there a cat"),
    ],
)
def test_relabel_refuses_other_questions(tmp_path, changed, message):
    (official,) = load_questions([write(tmp_path / "coco_pope_random.json", lines(ROWS))])
    path = write(tmp_path / "coco_repope_random.json", lines([ROWS[0] | changed, ROWS[1]]))
    with pytest.raises(DataError, match=message):
        relabel(official, path)


def test_repope_sources_that_cannot_serve(tmp_path):
    (official,) = load_questions([write(tmp_path / "coco_pope_random.json", lines(ROWS))])
    with pytest.raises(DataError, match="no RePOPE file here"):
        load_repope(tmp_path)
    with pytest.raises(DataError, match="none of the splits of coco"):
        relabel(official, write(tmp_path / "re" / "coco_repope_popular.json", lines(ROWS)))
    with pytest.raises(DataError, match="file name must end in"):
        load_repope(write(tmp_path / "labels.json", lines(ROWS)))


# parquet and the hub


def png(colour):
    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(data, "PNG")
    return data.getvalue()


PICTURES = {"a.jpg": png("red"), "b.jpg": png("blue")}


def hub_row(n, category, r):
    image = {"bytes": PICTURES[r["image"]], "path": r["image"]}
    source = r["image"].removesuffix(".jpg")
    return {
        "id": str(n), "question_id": str(r["question_id"]), "question": r["text"], "answer": r["label"].lower(),
        "image_source": source, "image": image, "category": category,
    }  # fmt: skip


HUB_ROWS = [hub_row(n, s, r) for n, (s, r) in enumerate((s, r) for s in reversed(SPLITS) for r in ROWS)]


def table(path, rows, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


@pytest.fixture
def reference(tmp_path):
    for split in SPLITS:
        write(tmp_path / "json" / f"POPE_pope_{split}.json", lines(ROWS))
    return load_questions([tmp_path / "json"])[0]


def test_parquet_gives_the_same_data_as_json(tmp_path, reference):
    first = table(tmp_path / "POPE" / "data" / "test-00000-of-00002.parquet", HUB_ROWS[:7], row_group_size=3)
    second = table(tmp_path / "POPE" / "data" / "test-00001-of-00002.parquet", HUB_ROWS[7:], row_group_size=3)
    table(tmp_path / "POPE" / "Full" / "random-00000-of-00001.parquet", HUB_ROWS[8:])
    write(tmp_path / "POPE" / "dataset_infos.json", "{}")
    for sources in ([tmp_path / "POPE"], [tmp_path / "POPE" / "data"], [first, second]):
        (found,) = load_questions(sources)
        assert plain(found) == plain(reference)
        assert found.content_sha256 == reference.content_sha256
        assert dict(found.image_bytes) == PICTURES
    assert found.name == "test"
    assert load_questions([tmp_path / "POPE"])[0].name == "POPE"


def test_a_parquet_file_per_split(tmp_path, reference):
    for split in SPLITS:
        rows = [r for r in HUB_ROWS if r["category"] == split]
        table(tmp_path / "hub" / "Full" / f"{split}-00000-of-00001.parquet", rows)
    full = tmp_path / "hub" / "Full"
    for sources in ([tmp_path / "hub"], [full], list(full.iterdir())):
        (found,) = load_questions(sources)
        assert found.name in ("hub", "Full")
        assert plain(found) == plain(reference)
        assert dict(found.image_bytes) == PICTURES


def test_tables_below_question_files_are_not_questions(tmp_path, reference):
    table(tmp_path / "json" / "runs" / "probes" / "p.parquet", [{"layer": 3}])
    assert load_questions([tmp_path / "json"]) == (reference,)


def test_parquet_images_are_read_when_asked_for_and_row_groups_once(tmp_path, monkeypatch):
    path = table(tmp_path / "test.parquet", HUB_ROWS, row_group_size=2)
    read = []
    original = containers.ParquetImages._read
    monkeypatch.setattr(
        containers.ParquetImages, "_read", lambda self, p, group: (read.append(group), original(self, p, group))
    )
    images = load_questions([path])[0].image_bytes
    assert (list(images), len(images), read) == (["a.jpg", "b.jpg"], 2, [])
    assert images["b.jpg"] == PICTURES["b.jpg"]
    assert read == [1]
    assert [images[name] for name in ("b.jpg", "a.jpg", "b.jpg")] == [PICTURES[n] for n in ("b.jpg", "a.jpg", "b.jpg")]
    assert read == [1, 0]
    with pytest.raises(KeyError):
        images["c.jpg"]


def test_parquet_images_of_a_long_row_group(tmp_path):
    rows = [HUB_ROWS[0] | {"question_id": str(n), "image_source": f"{n}"} for n in range(100)]
    rows = [r | {"image": {"bytes": b"picture %d" % n, "path": None}} for n, r in enumerate(rows)]
    images = load_questions([table(tmp_path / "t.parquet", rows, row_group_size=70)])[0].image_bytes
    assert dict(images) == {f"{n}.jpg": b"picture %d" % n for n in range(100)}


def test_parquet_without_images(tmp_path, reference):
    path = table(tmp_path / "t.parquet", [{k: v for k, v in r.items() if k != "image"} for r in HUB_ROWS])
    (found,) = load_questions([path])
    assert found.image_bytes is None
    assert plain(found) == plain(reference)


def test_broken_parquet(tmp_path):
    with pytest.raises(DataError, match=r"x\.parquet: not a sound parquet file"):
        load_questions([write(tmp_path / "x.parquet", b"PAR1 and no more")])
    with pytest.raises(DataError, match=r"no such file"):
        load_questions([tmp_path / "y.parquet"])
    path = table(tmp_path / "z.parquet", [HUB_ROWS[0], HUB_ROWS[1] | {"answer": "perhaps"}])
    with pytest.raises(DataError, match=r"z\.parquet: row 1: answer must be yes or no"):
        load_questions([path])
    path = table(tmp_path / "e.parquet", [HUB_ROWS[0] | {"image": {"bytes": None, "path": "gone.jpg"}}, HUB_ROWS[2]])
    with pytest.raises(DataError, match=r"no encoded bytes for image a\.jpg"):
        load_questions([path])[0].image_bytes["a.jpg"]


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows lmms-lab-encoder/POPE alone; gives the list of names it was asked for."""
    import datasets

    known = datasets.Dataset.from_list(HUB_ROWS).cast_column("image", datasets.Image())
    calls = []

    def load_dataset(name, split):
        calls.append((name, split))
        if name == "lmms-lab-encoder/POPE":
            return known
        if name == "lmms-lab/POPE":
            raise datasets.exceptions.DatasetNotFoundError("gone")
        raise ConnectionError("the cable is out")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_hub_gives_the_same_data_as_json(hub, reference):
    (found,) = load_questions(["lmms-lab/POPE"])
    assert hub == [("lmms-lab/POPE", "test"), ("lmms-lab-encoder/POPE", "test")]
    assert found.name == "POPE"
    assert plain(found) == plain(reference)
    assert found.content_sha256 == reference.content_sha256
    assert dict(found.image_bytes) == PICTURES
    assert found.questions[0].where == "lmms-lab-encoder/POPE: row 8"


def test_hub_out_of_reach(hub):
    with pytest.raises(DataError, match=r"other/POPE: cannot be loaded .*ConnectionError: the cable is out; .* local"):
        load_questions(["other/POPE"])
    assert hub == [("other/POPE", "test")]


# the real files


@real
def test_official():
    sets = {s.name: s for s in load_questions([POPE / "official"])}
    assert {name: s.data_version for name, s in sets.items()} == {
        name: f"pope-{name}@3df3ba1" for name in ("aokvqa", "coco", "gqa")
    }
    for found in sets.values():
        assert Counter((q.split, q.label) for q in found.questions) == {
            (split, label): 1500 for split in SPLITS for label in (True, False)
        }
        assert len({q.cluster for q in found.questions}) == 500
        assert not any(q.object_name == q.text for q in found.questions)
    assert len({(q.image, q.text) for q in sets["coco"].questions}) == 5127
    assert sets["coco"].questions[0].where.endswith("coco_pope_random.json:1")


@real
@pytest.mark.parametrize(("name", "ids"), [("aokvqa", ["1952", "1954"]), ("gqa", ["2564", "2566"])])
def test_the_question_that_is_there_twice_has_one_label(name, ids):
    (found,) = load_questions([POPE / "official" / f"{name}_pope_seem_adversarial.json"])
    counts = Counter((q.image, q.text, q.label) for q in found.questions)
    ((key, number),) = [(key, number) for key, number in counts.items() if number > 1]
    assert number == 2
    assert len({(q.image, q.text) for q in found.questions}) == 2999
    assert [q.question_id for q in found.questions if (q.image, q.text, q.label) == key] == ids


@real
def test_llava_variant():
    (found,) = load_questions([POPE / "llava_variant"])
    assert (found.name, found.data_version) == ("coco", "pope-coco@e3e3926")
    counts = Counter((q.split, q.label) for q in found.questions)
    assert (counts["random", True], counts["random", False]) == (1500, 1410)
    assert sum("imange" in q.text for q in found.questions) == 144 + 44 + 58
    assert not any(q.object_name == q.text or "Answer" in q.text for q in found.questions)
    answers = POPE / "answers" / "llava-1.5-13b" / "llava_pope_test_answers.jsonl"
    answered = [str(json.loads(line)["question_id"]) for line in answers.read_text().splitlines()]
    assert len(found.questions) == len(answered) == 8910
    assert {q.question_id for q in found.questions} == set(answered)
    (alone,) = load_questions([POPE / "llava_variant" / "coco_pope_random.json"])
    assert alone.data_version == "pope-coco@e3e3926"
    assert alone.questions[0].question_id == "1"
    with pytest.raises(DataError, match="give the folder"):
        load_questions([POPE / "llava_variant" / "llava_pope_test.jsonl"])


@real
def test_mixed_releases_are_custom_and_cannot_label_each_other(tmp_path):
    sources = [POPE / "official" / "coco_pope_random.json", POPE / "llava_variant" / "coco_pope_popular.json"]
    assert load_questions(sources)[0].data_version.startswith("custom:")
    for file in [*(POPE / "official").glob("coco_pope_*"), POPE / "llava_variant" / "llava_pope_test.jsonl"]:
        shutil.copy(file, tmp_path)
    with pytest.raises(DataError, match=r"question_id \d+ \(.*imange.*the label files must be of the same release"):
        load_questions([tmp_path])


@real
def test_annotated_objects_agree_with_every_official_label():
    rows = map(json.loads, (POPE / "objects_500.jsonl").read_text().splitlines())
    objects = {r["image"]: r["objects"] for r in rows}
    (found,) = load_questions(sorted((POPE / "official").glob("coco_*")))
    assert [q for q in found.questions if (q.object_name in objects[q.image]) != q.label] == []


@real
def test_repope():
    path = POPE / "repope" / "coco_repope_random.json"
    (official,) = load_questions(sorted((POPE / "official").glob("coco_*")))
    found = relabel(official, path)
    assert (found.name, found.data_version, len(found.questions)) == ("repope-coco", "repope-coco@bcf22e5", 2774)
    assert load_questions([POPE / "repope"])[0].data_version == "repope-coco@bcf22e5"
    labels = {(q.split, q.question_id): q.label for q in official.questions}
    assert sum(labels[q.split, q.question_id] != q.label for q in found.questions) == 144
    (variant,) = load_questions([POPE / "llava_variant"])
    with pytest.raises(DataError, match="RePOPE goes with the official release"):
        relabel(variant, path)


@real
def test_popev2_real():
    (found,) = load_questions([POPE / "popev2"])
    assert (found.name, found.data_version) == ("popev2", "popev2@08d957b")
    assert set(Counter(q.cluster for q in found.questions).values()) == {2}
    assert len(found.questions) == 1000
    assert not any(q.image.startswith("/") for q in found.questions)


@real
def test_known_hashes():
    paths = ["official", "llava_variant", "popev2"]
    for found in (s for path in paths for s in load_questions([POPE / path])):
        assert versions.split_hashes(found.questions) == versions.KNOWN[found.data_version]
    (repope,) = load_questions([POPE / "repope"])
    known = versions.KNOWN["repope-coco@bcf22e5"]
    assert known.keys() == set(SPLITS)
    assert versions.split_hashes(repope.questions) == {"random": known["random"]}


@real
def test_known_content_in_another_container_is_known(tmp_path):
    (official,) = load_questions(sorted((POPE / "official").glob("coco_*")))
    rows = [
        {
            "question_id": q.question_id,
            "question": q.text,
            "answer": "yes" if q.label else "no",
            "image_source": q.image.removesuffix(".jpg"),
            "category": q.split,
        }
        for q in official.questions
    ]
    (found,) = load_questions([table(tmp_path / "test.parquet", rows)])
    assert (found.name, found.data_version) == ("coco", "pope-coco@3df3ba1")
    rows[0]["answer"] = "no" if rows[0]["answer"] == "yes" else "yes"
    (found,) = load_questions([table(tmp_path / "test.parquet", rows)])
    assert found.name == "test"
    assert found.data_version == f"custom:{found.content_sha256[:12]}"
    (part,) = load_questions([table(tmp_path / "test.parquet", rows)], splits=["popular"])
    assert part.data_version == "pope-coco@3df3ba1"
