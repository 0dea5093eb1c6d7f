"""A report full of what must do no harm, written once."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from reports.document import (
    Cell,
    Column,
    Figure,
    Gallery,
    Item,
    ItemKind,
    Listing,
    Overlay,
    Picture,
    Report,
    Section,
    Table,
    number,
)
from reports.writing.files import write_report
from tests.reports.writing.browser import CHROMIUM, Browser, browser

SCRIPT = "<script>alert(1)</script>"
CLOSING = "</script><script>alert(2)</script><!-- "
NASTY = (
    SCRIPT,
    CLOSING,
    "a\"b'c.png",
    "<img src=x onerror=alert(3)>",
    r"100% of $x_1$ & {y} #2 ~ ^ \input{secret} \\ \end{tabular}",
    "模型 🙂 naïve Łódź ş ő ñ",
    "pipes | `ticks` *stars* _lines_ [link](http://evil.example/x)",
    "two\nlines\r\nand\ttabs",
    "\u2028 and \u2029 \u202eright to left\u200f \x00\x1b[31m \ud800",
    "=HYPERLINK(1)",
    "[first",
    "*star",
    "- item",
    "1. item",
    "--- ?` !` ,, '' \"\" << >>",
    "≥ ≤ × ± → µ α Ω – — … “x” ‘y’ 10² x₁ −3",
    "https://example.org/a_very/long-address/that.has&no=spaces?for_latex#to-break-at-and-goes-on-and-on",
    "&lt;b&gt; &amp;amp;",
    "",
    "{{ 7 * 7 }} {% raw %}",
)


def image(size: tuple[int, int], colour: tuple[int, ...], kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA" if kind == "PNG" else "RGB", size, colour).save(out, kind)
    return out.getvalue()


def tables() -> list[Table]:
    columns = [Column("model, <b>", numeric=False), Column("F1 & | %"), Column("change"), Column("n")]
    rows = [
        [
            Cell(text),
            number(0.6 + place / 100, 0.5, 0.7),
            number(-0.021 + place / 300, -0.04, 0.01, "points") if place % 3 else number(None),
            number(1000 * place, unit="count"),
        ]
        for place, text in enumerate(NASTY)
    ]
    wide = [Column("split", numeric=False), *[Column(f"a score of some length {k}") for k in range(14)]]
    plain = [Column("", numeric=False), Column("only", numeric=False), Column("mean")]
    return [
        Table("nasty", f"Everything {SCRIPT} & $x$_1", columns, rows, (f"note {CLOSING} 5 % | x", NASTY[8])),
        Table("wide", "Wide", wide, [[Cell("random"), *[number(k / 15, 0.1, 0.9) for k in range(14)]]] * 3),
        Table(
            "long",
            "Long",
            plain,
            [[Cell(f"r {k}"), Cell("x"), number(k / 99, unit="number")] for k in range(99)],
            folded=True,
        ),
        Table(
            "texts",
            "Long texts",
            plain,
            [[Cell(f"{k} {'a word ' * 30}"), Cell("0f" * 32), number(1)] for k in range(12)],
        ),
        Table("empty", "No rows", plain, []),
    ]


def items(count: int = 90, pictures: int = 3) -> list[Item]:
    kinds: tuple[ItemKind, ...] = ("right", "missed", "false yes", "right", "unparsed", "not answered", "not counted")
    found = []
    for place in range(count):
        kind = kinds[place % len(kinds)]
        margin = None if place % 5 == 0 else (place * 37 % 101 / 10 - 5)
        found.append(
            Item(
                run="A <b>" if place % 2 else "B & C",
                number=str(place),
                split=("random", "popular", "adversarial")[place // 3 % 3],
                category=("dog", "hot dog", "fork")[place // 4 % 3],
                question=f"Is there a thing {place % 10} in the image?",
                official="yes" if place % 2 else "no",
                answer=None if kind == "not answered" else NASTY[place % len(NASTY)],
                read="yes (leading-yes)",
                kind=kind,
                margin=margin,
                logprobs=()
                if margin is None
                else (("yes", -0.1234 * place), ("no", -math.inf if place == 1 else -1.0)),
                size=(None, 0.004, 0.05, 0.3)[place % 4],
                image=f"a\"b'c {place % pictures}.png",
                picture=place % pictures if place % 4 else None,
                overlay=place % 2 if place % 4 == 1 else None,
            )
        )
    return found


def report(made: str = "2026-01-02 03:04 UTC") -> Report:
    png = image((40, 30), (200, 0, 0, 255), "PNG")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><script>alert(4)</script></svg>'
    gallery = Gallery(
        items(),
        [
            Picture(f"{k}.jpg", image((40, 30 + 20 * k), (0, 90 * k, 0), "JPEG"), "jpeg", 40, 30 + 20 * k)
            for k in range(3)
        ],
        [Overlay(image((8, 8), (255, 0, 0, 99), "PNG"), png if k else None, f"layer {k} {SCRIPT}") for k in range(2)],
        (f"note {SCRIPT}",),
        seed=3,
    )
    first, *others = tables()
    sections = [
        Section("one", f"One {SCRIPT}", NASTY, [first, *others]),
        Section(
            "two",
            "Two",
            (),
            [Figure("fig", SCRIPT, "a \" alt ' <", png, svg, CLOSING), Listing(SCRIPT, "\n".join(NASTY))],
        ),
    ]
    return Report(f"Title {CLOSING}", made, f"agevlm-eval report 'a b' {SCRIPT}", NASTY[:9], sections, gallery)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that report."""
    return write_report(report(), tmp_path_factory.mktemp("report") / "nasty").parent


@pytest.fixture(scope="session")
def tab() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with browser() as found:
        yield found
