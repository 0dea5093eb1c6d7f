"""Pictures of where the model looks while it is trained: attention of words against the regions that they name."""

from __future__ import annotations

import contextlib
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agevlm.appearing import file_appears
from agevlm.errors import DataError
from agevlm.geometry import Geometry
from train.data.samples import BadSample, Sample, Source
from train.data.skipping import GRACE
from train.spec import Guidance, StageSpec

FOLDER = "overlays"
PHRASES = 3
"""Of one image at most; further ones are not drawn."""
PANEL_INCHES, CAPTION_INCHES, TITLE_INCHES, GAP_INCHES = 2.3, 0.52, 0.42, 0.12
TALLEST, FLATTEST = 1.3, 0.4
"""Height of a row over its width, at most and at least."""
DRAWN_SIDE = 512
"""Pixels of the longer side of what is drawn."""
COLOURS, OUTLINE = "inferno", "#19e3ff"
FAINTEST, STRONGEST = 0.1, 0.75
DPI = 110


@dataclass(frozen=True, eq=False)
class Seen:
    """One phrase, its region, and where the model looked as it read it."""

    words: str
    mask: NDArray[np.bool_]
    """(image height, image width)."""
    attention: NDArray[np.float64]
    """(rows, columns): mean over layers and supervised tokens."""
    iou: float
    """Of the cells of at least half the strongest attention with the region's."""
    inside: float
    """Attention inside the region's cells."""


class Overlays:
    """Draws the same few samples again and again.

    Args:
        spec: of the stage; which tokens and layers are looked at is as they are guided.
        sources: samples with regions are taken from these, at even distances; always the same ones.
        folder: pictures go to `overlays/` in it.
    """

    def __init__(self, spec: StageSpec, sources: Sequence[Source], folder: Path) -> None:
        self.spec, self.folder = spec, folder / FOLDER
        # Answers have no words of their own to show; the regions' coverage is drawn as it is.
        self.guidance = replace(spec.guidance or Guidance(), answers=False, threshold=None)
        self.samples = pick(sources, spec.overlay_images) if spec.fusion == "cross" else []

    def draw(self, step: int, model: Any, processor: Any) -> Path | None:
        """Write the picture of a step; None where no sample has a region that the model sees.

        Raises:
            DataError: it cannot be written.
        """
        rows = [(sample, seen) for sample in self.samples if (seen := self._look(sample, model, processor))]
        if not rows:
            return None
        title = f"{self.spec.arm} · stage {self.spec.stage}, {self.spec.name} · step {step}"
        out = self.folder / f"step-{step:06d}.png"
        paint(rows, processor.image_processor, title, out)
        return out

    def _look(self, sample: Sample, model: Any, processor: Any) -> list[Seen]:
        import torch

        from agevlm.model import ProbeRequest
        from train.data.collate import Collator
        from train.losses import measure

        # One row a phrase: whatever tokens are supervised, the row says whose they are.
        single = [replace(sample, phrases=(phrase,)) for phrase in sample.phrases[:PHRASES]]
        try:
            batch = Collator(processor, self.guidance, self.spec.max_length)(single, [True] * len(single))
        except BadSample:
            return []  # training skips it too, and says why
        if not len(batch.rows):
            return []
        batch = batch.to(model.device)
        half = self.spec.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            probe = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                pixel_values=batch.pixel_values,
                image_mask=batch.image_mask,
                vision_token_mask=batch.vision_token_mask,
                probe=ProbeRequest(batch.rows, batch.positions, layers=self.guidance.layers),
                logits_to_keep=1,
                use_cache=False,
            ).probe
        attention = torch.stack(probe.attention).mean(0)
        grid = processor.image_processor.grid
        found = []
        for row, phrase in enumerate(sample.phrases[:PHRASES]):
            if (own := batch.rows == row).any():
                mean = attention[own].mean(0, keepdim=True)
                looks = measure(mean, batch.coverage[own][:1], batch.vision_token_mask[row : row + 1])
                heat = mean.reshape(grid).double().cpu().numpy()
                words = sample.messages[phrase.message].text[phrase.start : phrase.end]
                found.append(Seen(words, phrase.mask, heat, float(looks.iou), float(looks.mass)))
        return found


def pick(sources: Sequence[Source], count: int) -> list[Sample]:
    """Up to `count` samples with regions, in turns from the sources that have any, at even distances in each.

    One that cannot be used makes room for the next; where many follow each other, for none.
    """
    having = [source for source in sources if len(source.guided)]
    chosen: list[Sample] = []
    for number, source in enumerate(having):
        share = len(range(number, count, len(having)))
        known = source.guided
        places = {round(place) for place in np.linspace(0, len(known) - 1, min(share, len(known)))}
        for place in sorted(places):
            following = range(place, min(place + 1 + GRACE, len(known)))
            chosen += islice(_readable(source, (int(known[place]) for place in following)), 1)
    return chosen


