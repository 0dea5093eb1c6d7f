"""Any text as LaTeX that pdflatex sets, whatever fonts there are."""

from __future__ import annotations

import re
import unicodedata

_PLAIN: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # Straight, in the old font encoding too.
    '"': r"{\ttfamily\char34}",
    "'": r"{\ttfamily\char39}",
    "\u00a0": "~",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "…": r"\ldots{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "§": r"\S{}",
}
_MATHS: dict[str, str] = {
    "−": "-",
    "±": r"\pm",
    "×": r"\times",
    "÷": r"\div",
    "·": r"\cdot",
    "≤": r"\le",
    "≥": r"\ge",
    "≠": r"\ne",
    "≈": r"\approx",
    "∞": r"\infty",
    "√": r"\surd",
    "∑": r"\sum",
    "∈": r"\in",
    "∩": r"\cap",
    "∪": r"\cup",
    "→": r"\rightarrow",
    "←": r"\leftarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "°": r"^{\circ}",
    "µ": r"\mu",
    **{chr(0x2080 + digit): f"_{digit}" for digit in range(10)},
    **{"⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]: f"^{digit}" for digit in range(10)},
}
# From alpha on, as they stand in Unicode; TeX has no omicron and no final sigma.
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
    *("xi", "", "pi", "rho", "", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
_MATHS |= {chr(0x3B1 + place): rf"\{name}" for place, name in enumerate(_GREEK) if name}
_MATHS |= {
    chr(0x391 + _GREEK.index(name)): rf"\{name.capitalize()}"
    for name in ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega")
}
_ACCENTS: dict[str, str] = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0323": "d",
    "\u0327": "c",
    "\u0331": "b",
}
_LONG = 24
_BREAKS = "/-_.=&?"
_WHOLE = 12
"""Characters of a long word without a break, a digest's."""


def latex(text: str) -> str:
    r"""A text that pdflatex sets as it is, with nothing in it a command.

    Latin letters with accents, Greek and the usual signs are set; every other character that a standard font lacks
    (CJK, emoji) stands as its code point, `[U+1F600]`, for all to see. Long words may break, after a `/` or `-`, say.
    """
    return "".join(_word(part) for part in re.split(r"(\s+)", text))


def _word(word: str) -> str:
    long = len(word) > _LONG
    parts: list[str] = []
    whole = 0
    for place, char in enumerate(word):
        parts.append(_char(char))
        whole += 1
        if long and (char in _BREAKS or whole == _WHOLE) and place + 1 < len(word):
            parts.append(r"\allowbreak{}")
            whole = 0
        elif char == "-" and word[place + 1 : place + 2] == "-":
            # Else two hyphens become a dash.
            parts.append("{}")
        elif char in ",!?" and place + 1 < len(word):
            # `,,` and the Spanish marks are ligatures.
            parts.append("{}" if word[place + 1] in ",`" else "")
    return "".join(parts)


def _char(char: str) -> str:
    if char in _PLAIN:
        return _PLAIN[char]
    if char in _MATHS:
        return f"${_MATHS[char]}$"
    if " " <= char <= "~":
        return char
    if char.isspace():
        return " "
    base, *marks = list(unicodedata.normalize("NFD", char))
    if len(marks) == 1 and base.isascii() and base.isalpha() and marks[0] in _ACCENTS:
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    return rf"{{[}}U+{ord(char):04X}{{]}}"
