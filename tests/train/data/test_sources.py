"""LLaVA's files: what is read from them, and what is said of those that cannot be used."""

from __future__ import annotations

import hashlib
import json
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from agevlm.errors import DataError
from train.data.samples import BadSample
from train.data.sources import open_source
from train.spec import SourceSpec

WIDTH, HEIGHT = 12, 8
QUESTION, ANSWER = "<image>\nIs the red cup here?", "Yes, a cup and a dog."


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def record(**changes: Any) -> dict[str, Any]:
    made = {"id": "a1", "image": "a.png", "conversations": turns(QUESTION, ANSWER), **changes}
    return {k: v for k, v in made.items() if v is not ...}


def phrase(segmentation: Any, message: int = 0, words: str = "red cup") -> dict[str, Any]:
    start = (QUESTION, ANSWER)[message].index(words)
    return {"message": message, "start": start, "end": start + len(words), "segmentation": segmentation}


@pytest.fixture
def opened(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(images / "a.png")

    def make(*records: Any, name: str = "data.jsonl", raw: str | None = None) -> Any:
        lines = "".join(json.dumps(r) + "\n" for r in records)
        text = raw if raw is not None else json.dumps(records) if name.endswith(".json") else lines
        (tmp_path / name).write_text(text)
        return open_source(SourceSpec("llava", 1.0, {"path": str(tmp_path / name), "images": str(images)}))

    return make


@pytest.fixture
def region():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[1:4, 2:9] = True
    mask[3, 2] = False
    return mask


def rle(mask):
    made = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(made["size"]), "counts": made["counts"].decode()}


