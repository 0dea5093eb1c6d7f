"""Referring expressions and grounded captions in the forms of their public releases."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from agevlm.errors import DataError, TrainError
from train.data.grounded import DESCRIBE, WHERE, place_of
from train.data.samples import BadSample
from train.data.sources import open_source
from train.spec import SourceSpec

WIDTH, HEIGHT = 60, 40
IMAGE = "COCO_train2014_000000000001.jpg"
TRIANGLE = [4.0, 4.0, 30.0, 4.0, 30.0, 20.0]
SQUARE = [40.0, 25.0, 50.0, 25.0, 50.0, 35.0, 40.0, 35.0]


def mask_of(*polygons):
    return coco.decode(coco.merge(coco.frPyObjects([list(p) for p in polygons], HEIGHT, WIDTH))).astype(bool)


def rle_of(*polygons):
    made = coco.merge(coco.frPyObjects([list(p) for p in polygons], HEIGHT, WIDTH))
    return {"size": [HEIGHT, WIDTH], "counts": made["counts"].decode()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / IMAGE)
    return tmp_path


@pytest.fixture
def opened(folder):
    def make(rows, name="data.json", raw=None, **options):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        elif path.suffix == ".jsonl":
            path.write_text(raw or "".join(json.dumps(row) + "\n" for row in rows))
        else:
            path.write_text(raw or json.dumps(rows))
        settings = {"path": str(path), "images": str(folder / "images"), **options}
        return open_source(SourceSpec("grounded", 1.0, {k: v for k, v in settings.items() if v is not None}))

    return make


def words_of(sample):
    return [(p.message, sample.messages[p.message].text[p.start : p.end]) for p in sample.phrases]


def jxu124(**changes):
    """A row as jxu124/refcoco has it (fields of its data set card)."""
    annotation = {"id": 7, "segmentation": [TRIANGLE, SQUARE], "bbox": [1, 2, 3, 4], "iscrowd": 0, "image_id": 1}
    sentences = [{"raw": f"{text}!", "sent": text, "sent_id": i, "tokens": ["x"]} for i, text in enumerate(SAID)]
    row = {
        "sent_ids": [1, 2],
        "file_name": "COCO_train2014_000000000001_7.jpg",
        "ann_id": 7,
        "ref_id": 70,
        "image_id": 1,
        "split": "train",
        "sentences": sentences,
        "category_id": 3,
        "raw_anns": json.dumps(annotation),
        "raw_image_info": json.dumps({"file_name": IMAGE, "height": HEIGHT, "width": WIDTH}),
        "image_path": f"coco/train2014/{IMAGE}",
        "bbox": [4.0, 4.0, 30.0, 20.0],
        "captions": ["something else"],
    }
    return row | changes


SAID = ["left dog", "dog near the tree"]


def refer(**changes):
    """A reference of REFER's refs(unc).p, once it is JSON."""
    row = {key: jxu124()[key] for key in ("file_name", "ann_id", "ref_id", "image_id", "split", "sentences")}
    return row | changes


def test_jxu124s_parquet(opened):
    rows = [jxu124(), jxu124(ref_id=71, split="val"), jxu124(ref_id=72)]
    source = opened(rows, "refcoco.parquet")
    assert (source.name, len(source), list(source.guided)) == ("refcoco", 2, [0, 1])
    asked, told = set(), set()
    for epoch in range(60):
        sample = source.read(0, epoch)
        assert (sample.id, sample.image_name, sample.image.size) == ("70", IMAGE, (WIDTH, HEIGHT))
        ((message, words),) = words_of(sample)
        question, answer = (m.text for m in sample.messages)
        assert np.array_equal(sample.phrases[0].mask, mask_of(TRIANGLE, SQUARE))
        if message:
            assert (question in DESCRIBE, answer) == (True, f"{words}.")
            assert words[0].isupper()
            told.add(words.lower())
        else:
            assert question in [template.format(words) for template in WHERE]
            assert answer == "In the middle."
            asked.add(words)
    assert asked == told == set(SAID)
    again = pickle.loads(pickle.dumps(source))
    assert [again.read(1, e).messages for e in range(5)] == [source.read(1, e).messages for e in range(5)]
    assert len(opened(rows, "refcoco.parquet", split="val")) == 1
    with pytest.raises(DataError, match=r"no row of split 'test'; there are: train \(2\), val \(1\)"):
        opened(rows, "refcoco.parquet", split="test")


