"""How a candidate answer may be written as one token."""

SPACES = ("", " ", "▁", "Ġ")
"""Nothing, and how tokenizers write a leading space: as itself, SentencePiece, byte-level BPE."""


def forms(candidate: str) -> list[str]:
    """Case variants of a candidate: "yes" -> yes, Yes, YES."""
    return list(dict.fromkeys([candidate, candidate.lower(), candidate.capitalize(), candidate.upper()]))
