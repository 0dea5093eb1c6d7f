"""Scores of producers against annotations, with scenes whose regions, colours and places are all known."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from agevlm.data.annotations import load_instances
from agevlm.data.noise import Noise
from agevlm.errors import DataError
from agevlm.scenes.coco import write_coco
from agevlm.scenes.types import split_seeds
from train.teacher.against import KINDS, TEXTS, Asked, questions, score_producer, scores
from train.teacher.gates import EXACT
from train.teacher.producer import Found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("against") / "scenes"
    write_coco(out, split_seeds("test", 25))
    return out


@pytest.fixture(scope="module")
def instances(scenes):
    return load_instances(scenes / "instances.json")


@pytest.fixture(scope="module")
def asked(scenes, instances):
    return questions(instances, [scenes / name for name in TEXTS])


@dataclass
class ByWord:
    """Regions from the annotations, by pycocotools: all objects whose category is a word of the phrase (the first such
    word), whatever else the phrase says. As teachers do."""

    coco: COCO
    version: str = "by word"
    batches: list[int] = field(default_factory=list)

    def produce(self, pictures):
        self.batches.append(len(pictures))
        ids = {image["file_name"]: image["id"] for image in self.coco.dataset["images"]}
        names = {c["name"]: c["id"] for c in self.coco.dataset["categories"]}
        plurals = {"people": "person", "buses": "bus", **{f"{n}s": n for n in names}}
        made = []
        for picture in pictures:
            regions = []
            for phrase in picture.phrases:
                named = [plurals.get(w, w) for w in phrase.split() if plurals.get(w, w) in names]
                anns = self.coco.loadAnns(self.coco.getAnnIds([ids[picture.key]], [names[named[0]]])) if named else []
                masks = [self.coco.annToMask(a).astype(bool) for a in anns]
                regions.append([Found.of(m) for m in masks])
            made.append(regions)
        return made


@pytest.fixture
def by_word(scenes, capsys):
    return ByWord(COCO(scenes / "instances.json"))


def test_what_is_asked_has_the_regions_that_the_texts_say(scenes, instances, asked):
    content = json.loads((scenes / "instances.json").read_text())
    colour = {a["id"]: a["attributes"]["color"] for a in content["annotations"]}
    name = {c["id"]: c["name"] for c in content["categories"]}
    met = dict.fromkeys(KINDS, 0)
    for image in instances.images:
        own = [a for a in content["annotations"] if a["image_id"] == image.id]
        for one in asked[image.file_name]:
            met[one.kind] += bool(one.annotations) or one.kind == "negation"
            here = [own[place] for place in one.annotations]
            if one.kind == "object":
                word = one.phrase.rstrip("s").replace("people", "person").replace("buse", "bus")
                expected = [a for a in own if name[a["category_id"]].rstrip("s") == word.rstrip("s")]
                if one.phrase in name.values():
                    assert here == expected
            elif one.kind == "attribute":
                said, noun = one.phrase.split(maxsplit=1)
                assert all(colour[a["id"]] == said for a in here)
                assert all(name[a["category_id"]] in (noun, noun.rstrip("s")) for a in here if noun != "people")
            elif one.kind == "relation":
                assert len(here) <= 1
                assert all(name[a["category_id"]] == one.phrase.split()[0] for a in here)
            else:
                assert one.phrase.startswith("no ")
                assert not here
    assert min(met.values()) > 5
    assert any(one.kind == "attribute" and not one.annotations for some in asked.values() for one in some)
    assert any(one.kind == "relation" and not one.annotations for some in asked.values() for one in some)


def test_a_teacher_that_heeds_objects_alone_fails_at_the_other_kinds(scenes, instances, asked, by_word):
    outcomes = score_producer(instances, scenes, asked, by_word, EXACT, batch_images=4)
    assert by_word.batches == [4] * 6 + [1]
    found = {score.kind: score for score in scores(outcomes)}
    assert found["object"].iou == (1.0, 1.0, 1.0)
    assert found["object"].false == (0.0, 0.0, 0.0)
    assert found["object"].absent > 20
    # "red dog" where the dog is brown, "no dog" where there is one: a region all the same.
    objects = {image.file_name: set(image.objects) for image in instances.images}
    absent = [(name, one.phrase) for name, some in asked.items() for one in some if one.kind == "attribute"]
    absent = [(n, p) for n, p in absent if not next(o for o in asked[n] if o.phrase == p).annotations]
    there = [bool({p.split()[1], p.split()[1].rstrip("s"), "person" * ("people" in p)} & objects[n]) for n, p in absent]
    assert found["attribute"].false[0] == pytest.approx(np.mean(there))
    assert np.mean(there) > 0.4
    assert 0 < found["negation"].false[0] < 1
    assert found["negation"].there == 0
    assert found["negation"].iou is None
    assert found["relation"].iou[0] == 1.0
    assert found["relation"].false[0] == 1.0


def test_means_are_those_of_the_outcomes_and_intervals_hold_them(scenes, instances, asked, by_word):
    noise = Noise("erode", 0.4)
    outcomes = score_producer(instances, scenes, asked, by_word, EXACT, noise=noise)
    for score in scores(outcomes):
        mine = [o for o in outcomes if o.kind == score.kind]
        there = [o for o in mine if o.there]
        assert (score.there, score.absent) == (len(there), len(mine) - len(there))
        if there:
            for share, values in (
                (score.found, [o.found for o in there]),
                (score.iou, [o.iou for o in there]),
                (score.half, [o.iou >= 0.5 for o in there]),
            ):
                assert share[0] == pytest.approx(np.mean(values))
                assert share[1] <= share[0] <= share[2]
    eroded = next(s for s in scores(outcomes) if s.kind == "object")
    assert 0.2 < eroded.iou[0] < 0.8
    assert eroded.iou[1] < eroded.iou[0] < eroded.iou[2]


@pytest.mark.parametrize("kind", ["dilate", "shift", "drop"])
def test_worse_teachers_score_worse(scenes, instances, asked, by_word, kind):
    def iou(level):
        outcomes = score_producer(instances, scenes, asked, by_word, EXACT, noise=Noise(kind, level))
        return next(s for s in scores(outcomes) if s.kind == "object").iou[0]

    assert 1 == iou(0.0) > iou(0.2) > iou(0.6) > 0


def test_images_of_another_size_and_texts_of_another_set_are_refused(scenes, instances, asked, by_word, tmp_path):
    from PIL import Image

    name = next(iter(asked))
    (tmp_path / name).parent.mkdir()
    Image.new("RGB", (33, 44)).save(tmp_path / name)
    with pytest.raises(DataError, match="33 x 44 pixels, but"):
        score_producer(instances, tmp_path, {name: asked[name]}, by_word, EXACT)
    for line, says in (
        ('{"file_name": "other.png", "mentions": [], "text": ""}', "image other.png is not in"),
        ('{"file_name": "x", "caption": 3}', "not a text with mentions"),
        ("{", "not JSON"),
    ):
        (tmp_path / "texts.jsonl").write_text(line + "\n")
        with pytest.raises(DataError, match=rf"texts.jsonl:1: .*{says}"):
            questions(instances, [tmp_path / "texts.jsonl"])


def test_of_a_white_lamp_the_lamp_is_the_white_one(instances, tmp_path):
    image = instances.images[0]
    ids = [one.id for one in instances.of_image(image.id)]
    mentions = [
        {"start": 4, "end": 9, "kind": "attribute", "annotation_ids": ids[:1]},
        {"start": 10, "end": 15, "kind": "object", "annotation_ids": ids[:1]},
        {"start": 20, "end": 25, "kind": "object", "annotation_ids": ids[1:2]},
    ]
    row = {"file_name": image.file_name, "text": "the white lamps and forks", "mentions": mentions}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    before = questions(instances, [])[image.file_name]
    asked = questions(instances, [tmp_path / "t.jsonl"])[image.file_name]
    assert asked[len(before) :] == [Asked("white lamps", "attribute", (0,)), Asked("forks", "object", (1,))]


def test_crowds_and_categories_without_a_mask_are_not_asked_for(tmp_path):
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    anns = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": square, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": square, "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 3, "iscrowd": 0},
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}],
        "annotations": anns,
        "categories": [{"id": i, "name": n} for i, n in enumerate(("dog", "cat", "cow", "bus"), start=1)],
    }
    (tmp_path / "i.json").write_text(json.dumps(content))
    asked = questions(load_instances(tmp_path / "i.json"), [])["a.png"]
    assert asked == [Asked("dog", "object", (0,)), Asked("bus", "object", ())]
