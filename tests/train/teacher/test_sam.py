"""Masks of boxes against segment-anything's predictor and transformers' processor, one image and one box at a time."""

import os
import pickle
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from agevlm.data.masks import mask_iou
from agevlm.errors import CheckpointError, TrainError
from tests.train.teacher import tiny
from train.teacher import segmenting
from train.teacher.grounding_dino import GroundingDinoDetector
from train.teacher.hf_sam import HfSamSegmenter
from train.teacher.producer import Detected, Found, Grounded, Picture
from train.teacher.sam import SamSegmenter

BOXES = [
    [Detected((5, 4, 40, 30), 0.9), Detected((50, 10, 79, 63), 0.5), Detected((0, 0, 80, 64), 0.4)],
    [],
    [Detected((10.5, 7.25, 100, 60), 0.8)],
    [Detected((1, 2, 30, 60), 0.7), Detected((20, 20, 45, 50), 0.6)],
]
"""Of the four images."""


@pytest.fixture(scope="module")
def original(sam_file):
    return SamSegmenter.open(sam_file, "vit_b", device="cpu")


@pytest.fixture(scope="module")
def converted(sam_folder):
    return HfSamSegmenter.open(sam_folder, device="cpu")


@pytest.fixture(scope="module", params=["original", "converted"])
def segmenter(request):
    return request.getfixturevalue(request.param)


def flat(lists) -> list[Found]:
    return list(chain.from_iterable(lists))


def stability(logits) -> float:
    """Longhand."""
    inner, outer = int((logits > 1).sum()), int((logits > -1).sum())
    return inner / outer if outer else 0.0


def assert_region(found: Found, logits, quality: float, box: Detected):
    """Logits are (height, width); a pixel whose logit is 0 up to rounding may fall on either side."""
    logits = np.asarray(logits)
    settled = np.abs(logits) > 1e-3
    assert found.mask.shape == logits.shape
    assert found.mask.dtype == np.bool_
    assert settled.mean() > 0.99
    assert np.array_equal(found.mask[settled], (logits > 0)[settled])
    assert found.predicted_iou == pytest.approx(quality, abs=1e-4)
    assert found.stability == pytest.approx(stability(logits), abs=2e-3)
    assert (found.box, found.score) == (box.box, box.score)


@pytest.mark.parametrize("multimask", [False, True])
def test_masks_equal_the_predictors_one_image_and_box_at_a_time(original, images, multimask):
    from segment_anything import SamPredictor

    predictor = SamPredictor(original.model)
    found = replace(original, multimask=multimask).segment(images, BOXES)
    chosen = set()
    for image, boxes, regions in zip(images, BOXES, found, strict=True):
        predictor.set_image(np.asarray(image))
        for box, region in zip(boxes, regions, strict=True):
            logits, quality, _ = predictor.predict(
                box=np.array(box.box), multimask_output=multimask, return_logits=True
            )
            best = int(quality.argmax())
            assert_region(region, logits[best], float(quality[best]), box)
            chosen.add(best)
    assert len(chosen) > multimask
    assert all(0.02 < region.mask.mean() < 0.98 and 0.1 < region.stability < 1 for region in flat(found))


@pytest.mark.parametrize("multimask", [False, True])
def test_masks_equal_the_processors_one_image_at_a_time(converted, sam_folder, images, multimask):
    from transformers import SamProcessor

    processor = SamProcessor.from_pretrained(sam_folder)
    found = replace(converted, multimask=multimask).segment(images, BOXES)
    for image, boxes, regions in zip(images, BOXES, found, strict=True):
        if not boxes:
            assert regions == []
            continue
        inputs = processor(images=image, input_boxes=[[list(box.box) for box in boxes]], return_tensors="pt")
        with torch.inference_mode():
            output = converted.model(**inputs, multimask_output=multimask)
        (logits,) = processor.post_process_masks(
            output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
        )
        for box, region, each, quality in zip(boxes, regions, logits, output.iou_scores[0], strict=True):
            assert_region(region, each[quality.argmax()], float(quality.max()), box)


