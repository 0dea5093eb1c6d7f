"""Attention that is known beforehand: a model that looks at what is bright, and a black picture with a bright patch.

Its vision tower sees each cell by itself, and its cross-attention is set by hand: queries all point one way, and the
key of a bright cell points there too, every other key the opposite way.
"""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from agevlm.checkpoints.tiny import AgeVlmShape, random_age_vlm
from agevlm.geometry import Geometry
from agevlm.vlm import Ask, Fingerprint, ProbeSpec
from agevlm.vlm.contract import Reply
from agevlm.vlm.hf.session import HfVlm
from analysis.look import gazes, panels
from analysis.look_picture import draw

SIDE, STRIDE = 96, 16
QUESTION = "Is there a dog in the image?"
SIZES = {"square": (96, 96), "wide": (200, 100), "tall": (77, 150)}
MODES = ["letterbox", "squash", "crop"]


def looks_at_what_is_bright(mode, planted=True):
    shape = AgeVlmShape(image_size=SIDE, resize_mode=mode, model_args={"depths": (0, 0, 0, 0), "dims": (8, 8, 16, 32)})
    network, processor = random_age_vlm(shape, 0)
    model = HfVlm(network, processor, Fingerprint("", {}))
    if not planted:
        return model
    language = network.model.language_model
    with torch.no_grad():
        # What black, bright and padded cells become; then a direction that tells bright from the other two.
        cells = []
        for colour in ((0, 0, 0), (255, 255, 255)):
            pixels = model.family.preprocess(Image.new("RGB", (SIDE, SIDE), colour))["pixel_values"]
            cells.append(network.get_image_features(pixels).pooler_output[0, 0])
        cells.append(network.get_image_features(torch.zeros(1, 3, SIDE, SIDE)).pooler_output[0, 0])
        direction = torch.linalg.pinv(torch.stack(cells)) @ torch.tensor([-1.0, 1.0, -1.0])
        # The first channel of every text state is the same large number, whatever the words.
        language.embed_tokens.weight[:, 0] = 50.0
        for layer in language.layers:
            crossing = hasattr(layer, "cross_attn")
            (layer.cross_attn if crossing else layer.self_attn).o_proj.weight[0] = 0
            if layer.mlp is not None:
                layer.mlp.down_proj.weight[0] = 0
            if crossing:
                attend = layer.cross_attn
                attend.q_proj.weight.zero_()
                attend.q_proj.weight[:: attend.head_dim, 0] = 1.0
                attend.k_proj.weight.zero_()
                attend.k_proj.weight[:: attend.head_dim] = direction
    return model


@pytest.fixture(scope="module")
def bright():
    known = {}
    return lambda mode: known.setdefault(mode, looks_at_what_is_bright(mode))


def with_patch(size, box):
    """A black picture with a white rectangle: x0, y0, x1, y1 in whole pixels."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


def probed(model, image):
    return model.probe(model.encode([image]), [Ask(QUESTION, 0)], [(5, 6)], ProbeSpec())[0]


def patches(mode, size):
    """Rectangles as large as a cell, one inside each cell: longhand, without the geometry under test."""
    width, height = size
    if mode == "squash":
        across, down, left, top = width / SIDE, height / SIDE, 0.0, 0.0
    else:
        long, short = max(size), min(size)
        across = down = (long if mode == "letterbox" else short) / SIDE
        left, top = (width - SIDE * across) / 2, (height - SIDE * down) / 2
    for row in range(6):
        for column in range(6):
            x0, y0 = left + column * STRIDE * across, top + row * STRIDE * down
            box = tuple(round(v) for v in (x0, y0, x0 + STRIDE * across, y0 + STRIDE * down))
            if box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height:
                yield (row, column), box


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_the_peak_is_the_cell_that_holds_the_bright_patch(bright, mode, shape):
    model, size = bright(mode), SIZES[shape]
    tried = list(patches(mode, size))
    assert len(tried) >= 12
    for cell, box in [*tried[::4], tried[-1]]:
        probe = probed(model, with_patch(size, box))
        assert probe.attention.shape == (2, len(probe.tokens), 6, 6)
        assert probe.geometry.cell_of((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) == cell
        # The largest of 36, in every layer, for every word; neighbours may get some where edges are blended.
        assert (probe.attention.reshape(2, len(probe.tokens), 36).argmax(-1) == cell[0] * 6 + cell[1]).all()
        assert probe.attention[..., cell[0], cell[1]].min() > 0.3


def test_the_plant_is_what_draws_the_look(bright):
    size = (96, 96)
    (cell, box) = list(patches("squash", size))[8]
    black, marked = with_patch(size, (0, 0, 0, 0)), with_patch(size, box)
    flat = probed(bright("squash"), black).attention
    assert np.abs(flat - 1 / 36).max() < 1e-4, "where nothing is bright, the look is flat"
    wild = probed(looks_at_what_is_bright("squash", planted=False), marked).attention
    assert len(set(wild.reshape(-1, 36).argmax(-1).tolist())) > 1, "without the plant words differ"
    assert (probed(bright("squash"), marked).attention[..., cell[0], cell[1]] > 0.9).all()


def drawn_panels(monkeypatch, tmp_path, image, probe, **given):
    """The PNG as an array, and where its panels lie: left, top, right, bottom in pixels, words by layers."""
    kept = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (real(self, *a, **k), kept.append(self))[0])
    found = gazes(probe, QUESTION, Reply("No", "eos"), ["dog"])
    rows = [panels(probe, gaze, found[-1], list(probe.layers)) for gaze in found]
    out = tmp_path / "look.png"
    draw(image, probe.geometry, rows, question=QUESTION, answer="No", footer="small", **given, out=out)
    picture = np.asarray(Image.open(out).convert("RGB"), np.float64)
    frames = []
    for axes in kept[0].axes[1:]:
        box = axes.get_window_extent()
        frames.append((box.x0, picture.shape[0] - box.y1, box.x1, picture.shape[0] - box.y0))
    assert len(frames) == len(rows) * len(rows[0])
    return picture, frames


def share_inside(frame, at):
    """Where a place on the picture lies in a frame, from 0 to 1 along x and y."""
    x0, y0, x1, y1 = frame
    return (at[0] - x0) / (x1 - x0), (at[1] - y0) / (y1 - y0)


def brightest(picture, frame, weights):
    """Middle of the places with the most of a colour, inside a frame (its border left out)."""
    x0, y0, x1, y1 = (round(v) for v in frame)
    part = picture[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] @ np.asarray(weights, float)
    rows, columns = np.nonzero(part > part.max() - 0.1 * (part.max() - part.min()))
    return x0 + 3 + columns.mean() + 0.5, y0 + 3 + rows.mean() + 0.5


def expected_share(mode, size, at):
    """Where a place of the image lies in a panel: panels show the letterbox's square, or else the whole image."""
    side = max(size) if mode == "letterbox" else None
    whole = (side, side) if side else size
    return tuple((a + (w - s) / 2) / w for a, s, w in zip(at, size, whole, strict=True))


