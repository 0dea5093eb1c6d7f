"""Whatever stands in the files: a sample that can be trained on, or one that is skipped, and never anything else."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from agevlm.checkpoints.tiny import random_age_vlm
from tests.train.toys import SHAPE
from train.data.collate import Collator
from train.data.samples import BadSample
from train.data.sources import open_source
from train.spec import Guidance, SourceSpec

WIDTH, HEIGHT = 12, 8
REGION = [[1, 1, 9, 1, 9, 6]]
TEXT = st.sampled_from(
    ["<image>\nIs there a cup?", "A cup and a dog.", "cup", "", "<image>", "\ud800", "\x00", "\ufdd0"]
)
WILD = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.just("size"), inner, max_size=3),
    max_leaves=8,
)
SEGMENTATION = st.sampled_from([REGION, None, [], {"size": [HEIGHT, WIDTH], "counts": "1"}]) | WILD
IMAGE = st.sampled_from(["a.png", "b.png", "", None, "../a.png", "a\x00", "\ud800", ["a.png"]]) | WILD


def some(known):
    """Mostly of this form: a field may be missing, or hold anything."""
    return st.fixed_dictionaries({}, optional={key: value | WILD for key, value in known.items()})


TURN = some({"from": st.sampled_from(["human", "gpt", "system"]), "value": TEXT})
NUMBER = st.integers(-1, 20)
PHRASE = some({"message": NUMBER, "start": NUMBER, "end": NUMBER, "segmentation": SEGMENTATION})
TALK = st.lists(TURN, max_size=3)
LLAVA = some({"id": WILD, "image": IMAGE, "conversations": TALK, "phrases": st.lists(PHRASE, max_size=2)})
ANNOTATION = st.sampled_from([json.dumps({"segmentation": REGION}), "{}", "["])
EXPRESSIONS = some(
    {
        "sentences": st.lists(some({"sent": TEXT, "raw": TEXT}) | TEXT, max_size=2),
        "answer": st.lists(TEXT, max_size=2),
        "segmentation": SEGMENTATION,
        "raw_anns": ANNOTATION,
        "bbox": st.lists(st.floats(-5, 20), min_size=3, max_size=4),
        "file_name": IMAGE,
        "ref_id": WILD,
    }
)
SPANS = st.lists(NUMBER, max_size=2) | st.lists(st.lists(NUMBER, max_size=2), max_size=2)
GROUNDING = some({"token_positives": SPANS, "rle_masks": st.lists(SEGMENTATION, max_size=2)})
GROUNDED = some(
    {
        "caption": TEXT,
        "groundings": st.dictionaries(TEXT, GROUNDING, max_size=2),
        "refs": st.lists(some({"sentence": TEXT, "segmentation": SEGMENTATION}), max_size=2),
        "file_name": IMAGE,
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images/a.png")
    return folder


@pytest.fixture(scope="module")
def collator():
    return Collator(random_age_vlm(SHAPE, 0)[1], Guidance(tokens="all", answers=True), 200)


FIRST = {"llava": {"conversations": []}, "grounded": {"expressions": ["x"], "bbox": [1, 2, 3, 4], "file_name": "a.png"}}


def check(kind: str, row: object, folder: Path, collator: Collator) -> bool:
    """Whether it could be used."""
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (FIRST[kind], row)))
    options = {"path": str(path), "images": str(folder / "images")} | ({"boxes": "xyxy"} if kind == "grounded" else {})
    source = open_source(SourceSpec(kind, 1.0, options))
    try:
        sample = source.read(len(source) - 1, 0)
        batch = collator([sample], [True])
    except BadSample:
        return False
    assert batch.tokens > 0
    assert batch.phrases + batch.dropped >= len(sample.phrases)
    return True


NOISY = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@NOISY
@given(LLAVA | WILD)
def test_llava(folder, collator, row):
    check("llava", row, folder, collator)


@NOISY
@given(EXPRESSIONS | GROUNDED | WILD)
def test_grounded(folder, collator, row):
    check("grounded", row, folder, collator)


def test_what_is_good_can_be_used(folder, collator):
    turns = [{"from": "human", "value": "<image>\nIs there a cup?"}, {"from": "gpt", "value": "Yes"}]
    phrase = {"message": 0, "start": 19, "end": 22, "segmentation": REGION}
    assert check("llava", {"image": "a.png", "conversations": turns, "phrases": [phrase]}, folder, collator)
    assert check("grounded", {"file_name": "a.png", "answer": ["cup"], "segmentation": REGION}, folder, collator)
    spans = {"cup": {"token_positives": [2, 5], "rle_masks": REGION}}
    assert check("grounded", {"file_name": "a.png", "caption": "A cup.", "groundings": spans}, folder, collator)
    for text in ("\ud800 cup", "cup \ufdd0"):
        odd = [{**turns[0], "value": text}, turns[1]]
        assert not check("llava", {"conversations": odd}, folder, collator)
    (folder / "llava.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(BadSample, match="not JSON"):
        open_source(SourceSpec("llava", 1.0, {"path": str(folder / "llava.jsonl")})).read(0, 0)
