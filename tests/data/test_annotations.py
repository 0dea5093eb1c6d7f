"""Instance annotations and the joining of file names."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agevlm.data.annotations import load_captions, load_instances
from agevlm.data.paths import inside
from agevlm.errors import DataError

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"


def content(**changes):
    base = {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 4, "height": 3},
            {"id": 2, "file_name": "a.jpg", "width": 8, "height": 6},
        ],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 30, "bbox": [0, 1, 2, 2.5], "iscrowd": 1, "segmentation": {"x": 1}},
            {"id": 2, "image_id": 7, "category_id": 10},
            {"id": 3, "image_id": 2, "category_id": 10},
            {"id": 4, "image_id": 2, "category_id": 30},
        ],
        "categories": [{"id": 10, "name": "cat"}, {"id": 30, "name": "dog"}],
    }
    return base | changes


def load(tmp_path, value):
    path = tmp_path / "instances.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return load_instances(path)


def test_objects_are_listed_once_in_order_of_first_annotation(tmp_path):
    instances = load(tmp_path, content())
    assert [(image.file_name, image.objects) for image in instances.images] == [
        ("b.jpg", ("cat",)),
        ("a.jpg", ("dog", "cat")),
    ]
    assert (instances.images[1].width, instances.images[1].height) == (8, 6)


def test_annotations_stay_reachable_by_image(tmp_path):
    instances = load(tmp_path, content())
    first, _, third = instances.of_image(2)
    assert (first.category, first.iscrowd, first.bbox, first.segmentation) == ("dog", True, (0, 1, 2, 2.5), {"x": 1})
    assert (third.category, third.iscrowd, third.bbox, third.segmentation) == ("dog", False, None, None)
    assert len(instances.annotations) == 4


def test_image_without_annotations_has_no_objects(tmp_path):
    instances = load(tmp_path, content(annotations=[]))
    assert instances.images[0].objects == ()
    assert instances.of_image(7) == ()


IMAGE = {"id": 7, "file_name": "b.jpg", "width": 4, "height": 3}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", r"instances\.json:1: not JSON"),
        ('{"images": [\n1,}', r"instances\.json:2: not JSON"),
        ("[]", "a JSON list, not an object"),
        ({"images": [], "annotations": []}, "no key 'categories'"),
        (content(images={}), "'images' must be a list"),
        (content(images=[3]), r"images\[0\] must be an object"),
        (content(images=[IMAGE, IMAGE]), r"images\[1\]: image id 7 appears twice"),
        (content(images=[{"id": 7, "width": 4, "height": 3}]), r"images\[0\]: no key 'file_name'"),
        (content(images=[IMAGE | {"width": 0}]), "width must be a positive number"),
        (content(images=[IMAGE | {"id": None}]), "id must be an integer or a string"),
        (content(annotations=[{"image_id": 9, "category_id": 10}]), "image_id 9 is not among the images"),
        (content(annotations=[{"image_id": 7, "category_id": 99}]), "category_id 99 is not among the categories"),
        (content(annotations=[{"image_id": 7}]), r"annotations\[0\]: no key 'category_id'"),
        (content(annotations=[{"image_id": 7, "category_id": 10, "bbox": [1, 2]}]), "bbox must be four numbers"),
        (content(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "category id 1 appears twice"),
        (content(categories=[{"id": 1, "name": " "}]), "name must be a text"),
    ],
)
def test_errors_name_the_place(tmp_path, value, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_instances(tmp_path / "nothing.json")
    path = tmp_path / "binary.json"
    path.write_bytes(b"\n\xff\xfe")
    with pytest.raises(DataError, match=r"binary\.json:2: not UTF-8"):
        load_instances(path)


@pytest.mark.skipif(not PHOTOS.exists(), reason="the shared photos are not here")
def test_photos():
    instances = load_instances(PHOTOS / "instances.json")
    assert len(instances.images) == 24
    assert len(instances.annotations) == 161
    assert sum(annotation.iscrowd for annotation in instances.annotations) == 1
    assert all(inside(PHOTOS / "images", image.file_name).is_file() for image in instances.images)


@pytest.mark.parametrize("name", ["a.jpg", "coco/train2017/1.jpg", "a..b/..c.jpg", "./a.jpg", "a/../b.jpg"])
def test_names_inside(name):
    assert inside("/data", name).is_relative_to("/data")


def test_up_and_down_is_taken_lexically():
    assert inside("/data", "linked/../b.jpg") == Path("/data/b.jpg")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x.jpg", "leads out of the folder"),
        ("a/../../x.jpg", "leads out of the folder"),
        ("..", "leads out of the folder"),
        ("/etc/passwd", "is absolute"),
        ("//host/share/x", "is absolute"),
        ("C:/x.jpg", "forward slashes"),
        ("c:x.jpg", "forward slashes"),
        ("..\\x.jpg", "forward slashes"),
        ("a\0b", "forward slashes"),
        ("", "names no file"),
        (".", "names no file"),
        ("a/..", "names no file"),
    ],
)
def test_names_outside(name, message):
    with pytest.raises(DataError, match=message):
        inside("/data", name)


def test_links_within_the_folder_are_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.jpg").write_bytes(b"x")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "linked").symlink_to(elsewhere)
    assert inside(folder, "linked/a.jpg").read_bytes() == b"x"


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.jpg", "C:", "\\", "..."]), max_size=6).map("/".join))
@example("a/../../data/x")
def test_what_inside_accepts_never_leaves(name):
    try:
        path = inside("/data/images", name)
    except DataError:
        return
    assert ".." not in path.parts
    assert path.is_relative_to("/data/images")
    assert path != Path("/data/images")


def captions(**changes):
    said = [
        {"image_id": 2, "id": 5, "caption": " A dog.\n"},
        {"image_id": 7, "id": 6, "caption": "A cat."},
        {"image_id": 2, "id": 7, "caption": "Two dogs."},
    ]
    return {"images": [*content()["images"], {"id": 9, "file_name": "c.jpg", "width": 1, "height": 1}]} | {
        "annotations": said,
        **changes,
    }


def load_said(tmp_path, value):
    path = tmp_path / "captions.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return load_captions(path)


def test_captions_are_grouped_by_image_in_file_order(tmp_path):
    found = load_said(tmp_path, captions())
    assert [(image.id, image.file_name, image.captions) for image in found.images] == [
        (7, "b.jpg", ("A cat.",)),
        (2, "a.jpg", ("A dog.", "Two dogs.")),
        (9, "c.jpg", ()),
    ]
    assert (found.images[1].width, found.images[1].height) == (8, 6)
    assert found.sha256 != load_said(tmp_path, captions(annotations=[])).sha256


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[", "not JSON"),
        ("[]", "a JSON list, not an object with images and annotations"),
        ({"images": []}, "no key 'annotations'; a COCO-style captions.json has images and annotations"),
        (captions(annotations=[{"image_id": 3, "caption": "x"}]), "image_id 3 is not among the images"),
        (captions(annotations=[{"image_id": 2}]), r"annotations\[0\]: no key 'caption'"),
        (captions(annotations=[{"image_id": 2, "caption": " "}]), "caption must be a text that is not empty"),
        (captions(images=content()["images"] * 2), "image id 7 appears twice"),
    ],
)
def test_captions_that_cannot_be_used(tmp_path, value, says):
    with pytest.raises(DataError, match=says):
        load_said(tmp_path, value)
    with pytest.raises(DataError, match=r"no such file; give a COCO-style captions\.json"):
        load_captions(tmp_path / "other.json")


def test_annotations_keep_their_ids(tmp_path):
    assert [a.id for a in load(tmp_path, content()).annotations] == [1, 2, 3, 4]
    odd = [{"image_id": 2, "category_id": 10, **more} for more in ({}, {"id": None}, {"id": "x"}, {"id": 1.5})]
    assert [a.id for a in load(tmp_path, content(annotations=odd)).annotations] == [None, None, "x", None]
