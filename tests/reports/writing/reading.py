"""Tables read back out of every form, each by a reader of its own."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser
from io import StringIO

import pandas
from markdown_it import MarkdownIt

Grid = list[list[str]]

_COMMANDS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textasciigrave": "`", "textendash": "–", "textemdash": "—", "textquoteleft": "‘",
    "textquoteright": "’", "textquotedblleft": "“", "textquotedblright": "”", "ldots": "…", "ss": "ß", "ae": "æ",
    "AE": "Æ", "oe": "œ", "OE": "Œ", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "i": "ı", "S": "§", "allowbreak": "",
    "scriptsize": "", "ttfamily": "",
}  # fmt: skip
_MATHS = {
    r"\pm": "±", r"\times": "×", r"\div": "÷", r"\cdot": "·", r"\le": "≤", r"\ge": "≥", r"\ne": "≠", r"\approx": "≈",
    r"\infty": "∞", r"\surd": "√", r"\sum": "∑", r"\in": "∈", r"\cap": "∩", r"\cup": "∪", r"\rightarrow": "→",
    r"\leftarrow": "←", r"\uparrow": "↑", r"\downarrow": "↓", r"^{\circ}": "°", r"\mu": "µ", "-": "-", "+": "+",
}  # fmt: skip
_MARKS = {"`": 0x300, "'": 0x301, "^": 0x302, "~": 0x303, "=": 0x304, "u": 0x306, ".": 0x307, '"': 0x308, "r": 0x30A,
          "H": 0x30B, "v": 0x30C, "d": 0x323, "c": 0x327, "b": 0x331}  # fmt: skip


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Grid] = {}
        self.grid: Grid | None = None
        self.cell: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.grid = self.found[dict(attrs)["data-id"] or ""] = []
        elif self.grid is not None and tag == "tr":
            self.grid.append([])
        elif self.grid is not None and tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self.grid is not None and self.cell is not None:
            self.grid[-1].append(self.cell)
            self.cell = None
        elif tag == "table":
            self.grid = None


def from_html(page: str) -> dict[str, Grid]:
    """The tables by their ids, headings first."""
    parser = _Tables()
    parser.feed(page)
    return parser.found


def from_markdown(text: str) -> list[Grid]:
    """All tables, as GitHub's dialect has them."""
    grids: list[Grid] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type == "table_open":
            grids.append([])
        elif token.type == "tr_open":
            grids[-1].append([])
        elif token.type == "inline" and token.level > 3:
            assert {child.type for child in token.children or ()} <= {"text", "text_special"}, token.content
            grids[-1][-1].append("".join(child.content for child in token.children or ()))
    return grids


def from_csv(text: str) -> Grid:
    """With limits put back into brackets."""
    frame = pandas.read_csv(StringIO(text), dtype=str, keep_default_na=False, header=None)
    head, *rows = frame.values.tolist()
    limited = [name for name in head if f"{name} low" in head]
    shown = [name for name in head if not re.fullmatch(r".* (low|high)", name, re.DOTALL)]
    grid = [shown]
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        for name in limited:
            if cells[f"{name} low"]:
                cells[name] += f" [{cells[f'{name} low']}, {cells[f'{name} high']}]"
        grid.append([cells[name] for name in shown])
    return grid


def from_latex(text: str) -> Grid:
    """The rows between the rules."""
    text = re.sub(r"(?s)\\endfirsthead.*?\\endlastfoot", "", text)
    body = re.search(r"(?s)\\toprule\n(.*?)(?:\\bottomrule|\\end\{longtable\})", text)
    assert body
    # Headings in lines are tables of their own.
    heads = re.sub(r"(?s)\\begin\{tabular\}\[b\]\{@\{\}[lr]@\{\}\}(.*?)\\end\{tabular\}", _one_line, body[1])
    rows = heads.replace("\\midrule\n", "").removesuffix(" \\\\\n").split(" \\\\\n")
    return [[plain(cell) for cell in re.split(r"(?<!\\) ?& ?", row)] for row in rows]


def _one_line(found: re.Match[str]) -> str:
    return found[1].replace("\\\\", " ")


def plain(text: str) -> str:
    """LaTeX as the text that it sets."""
    out = ""
    at = 0
    while at < len(text):
        rest = text[at:]
        if found := re.match(r"\{\\ttfamily\\char(\d+)\}", rest):
            out += chr(int(found[1]))
        elif found := re.match(r"\{\[\}U\+([0-9A-F]+)\{\]\}", rest):
            out += chr(int(found[1], 16))
        elif found := re.match(r"\$([^$]+)\$", rest):
            out += _maths(found[1])
        elif found := re.match(r"\\([`'^~=.\"]|[urHvdcb](?=\{))\{(\w)\}", rest):
            out += unicodedata.normalize("NFC", found[2] + chr(_MARKS[found[1]]))
        elif found := re.match(r"\\([&%$#_{}])", rest):
            out += found[1]
        elif found := re.match(r"\\([A-Za-z]+)(\{\}| ?)", rest):
            out += _COMMANDS[found[1]]
        elif found := re.match(r"[{}]", rest):
            pass
        elif found := re.match(r"~", rest):
            out += "\u00a0"
        else:
            found = re.match(r"(?s).", rest)
            assert found
            assert found[0] not in "\\&%$#_^"
            out += found[0]
        at += len(found[0])
    return out


def _maths(text: str) -> str:
    if text in _MATHS:
        return _MATHS[text]
    if found := re.fullmatch(r"([_^])(\d)", text):
        return ("₀₁₂₃₄₅₆₇₈₉" if found[1] == "_" else "⁰¹²³⁴⁵⁶⁷⁸⁹")[int(found[2])]
    name = text.removeprefix("\\")
    kind = "CAPITAL" if name[0].isupper() else "SMALL"
    return unicodedata.lookup(f"GREEK {kind} LETTER {name.upper().replace('LAMBDA', 'LAMDA')}")
