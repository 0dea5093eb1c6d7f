"""Building POPE from annotations: the sampling rules, the files, and agreement with POPE's own negatives."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agevlm.data.annotations import InstanceImage, Instances, load_instances
from agevlm.errors import DataError
from benchmarks.pope.build import build_pope, write_pope
from benchmarks.pope.questions import load_questions
from benchmarks.pope.types import SPLITS

SHARED = Path(__file__).parents[4] / "shared" / "data"


def annotated(images, path="made.json"):
    entries = tuple(InstanceImage(n, name, 10, 10, tuple(objects)) for n, (name, objects) in enumerate(images))
    return Instances(Path(path), "0" * 64, entries, (), {})


FIVE = annotated(
    [
        ("e.jpg", ["cat", "dog", "sofa"]),
        ("d.jpg", ["cat", "dog", "umbrella"]),
        ("c.jpg", ["cat", "car", "bus"]),
        ("b.jpg", ["car", "bus", "truck", "dog"]),
        ("a.jpg", ["car", "apple"]),
    ]
)


def negatives(build, split, image):
    return [q.object_name for q in build.questions if (q.split, q.image, q.label) == (split, image, False)]


def test_popular_takes_the_most_frequent_absent_objects():
    build = build_pope(FIVE, per_image=2)
    # cat, dog and car are in three images each; in file-name order car comes first, then dog, then cat
    assert list(build.object_frequency.items())[:4] == [("car", 3), ("dog", 3), ("cat", 3), ("bus", 2)]
    assert negatives(build, "popular", "a.jpg") == ["dog", "cat"]
    assert negatives(build, "popular", "d.jpg") == ["car", "bus"]


def test_adversarial_takes_the_most_frequent_companion_of_the_object_just_asked_about():
    build = build_pope(FIVE, per_image=2)
    asked = [(q.object_name, q.label) for q in build.questions if (q.split, q.image) == ("adversarial", "e.jpg")]
    # with cat in other images: dog 2 (present), car 1, bus 1, ...; with dog: car 1 (used), bus 1
    assert asked == [("cat", True), ("car", False), ("dog", True), ("bus", False)]


def test_adversarial_falls_back_to_random_and_counts_it():
    images = [("a.jpg", ["x", "y"]), ("b.jpg", ["p", "q"])]
    build = build_pope(annotated(images), per_image=2)
    assert build.fallbacks == {"random": 0, "popular": 0, "adversarial": 4}
    assert sorted(negatives(build, "adversarial", "a.jpg")) == ["p", "q"]


def test_ids_count_from_one_and_alternate_yes_and_no():
    build = build_pope(FIVE, per_image=2)
    for split in SPLITS:
        rows = [q for q in build.questions if q.split == split]
        assert [q.question_id for q in rows] == [str(n) for n in range(1, len(rows) + 1)]
        assert [q.label for q in rows] == [True, False] * (len(rows) // 2)
    # the positives are the same in all three splits, as in POPE
    positives = {tuple((q.image, q.text) for q in build.questions if q.split == s and q.label) for s in SPLITS}
    assert len(positives) == 1


def test_images_with_too_few_objects_are_left_out_with_the_reason():
    build = build_pope(FIVE, per_image=3)
    assert build.unusable == {"fewer than 3 different objects": 1}
    assert build.usable == ("b.jpg", "c.jpg", "d.jpg", "e.jpg")


def test_an_image_without_possible_negatives_is_left_out_until_nothing_changes():
    everything = ["cat", "dog", "sofa", "car", "bus", "truck", "only here"]
    images = [("all.jpg", everything), ("p.jpg", ["cat", "dog"]), ("q.jpg", ["car", "bus"])]
    build = build_pope(annotated(images), per_image=2)
    assert build.usable == ("p.jpg", "q.jpg")
    assert build.unusable == {"fewer than 2 absent objects in the vocabulary": 1}
    assert "only here" not in build.object_frequency


def test_leaving_an_image_out_can_make_the_next_one_unusable():
    # big.jpg has the whole vocabulary; once it is out, "only" is too, and mid.jpg has the whole rest
    images = [("big.jpg", ["a", "b", "c", "only"]), ("mid.jpg", ["a", "b", "c"]), ("end.jpg", ["a"])]
    build = build_pope(annotated([*images, ("far.jpg", ["b"])]), per_image=1)
    assert build.usable == ("end.jpg", "far.jpg")
    assert build.unusable == {"fewer than 1 absent objects in the vocabulary": 2}


def test_sampling_by_number():
    images = [(f"{n:02}.jpg", [f"o{n % 7}", f"o{(n + 1) % 7}", f"o{(n + 2) % 7}"]) for n in range(30)]
    builds = [build_pope(annotated(images), num_images=12, seed=seed) for seed in (0, 0, 1)]
    assert builds[0] == builds[1]
    assert builds[0].sampled != builds[2].sampled
    assert len(set(builds[0].sampled)) == 12
    assert len(builds[0].questions) == 3 * 12 * 6


def test_the_order_of_the_images_in_the_file_does_not_matter():
    backwards = annotated([(image.file_name, image.objects) for image in reversed(FIVE.images)])
    assert build_pope(FIVE, num_images=3, per_image=2) == build_pope(backwards, num_images=3, per_image=2)


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ("umbrella", "Is there an umbrella in the image?"),
        ("hour glass", "Is there an hour glass in the image?"),
        ("unicycle", "Is there a unicycle in the image?"),
        ("dining table", "Is there a dining table in the image?"),
        (r"back\slash {}", r"Is there a back\slash {} in the image?"),
    ],
)
def test_articles(obj, text):
    build = build_pope(annotated([("a.jpg", [obj]), ("b.jpg", ["cat"])]), per_image=1)
    assert text in {q.text for q in build.questions}


def test_other_templates_keep_every_other_word():
    images = annotated([("a.jpg", ["apple"]), ("b.jpg", ["cat"])])
    asked = {q.text for q in build_pope(images, per_image=1, template="An image: a {} at a place?").questions}
    assert asked == {"An image: an apple at a place?", "An image: a cat at a place?"}
    asked = {q.text for q in build_pope(images, per_image=1, template="A {}?").questions}
    assert asked == {"An apple?", "A cat?"}
    asked = {q.text for q in build_pope(images, per_image=1, template="Is the area {}?").questions}
    assert asked == {"Is the area apple?", "Is the area cat?"}
    asked = {q.text for q in build_pope(images, per_image=1, template="Do you see {}, a thing?").questions}
    assert asked == {"Do you see apple, a thing?", "Do you see cat, a thing?"}


@pytest.mark.parametrize(
    ("instances", "settings_", "message"),
    [
        (annotated([("a.jpg", ["x"]), ("a.jpg", ["y"])]), {"per_image": 1}, "images 0 and 1 have the same file name"),
        (annotated([("a.jpg", ["x"])]), {"per_image": 3}, "1 with fewer than 3 different objects"),
        (annotated([("a.jpg", ["x"])]), {"per_image": 1}, "1 with fewer than 1 absent objects in the vocabulary"),
        (FIVE, {"per_image": 2, "num_images": 6}, "6 images asked for, 5 of 5 are usable"),
        (FIVE, {"per_image": 2, "num_images": 1}, "sample more images"),
        (FIVE, {"num_images": 0}, "at least 1"),
        (FIVE, {"per_image": 0}, "at least 1"),
        (FIVE, {"template": "Is there a dog?"}, "exactly once"),
        (annotated([]), {}, "none of 0 images is usable"),
    ],
)
def test_errors(instances, settings_, message):
    with pytest.raises(DataError, match=message):
        build_pope(instances, **settings_)


def test_written_files_load_as_the_same_questions(tmp_path):
    build = build_pope(FIVE, per_image=2, seed=3)
    written = write_pope(build, tmp_path / "mine")
    assert [path.name for path in written] == [*(f"mine_pope_{split}.json" for split in SPLITS), "pope.json"]
    line = (tmp_path / "mine" / "mine_pope_random.json").read_text().split("\n")[0]
    assert line == '{"question_id": 1, "image": "a.jpg", "text": "Is there a car in the image?", "label": "yes"}'
    (loaded,) = load_questions([tmp_path / "mine"])
    assert loaded.name == "mine"
    assert loaded.content_sha256 == build.content_sha256
    strip = [(q.split, q.question_id, q.image, q.text, q.label, q.object_name) for q in loaded.questions]
    assert strip == [(q.split, q.question_id, q.image, q.text, q.label, q.object_name) for q in build.questions]


def test_manifest(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 5, "height": 5} for n in range(3)],
        "annotations": [{"image_id": 0, "category_id": 1}, {"image_id": 1, "category_id": 2}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }))  # fmt: skip
    build = build_pope(load_instances(path), per_image=1, seed=5)
    manifest = json.loads(write_pope(build, tmp_path / "out", name="pets")[-1].read_text())
    assert manifest == {
        "kind": "pope-build",
        "name": "pets",
        "annotations": {"file": "instances.json", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "seed": 5,
        "per_image": 1,
        "template": "Is there a {} in the image?",
        "images": {"total": 3, "usable": 2, "sampled": 2, "unusable": {"fewer than 1 different objects": 1}},
        "object_frequency": {"cat": 1, "dog": 1},
        "questions": {"random": 4, "popular": 4, "adversarial": 4},
        "random_fallbacks": {"random": 0, "popular": 0, "adversarial": 2},
        "content_sha256": build.content_sha256,
    }


def test_writing_where_it_cannot_be(tmp_path):
    build = build_pope(FIVE, per_image=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_pope(build, tmp_path / "file")
    with pytest.raises(DataError, match="without slashes"):
        write_pope(build, tmp_path, name="a/b")


OBJECTS = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(OBJECTS, min_size=1, max_size=8), st.integers(1, 3), st.integers(0, 3))
def test_build_properties(lists, per_image, seed):
    instances = annotated([(f"{n}.jpg", objects) for n, objects in enumerate(lists)])
    present = {image.file_name: image.objects for image in instances.images}
    try:
        build = build_pope(instances, per_image=per_image, seed=seed)
    except DataError:
        return
    assert build == build_pope(instances, per_image=per_image, seed=seed)
    assert len(build.usable) + sum(build.unusable.values()) == len(lists)
    for split in SPLITS:
        rows = [q for q in build.questions if q.split == split]
        assert Counter(q.label for q in rows) == {True: len(rows) / 2, False: len(rows) / 2}
        assert all((q.object_name in present[q.image]) == q.label for q in rows)
        assert len({(q.image, q.object_name) for q in rows}) == len(rows)
        assert Counter(q.image for q in rows) == dict.fromkeys(build.sampled, 2 * per_image)
        assert {q.object_name for q in rows} <= build.object_frequency.keys()


@pytest.mark.skipif(not (SHARED / "photos").exists(), reason="the shared photos are not here")
def test_photos():
    build = build_pope(load_instances(SHARED / "photos" / "instances.json"))
    assert len(build.usable) == 11
    assert build.unusable == {"fewer than 3 different objects": 13}
    assert len(build.questions) == 3 * 11 * 6


@pytest.mark.skipif(not (SHARED / "pope").exists(), reason="the shared POPE files are not here")
def test_the_official_negatives_come_out_of_the_official_objects():
    lines = (SHARED / "pope" / "objects_500.jsonl").read_text().splitlines()
    objects = {row["image"]: row["objects"] for row in map(json.loads, lines)}
    (official,) = load_questions([SHARED / "pope" / "official" / f"coco_pope_{split}.json" for split in SPLITS])
    images = list(dict.fromkeys(question.image for question in official.questions))
    # names that sort as POPE's own image order, which decides between objects of equal frequency
    alias = {image: f"{n:03}" for n, image in enumerate(images)}
    build = build_pope(annotated([(alias[image], objects[image]) for image in images]))
    built = {(q.split, q.question_id): (q.image, q.text, q.label) for q in build.questions}
    same = Counter(
        (q.split, q.label)
        for q in official.questions
        if built[q.split, q.question_id] == (alias[q.image], q.text, q.label)
    )
    assert [same[split, True] for split in SPLITS] == [1500, 1500, 1500]
    assert same["popular", False] == 1500
    # in three places every companion is present or used up, and POPE drew at random
    assert same["adversarial", False] >= 1497
    assert build.fallbacks["adversarial"] == 3
