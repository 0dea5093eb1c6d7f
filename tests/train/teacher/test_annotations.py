"""Regions of annotated objects against pycocotools."""

import json

import numpy as np
import pytest
from PIL import Image

from agevlm.data.annotations import load_instances
from agevlm.data.images import decode, read_file
from agevlm.data.masks import union_of
from agevlm.errors import DataError
from train.teacher.annotations import AnnotationDetector, AnnotationProducer
from train.teacher.producer import Picture

SQUARE = [[2, 1, 6, 1, 6, 5, 2, 5]]


def annotations(tmp_path, *objects, images=({"id": 1, "file_name": "val/a.png", "width": 10, "height": 8},)):
    content = {
        "images": list(images),
        "annotations": [{"image_id": 1, **each} for each in objects],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return load_instances(path)


def picture(*phrases, key="val/a.png", size=(10, 8)):
    return Picture(key, Image.new("RGB", size), phrases)


def test_boxes_are_those_of_the_category_that_a_phrase_names(tmp_path):
    detector = AnnotationDetector(
        annotations(
            tmp_path,
            {"category_id": 1, "bbox": [2, 1, 4, 4.5]},
            {"category_id": 2, "bbox": [0, 0, 1, 1]},
            {"category_id": 1, "bbox": [5, 5, 2, 2]},
            {"category_id": 1, "bbox": [0, 0, 10, 8], "iscrowd": 1},
            {"category_id": 2, "segmentation": SQUARE},
        )
    )
    (found,) = detector.detect([picture("two cats", "no dog", "a horse")])
    assert [[(box.box, box.score) for box in phrase] for phrase in found] == [
        [((2, 1, 6, 5.5), 1), ((5, 5, 7, 7), 1)],
        [((0, 0, 1, 1), 1), ((2, 1, 6, 5), 1)],
        [],
    ]


def test_regions_are_as_annotated_with_crowds(tmp_path):
    rle = {"size": [8, 10], "counts": [0, 8, 72]}
    producer = AnnotationProducer(
        annotations(
            tmp_path, {"category_id": 1, "segmentation": SQUARE}, {"category_id": 1, "segmentation": rle, "iscrowd": 1}
        )
    )
    ((cats, dogs),) = producer.produce([picture("cats", "dogs")])
    assert dogs == []
    square, column = np.zeros((8, 10), bool), np.zeros((8, 10), bool)
    square[1:5, 2:6], column[:, 0] = True, True
    assert [np.array_equal(found.mask, mask) for found, mask in zip(cats, (square, column), strict=True)] == [
        True,
        True,
    ]
    assert [found.box for found in cats] == [(2, 1, 6, 5), (0, 0, 1, 8)]
    assert {(found.score, found.predicted_iou, found.stability) for found in cats} == {(1, 1, 1)}


def test_images_are_known_by_file_name_or_by_its_last_part(tmp_path):
    two = (
        {"id": 1, "file_name": "val/a.png", "width": 10, "height": 8},
        {"id": 2, "file_name": "b.png", "width": 4, "height": 4},
    )
    known = AnnotationDetector(annotations(tmp_path, images=two))
    assert [known.image_of(picture(key=key)).id for key in ("val/a.png", "a.png", "images/a.png")] == [1, 1, 1]
    assert known.image_of(picture(key="coco/b.png", size=(4, 4))).id == 2


def test_images_of_one_last_part_are_told_apart_by_the_whole_name_alone(tmp_path):
    names = ("x/a.png", "y/a.png", "x/b.png", "b.png")
    twins = [{"id": i, "file_name": name, "width": 10, "height": 8} for i, name in enumerate(names)]
    known = AnnotationDetector(annotations(tmp_path, images=twins))
    assert [known.image_of(picture(key=name)).id for name in names] == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"image a\.png: .*instances\.json has 2 images of that name"):
        known.detect([picture("cat", key="a.png")])


def test_a_picture_that_is_not_annotated_or_of_another_size_is_refused(tmp_path):
    producer = AnnotationProducer(annotations(tmp_path))
    with pytest.raises(DataError, match=r"image c\.png: .*instances\.json has no image of that name"):
        producer.produce([picture("cat"), picture("cat", key="c.png")])
    with pytest.raises(DataError, match=r"image val/a\.png: is 8 x 10 pixels, but .* says 10 x 8"):
        producer.produce([picture("cat", size=(8, 10))])


def test_an_object_without_a_region_or_with_a_damaged_one_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"image val/a\.png: an annotation of cat in .* has no segmentation"):
        AnnotationProducer(annotations(tmp_path, {"category_id": 1})).produce([picture("dog", "cat")])
    wrong = {"size": [4, 4], "counts": [16]}
    with pytest.raises(DataError, match=r"image val/a\.png: an annotation of cat in .*: an RLE of size"):
        AnnotationProducer(annotations(tmp_path, {"category_id": 1, "segmentation": wrong})).produce([picture("cat")])


def test_the_version_is_the_files(tmp_path):
    first = AnnotationProducer(annotations(tmp_path)).version
    assert (
        AnnotationProducer(annotations(tmp_path)).version == AnnotationDetector(annotations(tmp_path)).version == first
    )
    assert AnnotationProducer(annotations(tmp_path, {"category_id": 1})).version != first


def test_unions_of_real_categories_equal_pycocotools(shared):
    from pycocotools.coco import COCO

    path = shared / "photos" / "instances.json"
    instances, coco = load_instances(path), COCO(str(path))
    names = {entry["id"]: entry["name"] for entry in coco.dataset["categories"]}
    pictures = [
        Picture(image.file_name, decode(read_file(path.parent / "images" / image.file_name)), tuple(names.values()))
        for image in instances.images
    ]
    made = AnnotationProducer(instances).produce(pictures)
    compared = 0
    for image, shown, found in zip(instances.images, pictures, made, strict=True):
        for category, regions in zip(names, found, strict=True):
            known = coco.loadAnns(coco.getAnnIds(imgIds=[image.id], catIds=[category]))
            assert len(regions) == len(known)
            expected = np.zeros((image.height, image.width), bool)
            for each in known:
                expected |= coco.annToMask(each).astype(bool)
            assert np.array_equal(union_of([region.mask for region in regions], *expected.shape), expected)
            compared += len(known)
        assert shown.image.size == (image.width, image.height)
    assert (len(pictures), compared) == (24, len(instances.annotations))
    boxes = AnnotationDetector(instances).detect(pictures)
    assert sum(len(phrase) for shown in boxes for phrase in shown) == sum(
        not each.iscrowd for each in instances.annotations
    )
