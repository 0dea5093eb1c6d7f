"""What `agevlm-eval look` does, from an image file to a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agevlm.data.images import decode, read_file
from agevlm.errors import AgeVlmError, DataError
from agevlm.geometry import check_size
from agevlm.terminal import write_json
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Ask, ProbeSpec
from analysis.look import Panel, gazes, panels, shown_layers
from analysis.look_picture import draw

FORMATS = (".png", ".pdf", ".svg")
FOOTER = (
    "{model} ({kind}, {dtype}). Attention of each word's last token to the {rows} x {columns} cells of the image, "
    "mean over heads; → is the position that predicts the answer. Colours run from 0 to each panel's own largest "
    "cell. image, pad, elsewhere: share of the query's attention on the picture, on padding, and on visual tokens "
    "that stand for no place; with visual tokens in the sequence the rest lies on text. peak: largest cell over that "
    "of a flat map. r: correlation with the control, the mean of all tokens of the prompt; near 1 the word adds "
    "nothing of its own. Attention shows where information can flow, not why an answer was given."
)


@dataclass(frozen=True)
class LookSettings:
    """The options of `agevlm-eval look`."""

    model: ModelChoice
    image: Path
    question: str
    words: tuple[str, ...]
    layers: tuple[int, ...]
    smooth: bool
    max_new_tokens: int
    out: Path | None
    json_out: str | None

    @property
    def picture(self) -> Path:
        return self.out or Path("runs") / f"look-{self.model.slug}-{self.image.stem}.png"


def look_at(settings: LookSettings, console: Console, notes: Console) -> None:
    """Ask, probe, draw, and print the numbers. Raises AgeVlmError."""
    if not settings.question.strip():
        raise DataError("--question is empty")
    if any(not word.strip() for word in settings.words):
        raise DataError("--word is empty")
    try:
        settings.question.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"--question is not UTF-8 text: {error.reason}") from None
    image = decode(read_file(settings.image))
    try:
        check_size(*image.size)
    except DataError as error:
        raise DataError(f"{settings.image}: {error}") from None
    _prepare(settings.picture)
    with notes.status("loading the model"):
        vlm = settings.model.load()
    try:
        with notes.status("asking"):
            images = vlm.encode([image])
            ask = Ask(settings.question, 0, settings.max_new_tokens)
            reply = vlm.answer(images, [ask])[0]
            if reply.text is None:
                raise AgeVlmError(f"the model gave no answer: {reply.error}")
            probe = vlm.probe(images, [ask], [reply.token_ids], ProbeSpec())[0]
        described = vlm.describe()
    finally:
        vlm.close()
    if unknown := sorted(set(settings.layers) - set(probe.layers)):
        raise DataError(
            f"--layer {unknown[0]} does not look at the image; those that do: {', '.join(map(str, probe.layers))}"
        )
    layers = list(dict.fromkeys(settings.layers)) or shown_layers(probe.layers)
    found = gazes(probe, settings.question, reply, settings.words)
    rows = [panels(probe, gaze, found[-1], layers) for gaze in found]
    chances = {k: math.exp(v) for k, v in reply.logprobs.items()}
    footer = FOOTER.format(
        model=settings.model.name,
        kind=described.get("model_type"),
        dtype=described.get("dtype"),
        rows=probe.geometry.rows,
        columns=probe.geometry.columns,
    )
    draw(
        image,
        probe.geometry,
        rows,
        question=settings.question,
        answer=reply.text,
        footer=footer,
        smooth=settings.smooth,
        out=settings.picture,
    )
    entries = [_entry(p) for row in rows for p in row]
    content: dict[str, Any] = {
        "image": str(settings.image),
        "question": settings.question,
        "answer": reply.text,
        "probabilities": chances,
        "picture": str(settings.picture),
        "model": {"name": settings.model.name, **described},
        "grid": [probe.geometry.rows, probe.geometry.columns],
        "panels": entries,
    }
    write_json([content], settings.json_out)
    if settings.json_out == "-":
        return
    said = " · ".join(f"p({k}) {v:.3f}" for k, v in chances.items())
    console.print(
        f"{settings.question}\n→ {reply.text.strip() or '(nothing)'}" + (f"   {said}" if said else ""),
        markup=False,
        soft_wrap=True,
    )
    console.print(_table(rows))
    notes.print(f"picture: {settings.picture}")


def _prepare(picture: Path) -> None:
    """Refuse a picture that cannot be written before any work is done for it, and make its folder."""
    if picture.suffix.lower() not in FORMATS:
        raise DataError(f"--out {picture}: give a name that ends in {', '.join(FORMATS)}")
    if picture.is_dir():
        raise DataError(f"--out {picture}: is a folder; give a file's name")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {picture}: cannot make the folder {picture.parent}: {error.strerror}") from None


def _entry(panel: Panel) -> dict[str, Any]:
    return {
        "word": panel.label,
        "layer": panel.layer,
        "on_image": panel.on_image,
        "on_padding": panel.on_padding,
        "elsewhere": panel.elsewhere,
        "peak_over_flat": panel.peak,
        "correlation_with_all_tokens": panel.like_all,
        "map": [[round(float(v), 8) for v in line] for line in panel.map],
    }


def _table(rows: list[list[Panel]]) -> Table:
    table = Table(title="attention to the image, mean over all layers", title_justify="left")
    elsewhere = any(row[-1].elsewhere > 0 for row in rows)
    shares = ("on image %", "on padding %", *(["elsewhere %"] if elsewhere else []))
    for column in ("word", *shares, "peak × flat", "r with all tokens"):
        table.add_column(column, justify="left" if column == "word" else "right")
    for row in rows:
        panel = row[-1]
        like = "" if panel.like_all is None else f"{panel.like_all:.2f}"
        lying = (panel.on_image, panel.on_padding, panel.elsewhere)[: len(shares)]
        # Not a plain string: an answer may hold what the console takes for markup.
        table.add_row(Text(panel.label), *(f"{100 * share:.1f}" for share in lying), f"{panel.peak:.1f}", like)
    return table