YELLOW = (1, 1, -1)
"""Most in inferno's last colour; little in grey and in its dark purple."""


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_in_the_picture_the_hottest_place_lies_at_the_patch(bright, monkeypatch, tmp_path, mode, shape, smooth):
    size = SIZES[shape]
    tried = list(patches(mode, size))
    # Off both diagonals: a picture turned over must not pass.
    box = next(box for (row, column), box in tried[len(tried) // 3 :] if row not in (column, 5 - column))
    image = with_patch(size, box)
    probe = probed(bright(mode), image)
    picture, frames = drawn_panels(monkeypatch, tmp_path, image, probe, smooth=smooth)
    wanted = expected_share(mode, size, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    assert all(0 < w < 1 for w in wanted)
    for frame in frames:
        width, height = frame[2] - frame[0], frame[3] - frame[1]
        whole = (max(size),) * 2 if mode == "letterbox" else size
        assert width / height == pytest.approx(whole[0] / whole[1], rel=0.02), "never distorted"
        found = share_inside(frame, brightest(picture, frame, YELLOW))
        # A fifth of a cell, and a pixel or two of the picture.
        assert found == pytest.approx(wanted, abs=0.2 / 6 + 2 / min(width, height))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_the_image_under_the_colours_lies_there_too(monkeypatch, tmp_path, mode, shape):
    size = SIZES[shape]
    box = (round(size[0] * 0.55), round(size[1] * 0.3), round(size[0] * 0.75), round(size[1] * 0.42))
    image = with_patch(size, box)
    probe = probed(looks_at_what_is_bright(mode), Image.new("RGB", size))
    dull = type(probe)(
        probe.tokens, probe.layers, np.zeros_like(probe.attention), probe.elsewhere, probe.geometry
    )  # every cell of the same faint colour
    picture, frames = drawn_panels(monkeypatch, tmp_path, image, dull, smooth=False)
    wanted = expected_share(mode, size, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    for frame in frames:
        x0, y0, x1, y1 = frame
        # Padding is light grey; the search keeps to what holds the image.
        left, top = expected_share(mode, size, (0, 0))
        inner = (
            x0 + left * (x1 - x0),
            y0 + top * (y1 - y0),
            x1 - left * (x1 - x0),
            y1 - top * (y1 - y0),
        )
        found = share_inside(frame, brightest(picture, inner, (1, 1, 1)))
        assert found == pytest.approx(wanted, abs=0.03)


def test_what_a_crop_cut_off_is_shown_without_colours_as_far_as_there_is_room(monkeypatch, tmp_path, bright):
    size = (640, 64)
    probe = probed(bright("crop"), Image.new("RGB", size))
    assert isinstance(probe.geometry, Geometry)
    picture, frames = drawn_panels(monkeypatch, tmp_path, Image.new("RGB", size), probe, smooth=False)
    x0, y0, x1, y1 = (round(v) for v in frames[0])
    assert (x1 - x0) / (y1 - y0) == pytest.approx(2.2, rel=0.03)
    line = picture[(y0 + y1) // 2, x0 + 3 : x1 - 3]
    coloured = np.ptp(line, axis=1) > 8
    # The seen part is a square in the middle: 1 of 2.2.
    assert coloured.mean() == pytest.approx(1 / 2.2, abs=0.03)
    middle = np.nonzero(coloured)[0]
    assert middle.mean() == pytest.approx(len(line) / 2, abs=2)
