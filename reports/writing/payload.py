"""A gallery as JSON for the page: every text once, numbers as the text that is printed."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from reports.document import Gallery, Item, printed
from reports.writing.order import shuffled, worst_first
from reports.writing.visible import brief, visible

BANDS = ("small", "medium", "large", "unknown")
_SMALL, _LARGE = 0.01, 0.1


def band(size: float | None) -> str:
    """small: under 1 % of the image. medium: to 10 %. large: above. unknown: no mask."""
    if size is None or not math.isfinite(size):
        return "unknown"
    return "small" if size < _SMALL else "medium" if size <= _LARGE else "large"


def items_json(gallery: Gallery) -> str:
    """The questions, column by column, each cell a place in `texts` (-1: none), and two orders of theirs."""
    texts: dict[str, int] = {}

    def at(text: str | None) -> int:
        return -1 if text is None else texts.setdefault(text, len(texts))

    cells = [_texts(item) for item in gallery.items]
    columns: dict[str, list[int]] = {name: [at(one[name]) for one in cells] for name in (cells[0] if cells else ())}
    columns["picture"] = [-1 if item.picture is None else item.picture for item in gallery.items]
    columns["overlay"] = [-1 if item.overlay is None else item.overlay for item in gallery.items]
    logprobs = [
        [at(part) for name, value in item.logprobs for part in (visible(name), printed(value, "number"))]
        for item in gallery.items
    ]
    return script_json(
        {
            "count": len(gallery.items),
            "columns": columns,
            "logprobs": logprobs,
            "orders": {"worst": worst_first(gallery.items), "random": shuffled(len(gallery.items), gallery.seed)},
            "bands": BANDS,
            "texts": list(texts),
        }
    )


def pictures_json(gallery: Gallery) -> str:
    """Pictures and overlays in base64."""
    return script_json(
        {
            "pictures": [[one.kind, one.width, one.height, _text(one.data)] for one in gallery.pictures],
            "overlays": [
                [_text(one.attention), None if one.mask is None else _text(one.mask), visible(one.note)]
                for one in gallery.overlays
            ],
        }
    )


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends one or opens a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _texts(item: Item) -> dict[str, str | None]:
    return {
        "run": brief(item.run),
        "number": brief(item.number),
        "split": brief(item.split),
        "category": brief(item.category),
        "question": brief(item.question, lines=True),
        "official": brief(item.official, lines=True),
        "answer": None if item.answer is None else brief(item.answer, lines=True),
        "read": brief(item.read),
        "kind": item.kind,
        "margin": None if item.margin is None else printed(item.margin, "signed"),
        "size": None if item.size is None else f"{printed(item.size, 'percent')} %",
        "band": band(item.size),
        "image": brief(item.image),
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
