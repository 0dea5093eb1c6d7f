"""Boxes of phrases against transformers' own processor, row by row."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.ops import box_iou

from agevlm.errors import CheckpointError, TrainError
from train.teacher.grounding_dino import GroundingDinoDetector
from train.teacher.producer import Detected, Picture

PHRASES = ("the cat", "two dogs of mine", "Xylophone", "a9")
EVERYTHING = {"threshold": 0.0, "nms": 1.0}
"""All 24 queries of the tiny models are found."""


def load(folder, **settings):
    return GroundingDinoDetector.open(folder, device="cpu", **settings)


@pytest.fixture(scope="module", params=["grounding-dino", "mm-grounding-dino"])
def detector(request, detectors):
    return load(detectors[request.param], **EVERYTHING)


@pytest.fixture(scope="module")
def one(detectors):
    return load(detectors["grounding-dino"], **EVERYTHING)


@pytest.fixture(scope="module")
def large(detectors):
    """Its boxes overlap, and reach beyond the left and the lower edge."""
    detector = load(detectors["grounding-dino"], **EVERYTHING)
    with torch.no_grad():
        detector.model.bbox_embed[-1].layers[-1].bias += torch.tensor([-1.0, 1.0, 2.0, 2.0])
    return detector


def picture(image, *phrases):
    return Picture("a.png", image, phrases)


def transformers_says(detector, image, texts, columns, threshold):
    """transformers' post-processing of a row, of the logits of these tokens alone: boxes (n, 4) and scores (n)."""
    inputs = detector.processor(images=image, text=[texts], return_tensors="pt")
    with torch.inference_mode():
        outputs = detector.model(**inputs)
    if columns is not None:
        kept = torch.full_like(outputs.logits, -torch.inf)
        kept[..., columns] = outputs.logits[..., columns]
        outputs.logits = kept
    (said,) = detector.processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=threshold, target_sizes=[(image.height, image.width)]
    )
    limits = torch.tensor([image.width, image.height, image.width, image.height])
    return torch.clamp(said["boxes"], torch.zeros(4), limits), said["scores"]


def boxes_of(found: list[Detected]):
    return torch.tensor([box.box for box in found]).reshape(-1, 4), torch.tensor([box.score for box in found])


