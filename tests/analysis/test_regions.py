"""Phrases with masks from every source, against masks that are known beforehand."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agevlm.data.masks import encode_mask
from agevlm.data.panoptic import load_panoptic
from agevlm.errors import DataError
from agevlm.scenes.coco import write_coco
from agevlm.scenes.types import split_seeds
from agevlm.scenes.world import render
from analysis.regions import EMPTY, UNPLACED, Region, load_regions, with_article
from train.data.region_table import Manifest, PartFacts, write_manifest, write_part

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
WIDTH, HEIGHT = 8, 6


def box(x0, y0, x1, y1, shape=(HEIGHT, WIDTH)):
    mask = np.zeros(shape, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def polygon(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def rle(mask):
    return {"size": list(mask.shape), "counts": encode_mask(mask).decode()}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


def annotations(**changes):
    sizes = {"width": WIDTH, "height": HEIGHT}
    base = {
        "images": [{"id": 1, "file_name": "a.png", **sizes}, {"id": 2, "file_name": "b.png", **sizes}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "apple"}],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 1, "segmentation": polygon(0, 0, 2, 3)},
            {"id": 12, "image_id": 1, "category_id": 2, "segmentation": rle(box(4, 4, 8, 6))},
            {"id": 13, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": rle(box(6, 0, 8, 1))},
            {"id": 14, "image_id": 2, "category_id": 2, "segmentation": rle(box(0, 0, 0, 0))},
        ],
    }
    return base | changes


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_category_s_instances_are_one_region_and_empty_ones_are_named(tmp_path, images):
    found = load_regions(write(tmp_path / "instances.json", annotations()), images)
    assert [(r.image, r.phrase, r.group, r.answer) for r in found.regions] == [
        ("a.png", "cat", "object", "yes"),
        ("a.png", "apple", "object", "yes"),
    ]
    assert (found.regions[0].mask == box(0, 0, 2, 3) | box(6, 0, 8, 1)).all(), "a crowd belongs to it"
    assert (found.regions[1].mask == box(4, 4, 8, 6)).all()
    assert found.regions[1].share == 8 / 48
    assert found.left_out == {EMPTY: ("b.png|apple",)}
    assert "1 of the phrases" in found.notes[0]


def test_an_instance_without_segmentation_takes_its_whole_category_out(tmp_path, images):
    content = annotations()
    content["annotations"].append({"id": 15, "image_id": 1, "category_id": 1})
    found = load_regions(write(tmp_path / "i.json", content), images)
    assert [r.phrase for r in found.regions] == ["apple"]
    assert ("a.png|cat",) in found.left_out.values()


def test_questions_say_where_the_phrase_stands(tmp_path, images):
    for one in load_regions(write(tmp_path / "i.json", annotations()), images).regions:
        text, start, end = one.asked()
        assert text == f"Is there a{'n' * (one.phrase == 'apple')} {one.phrase} in the image?"
        assert text[start:end] == one.phrase


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("dog", "a dog"),
        ("hour glass", "an hour glass"),
        ("unicorn", "a unicorn"),
        ("the man", "the man"),
        ("two dogs", "two dogs"),
        ("Another cup", "Another cup"),
        ("anthill", "an anthill"),
    ],
)
def test_articles(phrase, said):
    assert with_article(phrase) == said


def test_a_phrase_is_found_as_whole_words_where_no_place_is_given():
    held = Region("a", "art", b"", (1, 1), question="Does the party show Art there?")
    assert held.asked()[1:] == (20, 23)
    with pytest.raises(DataError, match="does not hold"):
        Region("a", "art", b"", (1, 1), question="Is this a party?").asked()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": rle(box(0, 0, 1, 1, (8, 6)))}]},
         "a.png: cat: an RLE of size"),
        ({"annotations": []}, "no phrase with a mask"),
        ({"images": [{"id": 1, "file_name": "c.png", "width": WIDTH, "height": HEIGHT}],
          "annotations": [{"image_id": 1, "category_id": 1, "segmentation": polygon(0, 0, 2, 3)}]}, "are missing"),
    ],
)  # fmt: skip
def test_instances_that_cannot_be_used_are_refused(tmp_path, images, changes, message):
    with pytest.raises(DataError, match=message):
        load_regions(write(tmp_path / "i.json", annotations(**changes)), images)


def test_an_image_of_another_size_than_its_masks_is_refused(tmp_path, images):
    Image.new("RGB", (HEIGHT, WIDTH)).save(images / "a.png")
    found = load_regions(write(tmp_path / "i.json", annotations()), images)
    with pytest.raises(DataError, match=r"image a.png: is 6 x 8 .* 'a.png\|cat' is 8 x 6; .*never resized"):
        found.open("a.png")


def test_a_limit_takes_whole_images_and_a_larger_one_the_same_and_more(tmp_path, images):
    content = annotations()
    content["annotations"][3]["segmentation"] = polygon(0, 0, 1, 1)
    path = write(tmp_path / "i.json", content)
    one, all_ = load_regions(path, images, limit=1), load_regions(path, images, limit=2)
    assert len(one.by_image) == 1
    assert set(one.regions) == {r for r in all_.regions if r.image in one.by_image}
    assert len(all_.by_image) == 2
    assert one.digest != all_.digest == load_regions(path, images).digest


def panoptic(tmp_path, numbers, **changes):
    folder = tmp_path / "panoptic"
    folder.mkdir()
    numbers = np.asarray(numbers)
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "a-segments.png")
    segments = [{"id": 70000, "category_id": 1}, {"id": 300, "category_id": 1}, {"id": 5, "category_id": 9}]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 9, "name": "wall-other-merged", "isthing": 0}],
        "annotations": [{"image_id": 1, "file_name": "a-segments.png", "segments_info": segments}],
    }
    return write(tmp_path / "panoptic.json", content | changes)


def test_panoptic_segments_are_read_from_their_colours(tmp_path, images):
    numbers = np.zeros((HEIGHT, WIDTH), int)
    numbers[0:2, 0:3], numbers[3:4, 5:8], numbers[5:6, :] = 70000, 300, 5
    found = load_regions(panoptic(tmp_path, numbers), images)
    assert [(r.phrase, r.group) for r in found.regions] == [("cat", "object"), ("wall", "stuff")]
    assert (found.regions[0].mask == box(0, 0, 3, 2) | box(5, 3, 8, 4)).all()
    assert (found.regions[1].mask == box(0, 5, 8, 6)).all()


def test_panoptic_files_that_do_not_belong_together_are_refused(tmp_path, images):
    path = panoptic(tmp_path, np.full((HEIGHT, WIDTH), 6))
    with pytest.raises(DataError, match=r"colour 6 .* is no segment"):
        load_regions(path, images)
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "panoptic" / "a-segments.png")
    with pytest.raises(DataError, match=r"6 x 8 pixels, but image a\.png has 8 x 6; masks are never resized"):
        load_regions(path, images)
    with pytest.raises(DataError, match="--segments DIR"):
        load_regions(write(tmp_path / "elsewhere.json", path.read_text()), images)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 3, "file_name": "a", "segments_info": []}, "image_id 3 is not among"),
        ({"image_id": 1, "file_name": "a", "segments_info": [{"id": 0, "category_id": 1}]}, "whole number from 1"),
        ({"image_id": 1, "file_name": "a", "segments_info": [{"id": 1, "category_id": 2}]}, "category_id 2"),
        ({"image_id": 1, "file_name": "a", "segments_info": [{"id": 1, "category_id": 1}] * 2}, "comes twice"),
        ({"image_id": 1, "segments_info": []}, "no key 'file_name'"),
    ],
)
def test_damaged_panoptic_files_name_the_entry(tmp_path, entry, message):
    with pytest.raises(DataError, match=message) as caught:
        load_panoptic(panoptic(tmp_path, np.zeros((HEIGHT, WIDTH)), annotations=[entry]))
    assert "annotations[0]" in str(caught.value)


ROW = {"image": "a.png", "phrase": "the left cat", "segmentation": polygon(0, 0, 2, 3)}


@pytest.mark.parametrize("as_lines", [False, True])
def test_phrases_come_as_a_list_or_as_lines(tmp_path, images, as_lines):
    rows = [
        ROW,
        {"file_name": "b.png", "sentences": [{"sent": "cat on the right", "raw": "X"}, "it"], "height": HEIGHT}
        | {"width": WIDTH, "segmentation": rle(box(1, 1, 3, 3)), "question": "Do you see it?"},
        {"image": "a.png", "phrase": "red", "segmentation": polygon(2, 2, 4, 4), "group": "attribute"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) if as_lines else json.dumps(rows)
    found = load_regions(write(tmp_path / ("r.jsonl" if as_lines else "r.json"), text), images)
    assert [(r.image, r.phrase, r.group) for r in found.regions] == [
        ("a.png", "the left cat", "phrase"),
        ("a.png", "red", "attribute"),
        ("b.png", "it", "phrase"),
    ]
    assert (found.regions[2].mask == box(1, 1, 3, 3)).all()
    assert found.left_out == {UNPLACED: ("b.png|cat on the right",)}, "its question does not hold it"


def test_refcoco_rows_refer_to_instances(tmp_path, images):
    known = write(tmp_path / "i.json", annotations())
    # RefCOCO's own file names end in the annotation's number.
    row = {"ref_id": 9, "ann_id": 12, "image_id": 1, "file_name": "a_12.png", "sentences": [{"sent": "green one"}]}
    found = load_regions(write(tmp_path / "refs.json", [row]), images, instances=known)
    assert [(r.image, r.phrase) for r in found.regions] == [("a.png", "green one")]
    assert (found.regions[0].mask == box(4, 4, 8, 6)).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png", "phrase": "cat"}, "no mask"),
        ({**ROW, "phrase": " "}, "no phrase"),
        ({"image": "a.png", "segmentation": polygon(0, 0, 2, 3)}, "no phrase"),
        ({"phrase": "cat", "segmentation": polygon(0, 0, 2, 3)}, "no image"),
        ({**ROW, "segmentation": rle(box(0, 0, 1, 1, (8, 6)))}, "an RLE of size"),
        ({**ROW, "question": ""}, "question must be"),
        ({"image_id": 7, "ann_id": 12, "phrase": "cat"}, "image_id 7 is not in"),
        ({"image_id": 1, "ann_id": 99, "phrase": "cat"}, "ann_id 99 is not in"),
        ({"image_id": 2, "ann_id": 12, "phrase": "cat"}, "is of image a.png, but the row of b.png"),
        ("a.png", "a str, not an object"),
    ],
)
def test_rows_that_lack_something_are_named(tmp_path, images, row, message):
    known = write(tmp_path / "i.json", annotations())
    with pytest.raises(DataError, match=message) as caught:
        load_regions(write(tmp_path / "r.jsonl", json.dumps(row)), images, instances=known)
    assert "r.jsonl:1" in str(caught.value)


def test_sources_that_are_none_are_refused(tmp_path, images):
    for source, message in (
        (tmp_path / "absent.json", "no such file"),
        (write(tmp_path / "refs(unc).p", "x"), "convert it to JSON"),
        (write(tmp_path / "x.json", "{"), "not JSON"),
        (write(tmp_path / "x.jsonl", "{\n"), "x.jsonl:1: not JSON"),
        (images, "agevlm-train masks"),
        ("scenes:1", "2 to"),
    ):
        with pytest.raises(DataError, match=message):
            load_regions(source, images)
    with pytest.raises(DataError, match="--images DIR"):
        load_regions(tmp_path / "absent.json")


def test_the_teacher_s_kept_masks_are_one_region(tmp_path, images):
    folder = tmp_path / "masks"
    masks = [encode_mask(box(0, 0, 1, 1)), encode_mask(box(4, 0, 6, 1)), encode_mask(box(0, 5, 8, 6))]
    row = {
        "sample": 0, "sample_id": "s", "image": "a.png", "image_sha256": "", "height": HEIGHT, "width": WIDTH,
        "message": 1, "start": 0, "end": 4, "phrase": "cats", "boxes": [], "masks": masks, "scores": [],
        "predicted_iou": [], "stability": [], "kept": 2, "dropped": "", "producer": "p",
    }  # fmt: skip
    rows = [
        row,
        row | {"phrase": "Cats", "start": 9},
        row | {"phrase": "dog", "kept": 0},
        row | {"phrase": "cup", "image": ""},
    ]
    write_part(folder, 0, rows, PartFacts(1, {}))
    write_manifest(folder, Manifest("llava", "x", 1, 1, 1.0, 0, "tiny SAM", "", {}))
    assert pq.read_table(folder / "parts" / "000000.parquet").num_rows == 4
    found = load_regions(folder, images)
    assert [(r.image, r.phrase, r.group) for r in found.regions] == [("a.png", "cats", "phrase")]
    assert (found.regions[0].mask == box(0, 0, 1, 1) | box(4, 0, 6, 1)).all(), "the third was not kept"
    assert sorted(len(ids) for ids in found.left_out.values()) == [1, 1, 1]
    assert "tiny SAM" in found.notes[0]
    (folder / "parts" / "000000.parquet").unlink()
    with pytest.raises(DataError, match="missing"):
        load_regions(folder, images)


@pytest.fixture(scope="module")
def scenes():
    return load_regions("scenes:12")


def test_scenes_ask_as_often_for_what_is_not_so(scenes):
    groups = {r.group for r in scenes.regions}
    assert groups == {"object", "attribute", "relation", "negation"}
    for group in groups:
        answers = [r.answer for r in (*scenes.regions, *scenes.absent) if r.group == group]
        assert answers.count("yes") == answers.count("no") > 0
    for one in (*scenes.regions, *scenes.absent):
        text, start, end = one.asked()
        assert text[start:end] == one.phrase
        assert bool(one.share) == (one in scenes.regions)


def test_scenes_masks_are_those_of_the_objects_that_words_are_said_of(scenes):
    checked = set()
    for one in scenes.regions:
        scene = render(int(Path(one.image).stem))
        words = one.asked()[0].rstrip("?").split()
        if one.group == "attribute":
            category = words[words.index(one.phrase) + 1]
            of = [i for i in scene.of(category) if scene.instances[i].colour == one.phrase]
        elif one.group == "relation":
            of = [*scene.of(words[2]), *scene.of(words[-1])]
        else:
            of = scene.of(one.phrase if one.group == "object" else words[3])
        assert of
        assert (one.mask == scene.mask(*of)).all()
        assert np.asarray(scenes.open(one.image)).shape[:2] == one.size
        checked.add(one.group)
    assert len(checked) == 4


def test_scenes_are_the_same_for_the_same_seed(scenes):
    again, other = load_regions("scenes:12"), load_regions("scenes:12", seed=1)
    assert again.digest == scenes.digest != other.digest
    assert load_regions("scenes:12", limit=3).by_image.keys() == set(list(scenes.by_image)[:3])


def test_rendered_scenes_on_disk_are_instances(tmp_path):
    written = write_coco(tmp_path / "world", split_seeds("test", 3))
    found = load_regions(written.annotations, written.out)
    for one in found.regions:
        scene = render(int(Path(one.image).stem))
        assert (one.mask == scene.mask(*scene.of(one.phrase))).all()
        found.open(one.image)
    assert len(found.by_image) == 3


def test_photographs_with_annotations_of_people():
    if not (PHOTOS / "instances.json").is_file():
        pytest.skip(f"the public data folder {PHOTOS} is not on this machine")
    from pycocotools.coco import COCO

    found, coco = load_regions(PHOTOS / "instances.json", PHOTOS / "images"), COCO(str(PHOTOS / "instances.json"))
    assert found.regions
    images = {entry["file_name"]: key for key, entry in coco.imgs.items()}
    names = {entry["name"]: key for key, entry in coco.cats.items()}
    for one in found.regions:
        found.open(one.image)
        theirs = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(images[one.image], names[one.phrase]))]
        assert (one.mask == np.any(theirs, axis=0)).all()
