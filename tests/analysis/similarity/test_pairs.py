"""Sources of pairs, and what is planned from them."""

import dataclasses
import json

import pytest

from agevlm.errors import DataError
from agevlm.scenes.language import Facts
from agevlm.scenes.world import render
from analysis.similarity.negatives import spelled
from analysis.similarity.pairs import from_captions, from_jsonl, from_scenes
from analysis.similarity.planning import make_plan
from tests.analysis.similarity.conftest import CAPTIONS, write_captions, write_instances, write_rows


def planned(material, *kinds, seed=0, limit=None, texts=None):
    return make_plan(material, kinds, seed=seed, limit=limit, texts=texts)


def of_kind(item, kind):
    return [text.text for text in item.texts if text.kind == kind]


def test_scenes_have_a_caption_and_the_same_with_one_object_swapped():
    plan = planned(from_scenes("scenes:12"))
    assert plan.kinds == ("other", "hard", "word-order")
    for item in plan.items:
        (right,), (wrong,) = of_kind(item, "match"), of_kind(item, "hard")
        differing = set(right.replace(",", "").split()) ^ set(wrong.replace(",", "").split())
        assert 2 <= len(differing) <= 4, "one noun for another, with its article at most"
        facts = Facts.of(render(int(item.image.split("/")[1].removesuffix(".png"))))
        words = {word.strip(".,") for word in wrong.split()}
        assert words & (set(facts.absent) | {name + "s" for name in facts.absent} | {"people", "buses"})
    others = [of_kind(item, "other")[0] for item in plan.items]
    assert sorted(others) == sorted(of_kind(item, "match")[0] for item in plan.items), "each serves once"


def test_captions_of_coco(photos, tmp_path):
    plan = planned(from_captions(tmp_path / "captions.json", photos, None))
    assert [item.image for item in plan.items] == list(CAPTIONS)
    for item in plan.items:
        own = CAPTIONS[item.image]
        assert of_kind(item, "match") == own
        assert not set(of_kind(item, "other")) & set(own)
        for kind in ("hard", "word-order"):
            assert not {spelled(text) for text in of_kind(item, kind)} & {spelled(text) for text in own}
    assert plan.lacking == {"other": 0, "hard": 0, "word-order": 0}
    # Of a kind, each stands beside the text that it was made from.
    item = plan.items[0]
    changed = {text.of: text.text for text in item.texts if text.kind == "hard"}
    assert changed[0].startswith("A")
    assert changed[0].endswith(" runs on grass.")
    assert changed[1].endswith("ball") != changed[1].startswith("The dog"), "one of the two is swapped"


def test_what_instances_show_is_not_swapped_in(photos, tmp_path):
    categories = ["dog", "cat", "car"]
    instances = write_instances(
        tmp_path / "i.json", {"a.png": ["dog", "cat"], "c.png": ["car", "dog", "cat"]}, categories
    )
    material = from_captions(tmp_path / "captions.json", photos, instances)
    assert material.notes == (f"2 images are not in {instances}: what is in them is known from their captions alone",)
    plan = planned(material)
    assert of_kind(plan.items[0], "hard")[0] == "A car runs on grass."
    assert [of_kind(item, "hard") for item in plan.items[1:]] == [[], [], []], (
        "names nothing; all is there; names nothing"
    )
    assert plan.lacking["hard"] == 3


def test_a_file_of_pairs(photos, tmp_path):
    rows = [
        {"image": "a.png", "text": " A dog "},
        {"image": "a.png", "text": "A cat", "label": False, "negatives": ["A bird"]},
        "",
        {"image": "b.png", "text": "cups", "negatives": ["forks"]},
        {"image": "b.png", "text": "cups"},
        {"image": "c.png", "text": "nothing", "label": False},
    ]
    material = from_jsonl(write_rows(photos / "pairs.jsonl", rows), None)
    assert material.notes == (
        "1 images have no matching text and are left out",
        "1 texts are there twice for the same image and count once",
    )
    plan = planned(material)
    assert of_kind(plan.items[0], "given") == ["A cat", "A bird"]
    assert of_kind(plan.items[1], "given") == ["forks"]
    assert of_kind(plan.items[1], "other") == ["A dog"]
    assert plan.lacking == {"other": 0, "hard": 0, "given": 0, "word-order": 1}


def test_choices_are_seeded(photos, tmp_path):
    material = from_captions(tmp_path / "captions.json", photos, None)
    assert planned(material) == planned(material)
    assert len({planned(material, seed=seed).items for seed in range(6)}) > 1
    few = planned(material, texts=1, limit=3)
    assert len(few.items) == 3
    assert all(len(of_kind(item, "match")) == 1 for item in few.items)
    assert few.notes == ("3 matching texts are not used: 1 an image at most (--texts)",)
    assert planned(material, "hard").kinds == ("hard",)