def assert_same(found: list[Detected], boxes, scores):
    order = scores.argsort(descending=True)
    got_boxes, got_scores = boxes_of(found)
    torch.testing.assert_close(got_scores, scores[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(got_boxes, boxes[order], atol=1e-3, rtol=0)


@pytest.mark.parametrize("which", [0, 2, 3])
@pytest.mark.parametrize("threshold", [0.0, 0.46])
def test_rows_equal_transformers_on_the_phrases_tokens(detector, images, which, threshold):
    image = images[which]
    (found,) = replace(detector, threshold=threshold).detect([picture(image, *PHRASES)])
    numbers = []
    for phrase, boxes in zip(PHRASES, found, strict=True):
        tokens = detector.processor.tokenizer(f"{phrase.lower()}.")["input_ids"]
        of_phrase = range(1, len(tokens) - 2)  # [CLS] ... . [SEP]
        assert_same(boxes, *transformers_says(detector, image, [phrase], list(of_phrase), threshold))
        numbers.append(len(boxes))
    assert all(numbers) if threshold == 0 else min(numbers) < 24  # the threshold cuts


def test_scores_are_transformers_own_where_its_best_token_is_the_phrases(detector, images):
    (found,) = detector.detect([picture(images[0], *PHRASES)])
    equal = 0
    for phrase, boxes in zip(PHRASES, found, strict=True):
        theirs, scores = transformers_says(detector, images[0], [phrase], None, 0.0)
        ours, own = boxes_of(boxes)
        match = (torch.cdist(ours, theirs)).argmin(1)
        assert (own <= scores[match] + 1e-5).all()
        equal += int(((own - scores[match]).abs() < 1e-5).sum())
    assert equal >= 24


@pytest.mark.parametrize("mode", ["rows", "joint"])
def test_boxes_follow_the_image_and_the_phrase(detector, images, mode):
    (first, second) = replace(detector, mode=mode).detect([picture(image, *PHRASES) for image in images[:2]])
    for one, other in ((first[0], second[0]), (first[0], first[1]), (first[1], first[2])):
        shift = boxes_of(one)[0] - boxes_of(other)[0]
        assert float(shift.abs().max()) > 0.5
        assert float((boxes_of(one)[1] - boxes_of(other)[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("mode", ["rows", "joint"])
def test_what_else_is_in_the_batch_makes_no_difference(detector, images, mode):
    pictures = [
        picture(images[0], "the cat"),
        picture(images[2], "two dogs of mine", "a9"),
        picture(images[1], "a", "the dog left of the red cat", "Xylophone", "the cat"),
        picture(images[3]),
        picture(images[3], "cat"),
    ]
    alone = [replace(detector, mode=mode).detect([each])[0] for each in pictures]
    assert [len(found) for found in alone] == [1, 2, 4, 0, 1]
    for batch_size in (1, 3, 8):
        together = replace(detector, mode=mode, batch_size=batch_size).detect(pictures)
        for one, other in zip(alone, together, strict=True):
            assert len(one) == len(other)
            for phrase, same in zip(one, other, strict=True):
                assert_same(same, *boxes_of(phrase))


def test_images_of_two_sizes_in_one_batch_would_not_give_the_same(detector, images):
    """Why batches hold one size: transformers' own padding changes what the smaller image gives."""

    def scores(shown):
        inputs = detector.processor(images=shown, text=[["the cat"]] * len(shown), return_tensors="pt")
        with torch.inference_mode():
            return detector.model(**inputs).logits[0, :, :4].sigmoid().sort(0).values

    alone, padded = scores([images[0]]), scores([images[0], images[2]])
    assert float((alone - padded).abs().max()) > 0.01


def test_each_image_of_a_batch_goes_once_through_the_vision_backbone(one, images):
    seen = []
    backbone = one.model.model.backbone.conv_encoder.model
    hook = backbone.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    shown = [picture(images[index], *PHRASES) for index in (0, 2, 1)]
    found = replace(one, batch_size=6).detect(shown)
    hook.remove()
    assert seen == [2, 1, 1]  # six rows of two images of one size, their other two, then four of the third image
    assert not backbone._forward_hooks
    assert [len(phrases) for phrases in found] == [4, 4, 4]


def test_one_phrase_alone_is_the_same_in_both_modes(detector, images):
    shown = [picture(image, phrase) for image in images for phrase in PHRASES]
    joint = replace(detector, mode="joint").detect(shown)
    for one, other in zip(detector.detect(shown), joint, strict=True):
        assert_same(one[0], *boxes_of(other[0]))


def test_joint_scores_are_those_of_each_phrases_tokens(detector, images):
    """Longhand: one prompt of all phrases; the tokens of each are counted phrase by phrase."""
    joint = replace(detector, mode="joint")
    (found,) = joint.detect([picture(images[0], *PHRASES)])
    place = 1
    for phrase, boxes in zip(PHRASES, found, strict=True):
        length = len(detector.processor.tokenizer(phrase.lower(), add_special_tokens=False)["input_ids"])
        columns = list(range(place, place + length))
        assert_same(boxes, *transformers_says(detector, images[0], list(PHRASES), columns, 0.0))
        place += length + 1
    apart = detector.detect([picture(images[0], *PHRASES)])[0]
    assert any(abs(one[0].score - other[0].score) > 1e-4 for one, other in zip(found, apart, strict=True))


def test_phrases_beyond_the_texts_limit_go_into_further_prompts(one, images):
    """40 tokens: two phrases of 17 and their periods and ends are 38, a third does not fit."""
    long = ["abcdefghijklmnopq", "bcdefghijklmnopqr", "cdefghijklmnopqrs", "cat"]
    joint = replace(one, mode="joint")
    assert [len(prompt.spans) for prompt in joint._prompts(picture(images[0], *long))] == [2, 2]
    (found,) = joint.detect([picture(images[0], *long)])
    first, second = (joint.detect([picture(images[0], *part)])[0] for part in (long[:2], long[2:]))
    for one_phrase, other in zip(found, first + second, strict=True):
        assert_same(one_phrase, *boxes_of(other))


def test_boxes_lie_inside_the_image_and_hold_pixels(large, images):
    (found,) = large.detect([picture(images[2], *PHRASES)])
    boxes = torch.cat([boxes_of(phrase)[0] for phrase in found])
    assert float(boxes[:, 0].min()) == 0
    assert float(boxes[:, 3].max()) == images[2].height
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, 2] <= images[2].width).all())
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())


def test_likelier_boxes_stand_for_those_that_overlap_them(large, images):
    """Longhand greedy suppression."""
    (found,) = large.detect([picture(images[0], "cat")])
    boxes, _ = boxes_of(found[0])
    kept: list[int] = []
    for index in range(len(boxes)):
        if all(float(box_iou(boxes[[index]], boxes[[other]])) <= 0.3 for other in kept):
            kept.append(index)
    assert 1 < len(kept) < len(boxes)
    (sparse,) = replace(large, nms=0.3).detect([picture(images[0], "cat")])
    assert sparse[0] == [found[0][index] for index in kept]
    (few,) = replace(large, nms=0.3, max_boxes=2).detect([picture(images[0], "cat")])
    assert few[0] == sparse[0][:2]


def test_the_same_is_found_again(one, images):
    shown = [picture(image, *PHRASES) for image in images]
    assert one.detect(shown) == one.detect(shown)


@pytest.mark.parametrize("mode", ["rows", "joint"])
@pytest.mark.parametrize("phrase", ["?.", "ab" * 20])
def test_a_phrase_that_cannot_be_asked_for_has_no_box_and_costs_the_others_none(one, images, phrase, mode):
    detector = replace(one, mode=mode)
    ((cat, nothing, dog),) = detector.detect([picture(images[0], "cat", phrase, "two dogs")])
    assert nothing == []
    ((*alone,),) = detector.detect([picture(images[0], "cat", "two dogs")])
    assert [cat, dog] == alone
    assert cat != dog


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
def test_a_config_that_asks_for_eager_attention_changes_nothing(detectors, images, tmp_path, kind):
    """Its text backbone would let phrases see each other."""
    folder = tmp_path / "eager"
    shutil.copytree(detectors[kind], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_attn_implementation": "eager"}))
    found = [
        load(str(name), mode="joint", **EVERYTHING).detect([picture(images[0], *PHRASES)])
        for name in (detectors[kind], folder)
    ]
    for ours, eager in zip(*(of_picture for (of_picture,) in found), strict=True):
        torch.testing.assert_close(boxes_of(eager)[1], boxes_of(ours)[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_places_are_computed_in_float32_whatever_the_backbones_do(one, images, monkeypatch, dtype):
    seen = {}
    inner = one.model.model
    convolution = next(m for m in inner.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    hook = convolution.register_forward_hook(lambda _m, _a, output: seen.update(image=output.dtype))
    proposals = type(inner).generate_encoder_output_proposals

    def watched(self, features, *rest):
        seen["proposals"] = features.dtype
        return proposals(self, features, *rest)

    monkeypatch.setattr(type(inner), "generate_encoder_output_proposals", watched)
    try:
        replace(one, dtype=dtype).detect([picture(images[0], "cat")])
    finally:
        hook.remove()
    assert seen == {"image": getattr(torch, dtype), "proposals": torch.float32}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_changes_scores_a_little(one, images, dtype):
    (exact,), (rough,) = (each.detect([picture(images[0], "cat")]) for each in (one, replace(one, dtype=dtype)))
    gap = (boxes_of(exact[0])[1] - boxes_of(rough[0])[1]).abs().max()
    assert 0 < float(gap) < 0.05


def test_scores_that_are_no_numbers_are_not_taken_for_nothing_found(detectors, images):
    broken = load(detectors["grounding-dino"])
    with torch.no_grad():
        broken.model.model.text_projection.bias[0] = torch.nan
    with pytest.raises(CheckpointError, match="no numbers in float32"):
        broken.detect([picture(images[0], "cat")])


def test_the_version_tells_models_and_settings_apart(detectors, tmp_path):
    first = load(detectors["grounding-dino"])
    changes = [{"mode": "joint"}, {"threshold": 0.25}, {"nms": 0.5}, {"max_boxes": 3}, {"dtype": "bfloat16"}]
    versions = [first.version, *(replace(first, **change).version for change in changes)]
    other = tmp_path / "other"
    shutil.copytree(detectors["grounding-dino"], other)
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    versions += [load(str(other)).version, load(detectors["mm-grounding-dino"]).version]
    assert len(set(versions)) == len(versions) == 8
    assert first.version == replace(first, batch_size=1).version == load(detectors["grounding-dino"]).version


def change_config(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "owlvit"}))


def lose_a_weight(folder: Path):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.text_projection.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_config, "model_type 'owlvit'; give a checkpoint of grounding-dino or mm-grounding-dino"),
        (lose_a_weight, r"1 missing keys in the weights, first model\.text_projection\.bias"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "its weights are pickled"),
        (lambda f: (f / "tokenizer.json").unlink(), "its tokenizer is not the model's"),
        (lambda f: (f / "processor_config.json").unlink(), "processor"),
        (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    ],
)
def test_a_folder_of_anything_else_is_a_checkpoint_error(detectors, tmp_path, damage, message):
    folder = tmp_path / "copy"
    shutil.copytree(detectors["grounding-dino"], folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load(str(folder))


@pytest.mark.parametrize(
    "settings",
    [{"mode": "pairs"}, {"dtype": "int8"}, {"batch_size": 0}, {"threshold": 1.5}, {"nms": -1}, {"max_boxes": 0}],
)
def test_settings_out_of_range_are_refused(detectors, settings):
    with pytest.raises(TrainError, match="Grounding DINO"):
        load(detectors["grounding-dino"], **settings)