def test_other_fields_that_have_expressions(opened):
    source = opened([jxu124(sentences=[]), {"file_name": IMAGE, "expressions": ["Dog?"], "mask": rle_of(SQUARE)}])
    assert words_of(source.read(0, 0))[0][1].lower() == "something else"
    sample = source.read(1, 0)
    assert words_of(sample)[0][1] == "Dog"
    assert np.array_equal(sample.phrases[0].mask, mask_of(SQUARE))


def test_shares_of_what_is_asked_and_described(opened):
    for share, message in ((0.0, 0), (1.0, 1)):
        source = opened([jxu124()], describe=share)
        assert {words_of(source.read(0, epoch))[0][0] for epoch in range(20)} == {message}


def lmms(name, **changes):
    """A row as lmms-lab/RefCOCO has it: its image inside, one polygon."""
    row = {
        "question_id": name,
        "image": {"bytes": changes.pop("bytes"), "path": None},
        "question": "Please describe it.",
        "answer": ["red cup", "cup"],
        "segmentation": TRIANGLE,
        "bbox": [4.0, 4.0, 26.0, 16.0],
        "iscrowd": 0,
        "file_name": "COCO_train2014_000000000001_2.jpg",
    }
    return row | changes


def test_lmms_labs_parquet_with_its_images_inside(opened, folder):
    inside = []
    for shade in range(5):
        path = folder / f"{shade}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (50 * shade, 0, 0)).save(path)
        inside.append(path.read_bytes())
    for number, part in enumerate((inside[:3], inside[3:])):
        rows = [lmms(f"q{number}{i}", bytes=data) for i, data in enumerate(part)]
        opened(rows, f"parts/train-{number}.parquet", images=None)
    source = open_source(SourceSpec("grounded", 1.0, {"path": str(folder / "parts")}))
    assert (source.name, len(source)) == ("parts", 5)
    for index in (4, 0, 2, 1, 3):
        sample = pickle.loads(pickle.dumps(source)).read(index, 0)
        assert sample.image.getpixel((0, 0)) == (50 * index, 0, 0)
        assert (sample.id, sample.image_name) == (["q00", "q01", "q02", "q10", "q11"][index], IMAGE)
        assert np.array_equal(sample.phrases[0].mask, mask_of(TRIANGLE))
        assert {words_of(source.read(index, e))[0][1].lower() for e in range(20)} == {"red cup", "cup"}


def test_of_files_called_after_several_splits_one_split_is_read(opened, folder):
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
    data = (folder / "a.png").read_bytes()
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "testA-00000-of-00001")):
        opened([lmms(f"q{number}", bytes=data)], f"parts/{name}.parquet", images=None)

    def ids(split):
        source = open_source(SourceSpec("grounded", 1.0, {"path": str(folder / "parts"), "split": split}))
        return [source.read(i, 0).id for i in range(len(source))]

    assert ids("train") == ["q0", "q1"]
    assert ids("testA") == ["q2"]
    with pytest.raises(DataError, match="has files of testA, train, none of split 'val'"):
        ids("val")