def plain_rle(mask):
    flat, counts, value = mask.ravel(order="F"), [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_conversations_images_and_phrases(opened, region, name):
    source = opened(record(phrases=[phrase(rle(region))]), record(id=7, image=...), record(phrases=[]), name=name)
    assert (len(source), list(source.guided), source.name) == (3, [0], "data")
    with pytest.raises(DataError, match=r"id 7.*no image"):
        source.read(1, 0)  # its text still shows one
    sample = source.read(0, 5)
    assert [(m.role, m.text) for m in sample.messages] == [("user", "Is the red cup here?"), ("assistant", ANSWER)]
    assert sample.image.size == (WIDTH, HEIGHT)
    (found,) = sample.phrases
    assert sample.messages[found.message].text[found.start : found.end] == "red cup"
    assert np.array_equal(found.mask, region)


@pytest.mark.parametrize(
    ("value", "text", "words"),
    [
        ("<image>\nA cup.", "A cup.", "cup"),
        ("A cup.\n<image>", "A cup.", "cup"),
        ("<image> A cup.", " A cup.", "cup"),
        ("Look: <image>\na cup.", "Look: a cup.", "cup"),
        ("A cup <image> or so", "A cup  or so", "or so"),
    ],
)
def test_the_image_mark_is_taken_out_and_phrases_move_with_the_text(opened, region, value, text, words):
    start = value.index(words)
    known = {"message": 0, "start": start, "end": start + len(words), "segmentation": rle(region)}
    sample = opened(record(conversations=turns(value, "Yes"), phrases=[known])).read(0, 0)
    assert sample.messages[0].text == text
    assert text[sample.phrases[0].start : sample.phrases[0].end] == words


def test_regions_in_all_of_cocos_forms(opened, region):
    box = [2, 1, 9, 1, 9, 4, 2, 4]
    other = np.zeros_like(region)
    other[6:, :3] = True
    whole = region.copy()
    whole[3, 2] = True
    forms = [
        (rle(region), region),
        (plain_rle(region), region),
        ([rle(region), rle(other)], region | other),
        ([box], whole),
        (box, whole),
        ([box, [0, 6, 3, 6, 3, 8, 0, 8]], whole | other),
    ]
    source = opened(record(phrases=[phrase(form) for form, _ in forms]))
    for found, (_, mask) in zip(source.read(0, 0).phrases, forms, strict=True):
        assert np.array_equal(found.mask, mask)


@pytest.mark.parametrize("image", [None, "", "nan", float("nan"), [], ...])
def test_text_alone(opened, image):
    sample = opened(record(image=image, conversations=turns("Hello", "Good day."))).read(0, 0)
    assert sample.image is None
    assert sample.messages[0].text == "Hello"


def test_a_list_of_one_image_is_that_image(opened):
    assert opened(record(image=["a.png"])).read(0, 0).image.size == (WIDTH, HEIGHT)


def test_lines_are_found_whatever_stands_between_them(opened):
    lines = [json.dumps(record(id=f"ü{i}")) for i in range(3)]
    source = opened(raw=f"\n{lines[0]}\r\n\n  \n{lines[1]}\n{lines[2]}")
    assert [source.read(i, 0).id for i in range(len(source))] == ["ü0", "ü1", "ü2"]
    copy = pickle.loads(pickle.dumps(source))  # as workers get it
    assert copy.read(1, 0).id == "ü1"
    with pytest.raises(DataError, match=r"data\.jsonl:5 \(id x\)"):
        opened(raw=f"\n{lines[0]}\r\n\n  \n{json.dumps(record(id='x', image='b.png'))}").read(1, 0)


def test_the_word_phrases_in_a_text_is_no_region(opened, region):
    said = turns('Say "phrases"', "phrases")
    source = opened(record(image=None, conversations=said), record(phrases=[phrase(rle(region))]))
    assert list(source.guided) == [1]


def test_the_fingerprint_is_of_the_contents(opened, monkeypatch):
    first = opened(record()).fingerprint
    assert opened(record(), name="other.jsonl").fingerprint == first
    assert opened(record(id="a2")).fingerprint != first
    monkeypatch.setattr("train.data.files.WHOLE_BYTES", 10)
    monkeypatch.setattr("train.data.files.BLOCK_BYTES", 64)
    sampled = opened(*[record(id=i) for i in range(50)]).fingerprint
    assert opened(*[record(id=i) for i in range(50)]).fingerprint == sampled
    assert opened(*[record(id=i) for i in range(49)], record(id="x0")).fingerprint != sampled


BAD_COUNTS = {"size": [HEIGHT, WIDTH], "counts": [1, 2]}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (record(image="b.png"), "image b.png: no such file"),
        (record(image="../a.png"), "leads out of the folder"),
        (record(image=3), "image: expected a file name"),
        (record(image=["a.png", "b.png"]), "2 images"),
        (record(conversations=...), "conversations: expected a list"),
        (record(conversations=turns("Hm")), "no turn is the assistant's"),
        (record(conversations=[{"from": "robot", "value": "x"}]), "from 'robot' is unknown"),
        (record(conversations=[{"from": "human"}]), r"conversations\[0\]: expected an object"),
        (record(conversations=turns("<image><image>", "x")), "2 times <image>"),
        (record(conversations=turns("<image>", "x", "<image>", "y")), "2 times <image>"),
        (record(phrases=[phrase({"size": [4, 4], "counts": "04"})]), r"an RLE of size \[4, 4\]"),
        (record(phrases=[phrase(BAD_COUNTS)]), r"phrases\[0\]: segmentation"),
        (record(phrases=[phrase({"size": [HEIGHT, WIDTH], "counts": "PPYo1"})]), r"phrases\[0\]"),
        (record(phrases=[phrase([[1, 2, 3]])]), "three points"),
        (record(phrases=[phrase("x")]), "polygons or RLE"),
        (record(phrases=[phrase([])]), "its region is empty"),
        (record(phrases=[{**phrase([[0, 0, 4, 0, 4, 4]]), "message": 2}]), "message 2 of 2"),
        (record(phrases=[{**phrase([[0, 0, 4, 0, 4, 4]]), "end": 99}]), "to 99 of a message of 28"),
        (record(phrases=[{**phrase([[0, 0, 4, 0, 4, 4]]), "start": 3}]), "hold <image>"),
        (record(phrases=[{**phrase([[0, 0, 4, 0, 4, 4]]), "start": None}]), "whole numbers"),
        (record(phrases=3), "phrases: expected a list, not 3"),
        (record(phrases=["cup"]), r"phrases\[0\]: expected an object"),
    ],
)
def test_a_bad_sample_is_named(opened, bad, says):
    source = opened(record(id="good"), bad)
    source.read(0, 0)
    with pytest.raises(BadSample, match=says) as caught:
        source.read(1, 0)
    assert "data.jsonl:2 (id a1)" in str(caught.value)
    # As it comes back from a worker.
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason, copy.id) == (str(caught.value), caught.value.reason, "a1")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(image="b.png"), "image"),
        (record(image="broken.png"), "image"),
        (record(image="../a.png"), "record"),
        (record(phrases=[phrase({"size": [4, 4], "counts": "04"})]), "region"),
        (record(conversations=turns("Hm")), "silent"),
    ],
)
def test_what_is_wrong_in_one_word(opened, tmp_path, bad, reason):
    (tmp_path / "images/broken.png").write_bytes((tmp_path / "images/a.png").read_bytes()[:40])
    with pytest.raises(BadSample) as caught:
        opened(bad).read(0, 0)
    assert caught.value.reason == reason


