"""Pictures of attention against regions: the right cells at the right places, and something to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from agevlm.checkpoints.tiny import AgeVlmShape, random_age_vlm
from agevlm.model import ProbeRequest
from train.config import load_stage
from train.data.collate import Collator
from train.data.samples import BadSample, Message, Phrase, Sample
from train.losses import measure
from train.overlays import Overlays, Seen, paint, pick
from train.spec import Guidance

TEXT = "Is there a red ball beside the box?"


def sample(width: int = 40, height: int = 90, phrases: int = 2, key: str = "s") -> Sample:
    draw = np.random.default_rng(width)
    image = Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8))
    masks = [np.zeros((height, width), bool) for _ in range(2)]
    masks[0][:20, :20] = True
    masks[1][-20:, -20:] = True
    named = (("red ball", masks[0]), ("box", masks[1]))[:phrases]
    made = tuple(Phrase(0, TEXT.index(w), TEXT.index(w) + len(w), mask) for w, mask in named)
    return Sample(key, (Message("user", TEXT), Message("assistant", "Yes.")), image, made)


class Few:
    fingerprint = "few"

    def __init__(self, name: str, size: int, guided) -> None:
        self.name, self.size, self.guided = name, size, guided

    def __len__(self) -> int:
        return self.size

    def read(self, index: int, epoch: int) -> Sample:
        assert epoch == 0
        return sample(40 + 60 * (index % 2), 90, key=f"{self.name}{index}")


@pytest.fixture(scope="module")
def tiny():
    return random_age_vlm(AgeVlmShape(), 0)


@pytest.fixture
def spec(tmp_path):
    more = ["precision=float32", "guidance.layers=[1, 4]"]
    return load_stage("scenes/age-vlm/3-guide", [*more, "overlay_images=3"])


def test_the_same_few_samples_are_picked_from_all_sources(spec):
    sources = [Few("a", 9, [0, 3, 4, 8]), Few("b", 5, []), Few("c", 5, [2])]
    names = [s.id for s in pick(sources, 3)]
    assert names == [s.id for s in pick(sources, 3)]
    assert names == ["a0", "a8", "c2"]
    assert [s.id for s in pick(sources, 1)] == ["a0"]
    assert pick([sources[1]], 4) == []


def test_samples_that_cannot_be_used_are_passed_over(tiny, spec, tmp_path):
    class Broken(Few):
        def read(self, index: int, epoch: int) -> Sample:
            if index in (0, 3, 8):
                raise BadSample("gone")
            return super().read(index, epoch)

    assert [s.id for s in pick([Broken("a", 9, [0, 3, 4, 6, 8])], 3)] == ["a4", "a4"]
    model, processor = tiny
    long = replace(spec, max_length=5)
    assert Overlays(long, [Few("a", 9, [0, 4])], tmp_path).draw(1, model, processor) is None
    assert Overlays(spec, [Few("a", 9, [0, 4])], tmp_path).draw(1, model, processor) is not None


def test_what_is_drawn_is_the_attention_that_is_trained(tiny, spec, tmp_path, monkeypatch):
    """Each phrase against one forward pass of the whole sample, for every choice of tokens."""
    model, processor = tiny
    drawn = []
    monkeypatch.setattr("train.overlays.paint", lambda rows, *_: drawn.extend(rows))
    for tokens in ("last", "first", "all"):
        guidance = Guidance(tokens=tokens, answers=True)
        drawn.clear()
        Overlays(replace(spec, guidance=guidance), [Few("a", 2, [0, 1])], tmp_path).draw(1, model, processor)
        assert len(drawn) == 2
        for one, seen in drawn:
            batch = Collator(processor, Guidance(tokens=tokens), 500)([one], [True])
            with torch.no_grad():
                probe = model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    pixel_values=batch.pixel_values,
                    probe=ProbeRequest(batch.rows, batch.positions),
                ).probe
            maps = torch.stack(probe.attention).mean(0)
            # Tokens of one phrase share its weight: 1 of n each.
            first = round(1 / float(batch.shares[0]))
            each = [first, len(maps) - first]
            assert (max(each) > 1) == (tokens == "all")
            assert [s.words for s in seen] == ["red ball", "box"]
            regions = (batch.coverage[0], batch.coverage[first])
            for s, own, coverage in zip(seen, maps.split(each), regions, strict=True):
                expected = own.mean(0, keepdim=True)
                assert np.allclose(s.attention, expected.reshape(4, 4), atol=1e-5)
                looks = measure(expected, coverage[None], batch.vision_token_mask)
                assert s.iou == pytest.approx(float(looks.iou))
                assert s.inside == pytest.approx(float(looks.mass), abs=1e-5)
    assert np.ptp(drawn[0][1][0].attention) > 0.005  # it does look somewhere


def test_a_picture_is_written(tiny, spec, tmp_path):
    model, processor = tiny
    made = Overlays(spec, [Few("a", 5, [0, 1, 2])], tmp_path).draw(250, model, processor)
    assert made == tmp_path / "overlays" / "step-000250.png"
    with Image.open(made) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] > 3 * 200
    # Outlines, bright on the grey of panels.
    cyan = (pixels[..., 2] > 200) & (pixels[..., 1] > 180) & (pixels[..., 0] < 90)
    assert cyan.sum() > 200
    assert sorted(p.name for p in made.parent.iterdir()) == ["step-000250.png"]


def test_heat_lies_where_the_attention_is(tiny, tmp_path):
    """Attention on one cell of a wide, letterboxed image lights up that part of the panel, and no other."""
    _, processor = tiny
    wide = sample(160, 80, 1)
    heat = np.zeros((4, 4))
    heat[1, 3] = 1.0  # the image fills rows 1 and 2: this is its upper right corner
    image = replace(wide, image=Image.new("RGB", (160, 80), "white"))
    out = tmp_path / "o.png"
    paint([(image, [Seen("x", np.zeros((80, 160), bool), heat, 0.0, 0.0)])], processor.image_processor, "t", out)
    with Image.open(out) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    yellow = (pixels.max(-1) - pixels.min(-1) > 60) & (pixels[..., 0] > 180)
    rows, columns = np.nonzero(yellow)
    panel = slice(pixels.shape[1] // 2, None)
    assert yellow[:, panel].sum() == yellow.sum() > 500
    width = pixels.shape[1] / 2
    assert columns.min() > width + 0.7 * width
    assert np.ptp(rows) < 0.3 * width


def test_nothing_to_draw(tiny, spec, tmp_path):
    model, processor = tiny
    assert Overlays(spec, [Few("a", 5, [])], tmp_path).draw(1, model, processor) is None
    concat = load_stage("scenes/concat/3-guide")
    assert Overlays(concat, [Few("a", 5, [0])], tmp_path).draw(1, model, processor) is None
    assert not (tmp_path / "overlays").exists()


def test_odd_words_and_masks_are_drawn(tiny, tmp_path):
    _, processor = tiny
    seen = [
        Seen(
            "$x_1$ \n ein sehr langer Name, der nicht in die Breite passt",
            np.ones((90, 40), bool),
            np.ones((4, 4)),
            1,
            1,
        ),
        Seen("", np.zeros((90, 40), bool), np.zeros((4, 4)), 0.0, 0.0),
    ]
    paint([(sample(), seen)], processor.image_processor, "$t$", tmp_path / "o.png")
    assert (tmp_path / "o.png").stat().st_size > 5000