def _readable(source: Source, indices: Iterable[int]) -> Iterator[Sample]:
    for index in indices:
        with contextlib.suppress(BadSample):
            yield source.read(index, 0)


def paint(rows: Sequence[tuple[Sample, Sequence[Seen]]], images: Any, title: str, out: Path) -> None:
    """Write the picture, whole or not at all: a row a sample, its regions first, then where each phrase looked.

    Each panel has its own colour scale, from 0 to its largest cell. Only the image is shown, no padding.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 1 + max(len(seen) for _, seen in rows)
    heights = [PANEL_INCHES * min(TALLEST, max(FLATTEST, s.image.height / s.image.width)) for s, _ in rows]
    width = columns * (PANEL_INCHES + GAP_INCHES) + GAP_INCHES
    height = TITLE_INCHES + sum(heights) + len(rows) * (CAPTION_INCHES + GAP_INCHES)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(GAP_INCHES / width, 1 - 0.26 / height, title, fontsize=10, weight="bold", parse_math=False)
    down = TITLE_INCHES
    for (sample, seen), panel_height in zip(rows, heights, strict=True):

        def place(column: int, down: float = down, panel_height: float = panel_height) -> Any:
            left = GAP_INCHES + column * (PANEL_INCHES + GAP_INCHES)
            box = (left / width, 1 - (down + panel_height) / height, PANEL_INCHES / width, panel_height / height)
            return figure.add_axes(box)

        geometry = images.geometry(*sample.image.size)
        axes = place(0)
        axes.imshow(thumbnail(sample.image), extent=_extent(sample.image))
        for one in seen:
            _outline(axes, one.mask)
        _finish(axes, sample.image, "regions", f"sample {sample.id}")
        for column, one in enumerate(seen, start=1):
            axes = place(column)
            axes.imshow(
                thumbnail(sample.image).convert("L"), extent=_extent(sample.image), cmap="gray", vmin=-90, vmax=255
            )
            axes.imshow(_heat(one, geometry), extent=_extent(sample.image), interpolation="nearest")
            _outline(axes, one.mask)
            _finish(axes, sample.image, f"“{one.words}”", f"IoU {one.iou:.2f} · {one.inside:.0%} inside")
        down += panel_height + CAPTION_INCHES + GAP_INCHES
    save_figure(figure, out)


def _extent(image: Any) -> tuple[int, int, int, int]:
    return 0, image.width, image.height, 0


def thumbnail(image: Any) -> Any:
    """A copy of an image, no larger than it is drawn."""
    image = image.copy()
    image.thumbnail((DRAWN_SIDE, DRAWN_SIDE))
    return image


def _heat(seen: Seen, geometry: Geometry) -> NDArray[np.float64]:
    """(height, width, RGBA) in the image's pixels, thinned out; the clearer the more attention."""
    from matplotlib import colormaps

    spread = geometry.grid_to_image(seen.attention / (float(seen.attention.max()) or 1.0))
    thin = max(1, max(spread.shape) // DRAWN_SIDE)
    # What a crop cut off was not looked at.
    heat = np.nan_to_num(spread[::thin, ::thin])
    colours: NDArray[np.float64] = colormaps[COLOURS](heat)
    colours[..., 3] = FAINTEST + (STRONGEST - FAINTEST) * heat
    return colours


def _outline(axes: Any, mask: NDArray[np.bool_]) -> None:
    """The region's border, bright on dark, to be seen on any picture."""
    height, width = mask.shape
    thin = max(1, max(mask.shape) // DRAWN_SIDE)
    small = np.pad(mask[::thin, ::thin], 1).astype(float)
    x = (np.arange(small.shape[1]) - 0.5) * thin
    y = (np.arange(small.shape[0]) - 0.5) * thin
    for colour, line in (("black", 2.6), (OUTLINE, 1.3)):
        axes.contour(x.clip(0, width), y.clip(0, height), small, levels=[0.5], colors=colour, linewidths=line)


def _finish(axes: Any, image: Any, words: str, numbers: str) -> None:
    axes.set(xlim=(0, image.width), ylim=(image.height, 0), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    shown = textwrap.shorten("".join(c if c.isprintable() else " " for c in words), 34, placeholder=" …")
    label = axes.set_xlabel(f"{shown}\n{textwrap.shorten(numbers, 40, placeholder=' …')}", fontsize=8, labelpad=3)
    label.set_parse_math(False)


def save_figure(figure: Any, out: Path) -> None:
    """Write a figure as PNG, whole or not at all. Raises DataError if the file cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with file_appears(out) as unfinished, warnings.catch_warnings():
            # What the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(unfinished, format="png")
    except OSError as error:
        raise DataError(f"{out}: cannot write: {error.strerror or error}") from None