def test_both_forms_of_one_sam_give_the_same_masks(original, converted, images):
    """Where no image is scaled; the two scale a little differently."""
    unscaled = [image.resize((64, 48)) for image in images[:2]]
    boxes = [[Detected((4, 5, 30, 40), 1.0)], [Detected((0, 0, 64, 48), 1.0), Detected((30, 8, 60, 44), 1.0)]]
    ours, theirs = (each.segment(unscaled, boxes) for each in (original, converted))
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        assert 0.02 < one.mask.mean() < 0.98
        assert mask_iou(one.mask, other.mask) > 0.995
        assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-3)
        assert one.stability == pytest.approx(other.stability, abs=5e-3)
    scaled = [each.segment(images, BOXES) for each in (original, converted)]
    assert all(mask_iou(a.mask, b.mask) > 0.9 for a, b in zip(flat(scaled[0]), flat(scaled[1]), strict=True))


def test_masks_follow_the_image_and_the_box(segmenter, images):
    (first, second, third) = segmenter.segment([images[0], images[1], images[0]], [BOXES[0]] * 3)
    for one, other in ((first[0], second[0]), (first[0], first[1]), (first[1], first[2])):
        assert mask_iou(one.mask, other.mask) < 0.9
    assert [mask_iou(a.mask, b.mask) for a, b in zip(first, third, strict=True)] == [1, 1, 1]


def test_what_else_is_in_the_batch_makes_no_difference(segmenter, images, monkeypatch):
    alone = replace(segmenter, batch_size=1).segment(images, BOXES)
    for batch_size, boxes_at_once in ((2, 32), (4, 32), (4, 1), (3, 2)):
        monkeypatch.setattr(segmenting, "BOXES", boxes_at_once)
        together = replace(segmenter, batch_size=batch_size).segment(images, BOXES)
        assert [len(found) for found in together] == [3, 0, 1, 2]
        for one, other in zip(flat(alone), flat(together), strict=True):
            assert (one.mask != other.mask).mean() < 1e-3
            assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-4)
            assert (one.box, one.score) == (other.box, other.score)


def test_images_are_encoded_together_and_those_without_boxes_not_at_all(segmenter, images):
    seen = []
    encoder = getattr(segmenter.model, "image_encoder", None) or segmenter.model.vision_encoder
    hook = encoder.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    replace(segmenter, batch_size=2).segment(images, BOXES)
    replace(segmenter, batch_size=4).segment(images, BOXES)
    assert segmenter.segment([], []) == []
    hook.remove()
    assert seen == [2, 1, 3]


def test_an_empty_mask_has_no_stability(segmenter, images, monkeypatch):
    enlarge = type(segmenter).enlarge
    monkeypatch.setattr(type(segmenter), "enlarge", lambda *given: enlarge(*given) * 0 - 2)
    (found,) = segmenter.segment(images[:1], BOXES[:1])
    assert [(region.mask.any(), region.stability) for region in found] == [(False, 0.0)] * 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_encoder_in_lower_precision_changes_masks_a_little(segmenter, images, dtype):
    exact, rough = (each.segment(images, BOXES) for each in (segmenter, replace(segmenter, dtype=dtype)))
    for one, other in zip(flat(exact), flat(rough), strict=True):
        assert mask_iou(one.mask, other.mask) > 0.8
        assert 0 < abs(one.predicted_iou - other.predicted_iou) < 0.2


def test_logits_that_are_no_numbers_are_refused(sam_file, images):
    broken = SamSegmenter.open(sam_file, "vit_b", device="cpu")
    with torch.no_grad():
        broken.model.mask_decoder.iou_token.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="no numbers"):
        broken.segment(images, BOXES)