def test_keys_say_what_is_compared_and_how(photos, tmp_path):
    item = planned(from_captions(tmp_path / "captions.json", photos, None)).items[0]
    assert item.key("a") == item.key("a") != item.key("b")
    assert dataclasses.replace(item, sha256="0").key("a") != item.key("a")
    assert dataclasses.replace(item, texts=item.texts[:1]).key("a") != item.key("a")


def test_images_without_a_caption_and_repeated_captions_are_told(photos, tmp_path):
    captions = {**CAPTIONS, "a.png": ["one dog", "one dog"], "d.png": []}
    material = from_captions(write_captions(tmp_path / "c.json", captions), photos, None)
    assert len(material.captioned) == 3
    assert material.notes == (
        "1 images have no caption and are left out",
        "1 captions are there twice for the same image and count once",
    )


BAD_ROWS = {
    "not JSON": ('{"image": ', "pairs.jsonl:1: not JSON"),
    "a list": ("[1]", "a JSON list, not an object"),
    "no image": ({"text": "a dog"}, "image must be a text that is not empty"),
    "empty text": ({"image": "a.png", "text": "  "}, "text must be a text that is not empty"),
    "odd label": ({"image": "a.png", "text": "a", "label": "maybe"}, "label must be true or false"),
    "odd negatives": ({"image": "a.png", "text": "a", "negatives": "b"}, "negatives must be a list"),
    "empty negative": ({"image": "a.png", "text": "a", "negatives": [""]}, "negatives must be a text"),
    "both": ({"image": "a.png", "text": "a", "negatives": ["a"]}, "given as matching and as not matching"),
    "one image": ({"image": "a.png", "text": "a"}, "1 images with a matching text"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(photos, case):
    row, message = BAD_ROWS[case]
    with pytest.raises(DataError, match=message):
        from_jsonl(write_rows(photos / "pairs.jsonl", [row]), None)


def test_a_line_of_a_file_of_pairs_ends_at_a_line_feed_alone(photos):
    texts = {name: f"grass\u2028{name}\x85!" for name in CAPTIONS}
    rows = [json.dumps({"image": name, "text": text}, ensure_ascii=False) for name, text in texts.items()]
    path = photos / "p.jsonl"
    path.write_bytes("\r\n".join(rows).encode())
    assert {one.image: one.texts for one in from_jsonl(path, None).captioned} == {n: (t,) for n, t in texts.items()}


def test_bad_sources(photos, tmp_path):
    captions = tmp_path / "captions.json"
    with pytest.raises(DataError, match="no such file"):
        from_jsonl(tmp_path / "none.jsonl", None)
    with pytest.raises(DataError, match="1 of 5 images are missing"):
        from_captions(write_captions(tmp_path / "more.json", {**CAPTIONS, "e.png": ["a dog"]}), photos, None)
    with pytest.raises(DataError, match="leads out of the folder"):
        from_jsonl(write_rows(photos / "p.jsonl", [{"image": f"../{n}.png", "text": "a"} for n in "ab"]), None)
    with pytest.raises(DataError, match="has none of the images"):
        from_captions(captions, photos, write_instances(tmp_path / "i.json", {"x.png": []}, ["dog"]))
    captions.write_text(captions.read_text().replace('"b.png"', '"a.png"'))
    with pytest.raises(DataError, match=r"images are listed more than once: a\.png"):
        from_captions(captions, photos, None)


def test_kinds_that_are_not_there(photos):
    same = from_jsonl(write_rows(photos / "p.jsonl", [{"image": n, "text": "Grass"} for n in CAPTIONS]), None)
    for kind, message in {
        "other": "no image has a partner",
        "hard": "no text names a category",
        "word-order": "no text has two different words",
        "given": "neither `negatives` nor",
    }.items():
        with pytest.raises(DataError, match=message):
            planned(same, kind)
    with pytest.raises(DataError, match="are all texts the same"):
        planned(same)
    some = from_jsonl(write_rows(photos / "p.jsonl", [{"image": n, "text": f"Grass {n}"} for n in CAPTIONS]), None)
    assert planned(some).kinds == ("other", "word-order")
    assert planned(some).notes[0].startswith("no hard texts: no text names a category")


def test_changed_texts_stand_beside_unrelated_images_too(photos, tmp_path):
    plan = planned(from_captions(tmp_path / "captions.json", photos, None))
    items = {item.image: item for item in plan.items}
    of = {text.text: item for item in plan.items for text in item.texts if text.kind == "match"}
    for item in items.values():
        others = {text.of: text.text for text in item.texts if text.kind == "other"}
        for kind in ("hard", "word-order"):
            elsewhere = [text for text in item.texts if text.kind == f"{kind} elsewhere"]
            assert elsewhere
            for text in elsewhere:
                partner = of[others[text.of]]
                assert partner is not item
                beside = {own.of: own.text for own in partner.texts if own.kind == kind}
                assert text.text == beside[text.of], "what the partner's own caption became"
    alone = planned(from_captions(tmp_path / "captions.json", photos, None), "hard")
    assert {text.kind for item in alone.items for text in item.texts} == {"match", "hard"}, (
        "without `other` there is none"
    )
