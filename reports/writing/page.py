"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reports.document import Figure, Gallery, Report, Section, Table
from reports.writing.fitting import fitted
from reports.writing.latex_tables import latex_table
from reports.writing.order import worst_first
from reports.writing.payload import items_json, pictures_json, script_json
from reports.writing.tables import csv_text, markdown
from reports.writing.visible import brief, visible

MOST_BYTES = 15_000_000
"""Of the page."""
_SVG_BYTES = 200_000
"""A larger drawing is set as PNG."""
_SCALE = 0.72
"""Of a figure on the page, to its PNG with 160 dots to the inch."""
_DENSE = 115
"""Characters of a row that has room."""
_STATIC = 20
"""Questions listed where scripts do not run."""
_URL = re.compile(r"https?://[^\s<>\"']*[^\s<>\"'.,;:)\]]")
_PNG = b"\x89PNG\r\n\x1a\n"


def page(report: Report, most: int = MOST_BYTES) -> tuple[str, list[str]]:
    """The page, and what had to be left out of it for its size, as it says itself.

    Nothing is loaded from anywhere: styles, scripts and pictures are in the file, and its Content-Security-Policy
    allows no others. All texts of the report are escaped.

    Args:
        report: to write.
        most: bytes; pictures of the gallery are left out where it would be larger.
    """
    text = _rendered(report)
    said: list[str] = []
    if report.gallery is not None and len(text.encode()) > most:
        bare = replace(report, gallery=replace(report.gallery, pictures=(), overlays=()))
        # The notes on what is left out need some room too.
        gallery, said = fitted(report.gallery, most - len(_rendered(bare).encode()) - 1000)
        report = replace(report, gallery=gallery)
        text = _rendered(report)
    if (size := len(text.encode())) > most:
        said.append(f"this page has {size / 1e6:.1f} MB, more than the {most / 1e6:.0f} MB that it should have at most")
        text = _rendered(replace(report, warnings=(*report.warnings, said[-1])))
    return text, said


@cache
def _look() -> tuple[jinja2.Template, dict[str, str]]:
    """The template, and styles and scripts by their names."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports.writing", "look"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"seen": visible, "brief": brief, "linked": _linked}
    environment.filters["lines"] = lambda text: visible(text, lines=True)
    folder = resources.files("reports.writing") / "look"
    names = ("page.css", "theme.js", "page.js", "gallery.js")
    return environment.get_template("page.html.jinja"), {
        name: (folder / name).read_text(encoding="utf-8") for name in names
    }


def _rendered(report: Report) -> str:
    template, looks = _look()
    scripts = [Markup(looks[name]) for name in looks if name.endswith(".js")]
    texts = {
        table.id: {"tex": latex_table(table), "md": markdown(table), "csv": csv_text(table)} for table in report.tables
    }
    return template.render(
        report=report,
        policy=_policy(looks["page.css"], scripts),
        style=Markup(looks["page.css"]),
        scripts=scripts,
        blocks=_blocks,
        source=_source,
        size=_size,
        dense=_dense,
        texts=Markup(script_json(texts)),
        items=Markup(items_json(report.gallery)) if report.gallery else "",
        pictures=Markup(pictures_json(report.gallery)) if report.gallery else "",
        worst=_worst(report.gallery) if report.gallery else (),
    )


def _policy(style: str, scripts: Sequence[str]) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash(style)}",
            f"script-src {' '.join(map(_hash, scripts))}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _linked(text: str) -> Markup:
    """A text whose addresses can be followed."""
    text = visible(text)
    parts: list[str] = []
    end = 0
    for found in _URL.finditer(text):
        parts += [escape(text[end : found.start()]), Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _blocks(section: Section) -> list[tuple[str, list[Any]]]:
    """The items of a section; figures that follow each other together."""
    return [(name, list(items)) for name, items in groupby(section.items, lambda item: type(item).__name__)]


def _dense(table: Table) -> bool:
    """Whether limits stand below their numbers, since beside them the table would not fit."""
    return max((sum(len(str(cell)) + 2 for cell in row) for row in table.rows), default=0) > _DENSE


def _source(figure: Figure) -> str:
    kind, data = ("svg+xml", figure.svg) if len(figure.svg) <= _SVG_BYTES else ("png", figure.png)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _size(figure: Figure) -> tuple[int, int] | None:
    """In pixels: type of 8 points is as large as the page's small type, and two figures stand side by side."""
    if figure.png[:8] != _PNG or len(figure.png) < 24:
        return None
    width, height = struct.unpack(">II", figure.png[16:24])
    return round(_SCALE * width), round(_SCALE * height)


def _worst(gallery: Gallery) -> list[Any]:
    return [gallery.items[place] for place in worst_first(gallery.items)[:_STATIC]]