def test_a_folder_of_images_that_is_gone_is_no_bad_sample(opened, tmp_path):
    source = opened(record())
    assert source.read(0, 0).image is not None
    (tmp_path / "images/a.png").rename(tmp_path / "images/b.png")
    with pytest.raises(BadSample, match="no such file"):
        source.read(0, 0)
    (tmp_path / "images/b.png").unlink()
    for _ in ("empty", "gone"):
        with pytest.raises(DataError, match=f"folder of images {tmp_path}/images is gone or empty") as caught:
            source.read(0, 0)
        assert not isinstance(caught.value, BadSample)
        if (tmp_path / "images").exists():
            (tmp_path / "images").rmdir()
    with pytest.raises(DataError, match=r"give it as options\.images") as caught:
        open_source(SourceSpec("llava", 1.0, {"path": str(tmp_path / "data.jsonl")})).read(0, 0)
    assert not isinstance(caught.value, BadSample)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_phrases_without_a_region_are_words(opened, region, name):
    dog = phrase(None, 1, "dog")
    missing = {key: value for key, value in phrase(None).items() if key != "segmentation"}
    source = opened(
        record(id=0, phrases=[missing, phrase(rle(region)), dog]),
        record(id=1, phrases=[missing, dog]),
        record(id=2, phrases=[phrase(rle(region))]),
        record(id=3, phrases=[phrase([])]),
        record(id=4),
        name=name,
    )
    # An empty segmentation is one that is no good, not one that is not there.
    assert list(source.guided) == [0, 2, 3]
    sample = source.read(0, 0)
    assert [(w.message, sample.messages[w.message].text[w.start : w.end]) for w in sample.words] == [
        (0, "red cup"),
        (1, "dog"),
    ]
    assert [np.array_equal(p.mask, region) for p in sample.phrases] == [True]
    assert (len(source.read(1, 0).words), source.read(1, 0).phrases) == (2, ())


def test_samples_name_their_file(opened, tmp_path):
    source = opened(record(), record(image=..., conversations=turns("Hello", "Good day.")))
    sample, alone = source.read(0, 0), source.read(1, 0)
    assert sample.image_name == "a.png"
    assert sample.image_sha256 == hashlib.sha256((tmp_path / "images/a.png").read_bytes()).hexdigest()
    assert (alone.image_name, alone.image_sha256) == ("", "")


def test_sources_have_the_name_of_their_file_or_one_of_their_own(opened, tmp_path):
    opened(record())
    options = {"path": str(tmp_path / "data.jsonl"), "images": str(tmp_path / "images")}
    assert open_source(SourceSpec("llava", 1.0, options)).name == "data"
    assert open_source(SourceSpec("llava", 1.0, options | {"name": "mine"})).name == "mine"


def test_files_that_cannot_be_opened(opened, tmp_path):
    with pytest.raises(DataError, match="no record"):
        opened(raw="\n\n")
    with pytest.raises(DataError, match="not JSON"):
        opened(raw="{}\n[", name="data.json")
    with pytest.raises(DataError, match="a JSON list of records, not a dict"):
        opened(raw="{}", name="data.json")


@pytest.mark.parametrize(("line", "says"), [("{", "not JSON"), ("3", "expected a JSON object"), ("\x00", "not JSON")])
def test_a_line_that_is_no_record_is_a_bad_sample_when_it_is_read(opened, line, says):
    source = opened(raw=f"{json.dumps(record())}\n\n{line}\n")
    assert len(source) == 2
    with pytest.raises(BadSample, match=rf"data\.jsonl:3 \(id 1\): {says}") as caught:
        source.read(1, 0)
    assert caught.value.reason == "record"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SourceSpec("lava"), "did you mean llava"),
        (SourceSpec("llava"), "missing option: path"),
        (SourceSpec("llava", 1.0, {"path": "nowhere.json"}), "no such file nowhere.json"),
        (SourceSpec("llava", 1.0, {"path": __file__, "images": "nowhere"}), "no such folder nowhere"),
        (SourceSpec("llava", 1.0, {"path": "x", "image": "y"}), "no such option 'image'; did you mean images"),
    ],
)
def test_options_are_checked(spec, says):
    with pytest.raises(DataError, match=says):
        open_source(spec)
