"""COCO's captions and instances: conversations, phrases with the union of their category's instances, bad images."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from agevlm.errors import DataError, TrainError
from train.data.coco import INSTRUCTIONS
from train.data.samples import BadSample
from train.data.sources import open_source
from train.spec import SourceSpec

WIDTH, HEIGHT = 40, 30
SAID = {
    1: ["Two dogs chase a cat.", "Nothing of note.", "A dog eats a hot dog.", "A bear."],
    2: ["A street at night."],
    3: [],
    4: ["A cat sleeps."],
}
BOX = [2, 3, 12, 3, 12, 9, 2, 9]


def entry(image, category, segmentation, crowd=0):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


CROWD = {"size": [HEIGHT, WIDTH], "counts": [600, 60, 540]}
INSTANCES = [
    entry(1, 1, [BOX, [20, 20, 30, 20, 30, 28, 20, 28]]),
    entry(1, 1, [[0, 0, 5, 0, 5, 5, 0, 5]]),
    entry(1, 1, CROWD, 1),
    entry(1, 2, [[15, 10, 25, 10, 25, 18, 15, 18]]),
    entry(4, 1, [BOX]),
    entry(4, 3, None),
]


@pytest.fixture
def files(tmp_path):
    """Options of a source; `change` writes other contents."""
    (tmp_path / "images").mkdir()
    listed = [{"id": key, "file_name": f"{key}.png", "width": WIDTH, "height": HEIGHT} for key in SAID]
    for key in SAID:
        pixels = np.random.default_rng(key).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{key}.png")
    said = [{"id": i, "image_id": key, "caption": c} for key, texts in SAID.items() for i, c in enumerate(texts)]
    names = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "hot dog"}]
    things = [{"id": i, "bbox": [0, 0, 1, 1], "area": 1, **one} for i, one in enumerate(INSTANCES)]

    def change(captions=None, instances=None, **options):
        told = {"images": listed, "annotations": said} | (captions or {})
        held = {"images": listed, "annotations": things, "categories": names} | (instances or {})
        (tmp_path / "said.json").write_text(json.dumps(told))
        (tmp_path / "things.json").write_text(json.dumps(held))
        paths = {
            "captions": str(tmp_path / "said.json"),
            "instances": str(tmp_path / "things.json"),
            "images": str(tmp_path / "images"),
        }
        return open_source(SourceSpec("coco", 1.0, paths | options))

    return change


def union(tmp_path, image, category, crowds=True):
    """Of a category's instances, by pycocotools."""
    coco = COCO(str(tmp_path / "things.json"))
    ids = coco.getAnnIds(imgIds=[image], catIds=[category], iscrowd=None if crowds else False)
    assert len(ids) > 1
    return np.logical_or.reduce([coco.annToMask(one).astype(bool) for one in coco.loadAnns(ids)])


@pytest.mark.parametrize("crowds", [True, False])
def test_phrases_have_the_union_of_their_category(files, tmp_path, crowds):
    source = files(crowds=crowds)
    assert (source.name, len(source), list(source.guided)) == ("said", 3, [0])
    seen = set()
    for epoch in range(4):
        sample = source.read(0, epoch)
        assert [m.role for m in sample.messages] == ["user", "assistant"]
        assert (sample.id, sample.image.size, sample.image_name) == ("1", (WIDTH, HEIGHT), "1.png")
        caption = sample.messages[1].text
        named = [(caption[p.start : p.end], p) for p in sample.phrases]
        assert all(p.message == 1 for _, p in named)
        if caption == SAID[1][0]:
            assert [words for words, _ in named] == ["dogs", "cat"]
            assert np.array_equal(named[0][1].mask, union(tmp_path, 1, 1, crowds))
            assert named[0][1].mask.sum() != union(tmp_path, 1, 1, not crowds).sum()
            assert not np.array_equal(named[1][1].mask, named[0][1].mask)
        else:
            assert caption == SAID[1][2]
            # There is a hot dog in the text alone, and it is no dog.
            assert [(words, p.start) for words, p in named] == [("dog", 2)]
        seen.add(caption)
    assert seen == {SAID[1][0], SAID[1][2]}


def test_captions_follow_each_other_by_epoch_and_nothing_else(files):
    every = ["A.", "B.", "C.", "D."]
    said = {"annotations": [{"image_id": 1, "caption": text} for text in every]}
    source = files(captions=said)
    assert (len(source), list(source.guided)) == (1, [])
    drawn = [source.read(0, epoch).messages[1].text for epoch in range(12)]
    assert all(sorted(drawn[turn : turn + 4]) == every for turn in (0, 4, 8))
    assert len({tuple(drawn[turn : turn + 4]) for turn in (0, 4, 8)}) > 1
    again = pickle.loads(pickle.dumps(source))
    assert [again.read(0, epoch).messages[1].text for epoch in (11, 3, 0)] == [drawn[11], drawn[3], drawn[0]]
    asked = Counter(source.read(0, epoch).messages[0].text for epoch in range(200))
    assert set(asked) == set(INSTRUCTIONS)
    other = files(captions=said, seed=1)
    assert [other.read(0, epoch).messages[1].text for epoch in range(12)] != drawn