@pytest.mark.parametrize("name", ["refs.json", "refs.jsonl"])
def test_refers_references_with_cocos_instances(opened, folder, name):
    instances = {
        "images": [{"id": 1, "file_name": IMAGE, "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "segmentation": [SQUARE]}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    source = opened([refer(), refer(ann_id=8)], name, instances=str(folder / "instances.json"))
    assert list(source.guided) == [0]
    sample = source.read(0, 0)
    assert sample.image_name == IMAGE
    assert np.array_equal(sample.phrases[0].mask, mask_of(SQUARE))
    with pytest.raises(BadSample, match=r"row 2 \(id 70\): ann_id 8 is not in the instances file"):
        source.read(1, 0)
    with pytest.raises(BadSample, match=r"no segmentation of it; .*options.instances"):
        opened([refer()], name).read(0, 0)
    instances["images"][0]["width"] = 61
    (folder / "instances.json").write_text(json.dumps(instances))
    with pytest.raises(BadSample, match="an image of 61 x 40 pixels, but it has 60 x 40"):
        opened([refer()], name, instances=str(folder / "instances.json")).read(0, 0)
    instances["annotations"] = [{"image_id": 1, "category_id": 3}]
    (folder / "instances.json").write_text(json.dumps(instances))
    with pytest.raises(DataError, match="its annotations have no ids"):
        opened([refer()], name, instances=str(folder / "instances.json"))


def test_boxes_are_regions_where_it_is_said_what_they_are(opened):
    row = {"file_name": IMAGE, "expressions": ["dog"], "bbox": [10, 5, 20, 10]}
    with pytest.raises(BadSample, match=r"give options\.boxes as xywh or xyxy"):
        opened([row]).read(0, 0)
    for boxes, right, below in (("xywh", 30, 15), ("xyxy", 20, 10)):
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[5:below, 10:right] = True
        assert np.array_equal(opened([row], boxes=boxes).read(0, 0).phrases[0].mask, expected)


def granular(**changes):
    """A row as GranDf_HA_GCG_train.json has it."""
    row = {
        "file_name": IMAGE,
        "caption": '"A dog and a cup near a dog. "',
        "groundings": {
            "A dog": {"token_positives": [0, 5], "rle_masks": [rle_of(TRIANGLE), rle_of(TRIANGLE, SQUARE)]},
            "dogs": {"token_positives": [[0, 5], [21, 26]], "rle_masks": [rle_of(SQUARE)]},
            "a cup": {"token_positives": [[10, 15]], "rle_masks": []},
        },
    }
    return row | changes


def test_grounded_captions(opened):
    source = opened([granular(), granular(groundings={}), granular(caption="  ")])
    assert list(source.guided) == [0]
    sample = source.read(0, 0)
    assert sample.messages[1].text == "A dog and a cup near a dog."
    assert words_of(sample) == [(1, "A dog"), (1, "a dog")]
    # Masks that overlap are united: their sum would be 2 there.
    assert np.array_equal(sample.phrases[0].mask, mask_of(TRIANGLE, SQUARE))
    assert np.array_equal(sample.phrases[1].mask, mask_of(SQUARE))
    assert [(w.message, w.start, w.end) for w in sample.words] == [(1, 10, 15)]
    assert source.read(1, 0).phrases == ()
    with pytest.raises(BadSample, match=r"row 3 .*caption: expected a text") as caught:
        source.read(2, 0)
    assert caught.value.reason == "silent"


def test_captions_with_references(opened):
    refs = [
        {"sentence": "a CUP", "segmentation": [SQUARE, TRIANGLE]},
        {"sentence": "a unicorn", "segmentation": [SQUARE]},
    ]
    row = {"img_file_name": IMAGE, "caption": "A dog and a cup.", "refs": refs}
    sample = opened([row]).read(0, 0)
    assert words_of(sample) == [(1, "a cup")]
    assert np.array_equal(sample.phrases[0].mask, mask_of(SQUARE, TRIANGLE))


def test_words_named_twice_stand_for_both_regions_and_words_within_others_for_none(opened):
    refs = [
        {"sentence": "a cup", "segmentation": [SQUARE]},
        {"sentence": "a cup", "segmentation": [TRIANGLE]},
        {"sentence": "car", "segmentation": [SQUARE]},
    ]
    row = {"img_file_name": IMAGE, "caption": "A cupboard, a carpet and a cup.", "refs": refs}
    sample = opened([row]).read(0, 0)
    assert [(p.start, p.end) for p in sample.phrases] == [(25, 30)]
    assert np.array_equal(sample.phrases[0].mask, mask_of(SQUARE, TRIANGLE))


def test_a_reference_to_several_annotations_is_of_all_of_them(opened, folder):
    instances = {
        "images": [{"id": i, "file_name": IMAGE, "width": WIDTH, "height": HEIGHT} for i in (1, 2)],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 3, "segmentation": [SQUARE]},
            {"id": 8, "image_id": 1, "category_id": 3, "segmentation": rle_of(TRIANGLE), "iscrowd": 1},
            {"id": 9, "image_id": 2, "category_id": 3, "segmentation": [SQUARE]},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    rows = [refer(ann_id=[7, 8]), refer(ann_id=[-1]), refer(ann_id=[7, 9]), refer(ann_id=[[7]])]
    source = opened(rows, "refs.json", instances=str(folder / "instances.json"))
    assert list(source.guided) == [0]
    assert np.array_equal(source.read(0, 0).phrases[0].mask, mask_of(SQUARE, TRIANGLE))
    for index, says in ((1, "-1 is not in"), (2, "of several images"), (3, "is not in the instances file")):
        with pytest.raises(BadSample, match=says):
            source.read(index, 0)


def test_run_lengths_may_be_bytes_and_images_of_masks_are_no_regions(opened):
    rle = rle_of(SQUARE)
    counts = rle["counts"] if isinstance(rle["counts"], bytes) else rle["counts"].encode()
    row = {"file_name": IMAGE, "expressions": ["dog"], "mask": {"size": rle["size"], "counts": counts}}
    source = opened([row], "rows.parquet")
    assert np.array_equal(source.read(0, 0).phrases[0].mask, mask_of(SQUARE))
    source = opened([row | {"mask": {"bytes": b"PNG", "path": None}}], "images.parquet")
    with pytest.raises(BadSample, match="is an image file"):
        source.read(0, 0)


ONE = {"token_positives": [0, 5], "rle_masks": [rle_of(SQUARE)]}


@pytest.mark.parametrize(
    ("row", "reason", "says"),
    [
        (jxu124(raw_anns=json.dumps({"segmentation": {"size": [4, 4], "counts": "04"}})), "region", "RLE of size"),
        (jxu124(raw_anns=json.dumps({"segmentation": [[90, 90, 95, 90, 95, 95]]})), "region", "region is empty"),
        (jxu124(raw_image_info=json.dumps({"file_name": IMAGE, "height": 9, "width": 8})), "region", "of 8 x 9 pixels"),
        (jxu124(raw_anns="{"), "record", "raw_anns: not JSON"),
        (jxu124(raw_anns="[]"), "record", "raw_anns: expected an object"),
        (jxu124(sentences=[" ", "?"]), "record", "expressions: expected texts"),
        (jxu124(sentences=3), "record", "no expression in it"),
        (jxu124(raw_image_info="{}", file_name="other.jpg"), "image", r"other\.jpg: no such file"),
        (jxu124(raw_image_info="{}", file_name=None), "image", "it names no image"),
        (jxu124(raw_anns="{}", bbox=[1, 2]), "region", "no segmentation of it; its box can be one"),
        ("x", "record", "expected an object, not 'x'"),
        (granular(groundings=[]), "region", "groundings: expected an object"),
        (granular(groundings={"x": {}}), "region", "token_positives must be"),
        (granular(groundings={"x": ONE | {"token_positives": [[0, 1, 2]]}}), "region", "token_positives must be"),
        (granular(groundings={"x": ONE | {"token_positives": [20, 99]}}), "region", "characters 20 to 99 of 27"),
        (granular(groundings={"x": ONE | {"rle_masks": [{"size": [1, 1], "counts": "1"}]}}), "region", "RLE of size"),
        (granular(caption=None), "silent", "caption: expected a text"),
        ({"caption": "x", "refs": 3}, "region", "refs: expected a list"),
        ({"caption": "x", "refs": [{}]}, "region", "refs: expected objects with sentence"),
    ],
)
def test_bad_rows(opened, row, reason, says):
    source = opened([jxu124(), row])
    assert len(source) == 2
    source.read(0, 0)
    with pytest.raises(BadSample, match=rf"data\.json: row 2 \(id .*: .*{says}") as caught:
        source.read(1, 0)
    assert caught.value.reason == reason


def test_a_line_that_is_not_json_is_a_bad_sample(opened):
    source = opened([], "data.jsonl", raw=f"{json.dumps(jxu124())}\n\n{{oh\n")
    assert len(source) == 2
    with pytest.raises(BadSample, match=r"expected an object, not '\{oh'"):
        source.read(1, 0)


def test_images_inside_that_are_empty_or_broken(opened):
    source = opened([lmms("a", bytes=b"x"), lmms("b", bytes=b"")], "x.parquet", images=None)
    for index, says in enumerate(["not an image file", "its image is empty"]):
        with pytest.raises(BadSample, match=says) as caught:
            source.read(index, 0)
        assert caught.value.reason == "image"


def test_what_cannot_be_opened(opened, folder):
    for name in ("refs(unc).p", "refs.pkl", "refs.npy"):
        (folder / name).write_bytes(pickle.dumps([1]))
        with pytest.raises(DataError, match="is a pickled file, which can run code"):
            open_source(SourceSpec("grounded", 1.0, {"path": str(folder / name)}))
    for options, error, says in (
        ({"path": "nowhere.json"}, DataError, "nowhere.json is not there"),
        ({"path": str(folder / "images")}, DataError, "has no .parquet file"),
        ({"path": __file__}, DataError, r"expected \.json, \.jsonl or \.parquet"),
        ({}, TrainError, "missing: path"),
        ({"path": "x", "image": "y"}, TrainError, "did you mean images"),
        ({"path": "x", "describe": 2.0}, DataError, "2.0 is no share"),
        ({"path": "x", "boxes": "yxhw"}, DataError, "boxes: 'yxhw' is unknown"),
    ):
        with pytest.raises(error, match=says):
            open_source(SourceSpec("grounded", 1.0, options))
    with pytest.raises(DataError, match="no such folder"):
        opened([jxu124()], images="nowhere")
    with pytest.raises(DataError, match="its rows have a, b; expected referring expressions"):
        opened([{"a": 1, "b": 2}])
    with pytest.raises(DataError, match="expected a JSON list"):
        opened({})
    with pytest.raises(DataError, match=r"data\.json: cannot be read"):
        opened([], raw="[")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"broken\.parquet: cannot be read"):
        open_source(SourceSpec("grounded", 1.0, {"path": str(folder / "broken.parquet")}))
    with pytest.raises(DataError, match="no row of split 'train'; there are: none"):
        opened([])


def test_a_folder_that_is_gone_is_no_bad_sample(opened, folder):
    source = opened([jxu124()])
    (folder / "images" / IMAGE).unlink()
    with pytest.raises(DataError, match="gone or empty") as caught:
        source.read(0, 0)
    assert not isinstance(caught.value, BadSample)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.999), st.floats(0, 0.999))
def test_places_are_thirds(height, width, down, right):
    """One pixel, whose centre is placed by comparing it with the borders themselves."""
    y, x = int(down * height), int(right * width)
    region = np.zeros((height, width), bool)
    region[y, x] = True
    rows = [y + 0.5 < height / 3, y + 0.5 >= 2 * height / 3]
    columns = [x + 0.5 < width / 3, x + 0.5 >= 2 * width / 3]
    said = place_of(region)
    assert [" top" in said, " bottom" in said] == rows
    assert [" left" in said, " right" in said] == columns
    assert (said == "In the middle") == (not any(rows + columns))


def test_the_fingerprint_is_of_the_data_and_what_is_said(opened):
    first = opened([jxu124()]).fingerprint
    assert opened([jxu124()], name="other.json").fingerprint == first
    others = [opened([jxu124(ref_id=1)]), opened([jxu124()], seed=1), opened([jxu124()], describe=0.1)]
    assert len({first, *(source.fingerprint for source in others)}) == 4