def test_the_version_tells_models_and_settings_apart(original, converted, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({name: value + 1 for name, value in original.model.state_dict().items()}, other)
    versions = [
        version
        for each in (original, converted, SamSegmenter.open(other, "vit_b", device="cpu"))
        for version in (each.version, replace(each, multimask=True).version, replace(each, dtype="bfloat16").version)
    ]
    assert len(set(versions)) == 9
    assert "vit_b" in original.version
    assert original.version == replace(original, batch_size=1).version


def test_a_detector_and_a_segmenter_make_a_producer(detectors, segmenter, images):
    detector = GroundingDinoDetector.open(detectors["grounding-dino"], device="cpu", max_boxes=3)
    pictures = [
        Picture("a", images[0], ("cat", "two dogs")),
        Picture("b", images[2], ()),
        Picture("c", images[3], ("a",)),
    ]
    made = Grounded(detector, segmenter).produce(pictures)
    for picture, found, boxes in zip(pictures, made, detector.detect(pictures), strict=True):
        assert [[(each.box, each.score) for each in phrase] for phrase in found] == [
            [(each.box, each.score) for each in phrase] for phrase in boxes
        ]
        for each in flat(found):
            assert each.mask.shape == (picture.image.height, picture.image.width)
    assert len(made[0][0]) == len(made[0][1]) == len(made[2][0]) == 3


class Touch:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_file_with_code_is_refused_and_not_run(sam_file, tmp_path):
    for name, save in (
        ("new", torch.save),
        ("old", lambda held, path: path.write_bytes(pickle.dumps(held, protocol=2))),
    ):
        path, trace = tmp_path / f"{name}.pth", tmp_path / f"{name}-ran"
        save({"weight": Touch(trace)}, path)
        with pytest.raises(CheckpointError, match="could run code and is refused"):
            SamSegmenter.open(path, "vit_b", device="cpu")
        assert not trace.exists()
    torch.load(tmp_path / "new.pth", weights_only=False)
    assert (tmp_path / "new-ran").exists()  # it would have


def test_files_from_before_the_archive_format_load(sam_file, tmp_path, images, original):
    path = tmp_path / "old.pth"
    torch.save(tiny.original_sam().state_dict(), path, _use_new_zipfile_serialization=False)
    old = SamSegmenter.open(path, "vit_b", device="cpu").segment(images[:1], BOXES[:1])
    new = original.segment(images[:1], BOXES[:1])
    assert [np.array_equal(a.mask, b.mask) for a, b in zip(old[0], new[0], strict=True)] == [True] * 3


def save(what):
    return lambda path: torch.save(what, path)


@pytest.mark.parametrize(
    ("write", "kind", "message"),
    [
        (lambda path: path.write_bytes(b"not a model" * 100), "vit_b", "is no state dict of tensors alone"),
        (lambda path: path.write_bytes(b""), "vit_b", "is no state dict of tensors alone"),
        (lambda path: None, "vit_b", "no such file"),
        (lambda path: path.mkdir(), "vit_b", "no such file"),
        (save({"model": {"a": torch.zeros(1)}, "epoch": 3}), "vit_b", "holds keys model, epoch"),
        (save([torch.zeros(1)]), "vit_b", "holds list"),
        (save({"head.weight": torch.zeros(2)}), "vit_b", r"is no SAM of kind vit_b: \d+ weights are missing"),
        (lambda path: tiny.save_original_sam(path), "vit_l", "is a vit_b, not a vit_l"),
        (lambda path: tiny.save_original_sam(path), "vit_h", "is a vit_b, not a vit_h"),
        (save(tiny.original_sam(layers=3).state_dict()), "vit_b", "is a vit_l, not a vit_b"),
        (lambda path: tiny.save_original_sam(path), "vit_t", "kind 'vit_t' is unknown"),
    ],
)
@pytest.mark.usefixtures("_tiny_registry")
def test_a_file_of_anything_else_is_a_checkpoint_error(tmp_path, write, kind, message):
    path = tmp_path / "sam.pth"
    write(path)
    with pytest.raises(CheckpointError, match=message):
        SamSegmenter.open(path, kind, device="cpu")


def test_the_files_hash_is_checked(sam_file):
    import hashlib

    right = hashlib.sha256(Path(sam_file).read_bytes()).hexdigest()
    assert SamSegmenter.open(sam_file, "vit_b", device="cpu", sha256=right.upper()).version.startswith(
        f"sam vit_b {right[:16]}"
    )
    with pytest.raises(CheckpointError, match=f"its SHA-256 is {right}, not 00"):
        SamSegmenter.open(sam_file, "vit_b", device="cpu", sha256="00")


def test_a_folder_of_anything_else_is_a_checkpoint_error(sam_folder, detectors, tmp_path):
    with pytest.raises(CheckpointError, match="model_type 'grounding-dino'; give a checkpoint of sam"):
        HfSamSegmenter.open(detectors["grounding-dino"], device="cpu")
    folder = tmp_path / "copy"
    shutil.copytree(sam_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="its weights are pickled"):
        HfSamSegmenter.open(str(folder), device="cpu")


def test_settings_out_of_range_are_refused(sam_folder, sam_file):
    for load in (
        lambda **s: HfSamSegmenter.open(sam_folder, **s),
        lambda **s: SamSegmenter.open(sam_file, "vit_b", **s),
    ):
        with pytest.raises(TrainError, match="dtype 'int8' is unknown"):
            load(device="cpu", dtype="int8")
        with pytest.raises(TrainError, match="a batch size of 0"):
            load(device="cpu", batch_size=0)