def test_further_words_and_what_the_fingerprint_depends_on(files):
    source = files(words={"dog": ["street"]})
    assert source.read(1, 0).phrases == ()
    assert list(files(words={"dog": ["note", "street"]}).guided) == [0]
    prints = {files().fingerprint, source.fingerprint, files(crowds=False).fingerprint, files(seed=1).fingerprint}
    prints.add(files(captions={"annotations": [{"image_id": 1, "caption": "x"}]}).fingerprint)
    assert len(prints) == 5
    assert files(name="mine").fingerprint == files().fingerprint
    assert files(name="mine").name == "mine"


def test_images_that_are_not_annotated_have_no_phrases(files):
    listed = [{"id": 1, "file_name": "1.png", "width": WIDTH, "height": HEIGHT}]
    source = files(instances={"images": listed, "annotations": INSTANCES[:1]})
    assert (len(source), list(source.guided)) == (3, [0])
    assert source.read(2, 0).phrases == ()


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        (lambda folder: (folder / "1.png").unlink(), "image", "1.png: no such file"),
        (lambda folder: (folder / "1.png").write_bytes(b"x"), "image", "not an image file"),
        (
            lambda folder: Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "1.png"),
            "region",
            "40 x 30 pixels, but it has 30 x 40",
        ),
    ],
)
def test_bad_images(files, tmp_path, change, reason, says):
    source = files()
    change(tmp_path / "images")
    with pytest.raises(BadSample, match=rf"source said \(id 1\): .*{says}") as caught:
        source.read(0, 0)
    assert caught.value.reason == reason
    assert source.read(1, 0).id == "2"


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ({"size": [3, 4], "counts": "04"}, r"regions of dog: an RLE of size \[3, 4\]"),
        ({"size": [HEIGHT, WIDTH], "counts": [5]}, "regions of dog"),
        ([[90, 90, 95, 90, 95, 95]], "regions of dog: its region is empty"),
        ("x", "regions of dog: segmentation: expected COCO's polygons or RLE"),
    ],
)
def test_bad_regions(files, segmentation, says):
    source = files(instances={"annotations": [entry(1, 1, segmentation)]})
    with pytest.raises(BadSample, match=says):
        source.read(0, 0)


def test_a_folder_that_is_gone_is_no_bad_sample(files, tmp_path):
    source = files()
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="gone or empty") as caught:
        source.read(0, 0)
    assert not isinstance(caught.value, BadSample)


def test_options_are_checked(files, tmp_path):
    for options, error, says in (
        ({"crowd": True}, TrainError, r"source coco: crowd: no such setting; did you mean crowds"),
        ({"crowds": "yes"}, TrainError, "crowds: expected true or false"),
        ({"images": "nowhere"}, DataError, "no such folder nowhere"),
        ({"words": {"cow": ["ox"]}}, DataError, "no category 'cow'"),
    ):
        with pytest.raises(error, match=says):
            files(**options)
    paths = {"captions": "nowhere.json", "instances": str(tmp_path / "things.json"), "images": str(tmp_path)}
    with pytest.raises(DataError, match=r"nowhere\.json: no such file"):
        open_source(SourceSpec("coco", 1.0, paths))
    with pytest.raises(TrainError, match="missing: captions, instances, images"):
        open_source(SourceSpec("coco"))
    with pytest.raises(DataError, match="none of the images"):
        files(instances={"images": [{"id": 9, "file_name": "x", "width": 1, "height": 1}], "annotations": []})
    with pytest.raises(DataError, match="no image with a caption"):
        files(captions={"annotations": []})


def test_photos(shared, tmp_path):
    photos = shared / "photos"
    listed = json.loads((photos / "instances.json").read_text())
    coco = COCO(str(photos / "instances.json"))
    names = {one["id"]: one["name"] for one in listed["categories"]}
    said = []
    for image in listed["images"]:
        held = sorted({names[a["category_id"]] for a in listed["annotations"] if a["image_id"] == image["id"]})
        said += [{"image_id": image["id"], "caption": f"This is {' or '.join(held)}."}]
    (tmp_path / "said.json").write_text(json.dumps({"images": listed["images"], "annotations": said}))
    options = {"captions": str(tmp_path / "said.json"), "instances": str(photos / "instances.json")}
    source = open_source(SourceSpec("coco", 1.0, options | {"images": str(photos / "images")}))
    assert (len(source), len(source.guided)) == (24, 24)
    ids = {name: key for key, name in names.items()}
    count = 0
    for index in range(24):
        sample = source.read(index, 0)
        for phrase in sample.phrases:
            name = sample.messages[1].text[phrase.start : phrase.end]
            found = coco.loadAnns(coco.getAnnIds(imgIds=[int(sample.id)], catIds=[ids[name]]))
            assert np.array_equal(phrase.mask, np.logical_or.reduce([coco.annToMask(a) for a in found]))
            count += 1
    assert count > 40
