"""Text that was written by a model or a data file, made so that what is in it can be seen and does nothing."""

from __future__ import annotations

import unicodedata

# Joiners belong to emoji and to several scripts, and reorder nothing.
_KEPT = "\u200c\u200d"
LONGEST = 4000
"""Characters of a text in the gallery."""


def visible(text: str, lines: bool = False) -> str:
    r"""Control and format characters, marks of direction, lone surrogates and line ends as escapes (`\u202e`).

    Every form of a report writes a text through this first, so that all forms hold the same characters.

    Args:
        text: any.
        lines: line ends and tabs stay: the text is set in lines.
    """
    # Almost every text: Python calls printable what has no character of these categories.
    if text.isprintable():
        return text
    if lines:
        text = text.replace("\r\n", "\n")
    return "".join(c if _harmless(c) or (lines and c in "\n\t") else _escaped(c) for c in text)


def brief(text: str, lines: bool = False) -> str:
    """The same of a text in the gallery, where one answer without end must not fill the page: cut, and said so."""
    cut = f" … (cut: {len(text):,} characters)" if len(text) > LONGEST else ""
    return visible(text[:LONGEST], lines) + cut


def _harmless(char: str) -> bool:
    return char in _KEPT or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
