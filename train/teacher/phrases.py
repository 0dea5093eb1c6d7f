"""Which words of a conversation a teacher looks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agevlm.errors import DataError
from train.data.naming import Names
from train.data.samples import Sample, Words

SPACY = "spacy:"
COCO = Path(__file__).with_name("coco.txt")
"""The names of COCO's 80 categories of things."""


class PhraseFinder(Protocol):
    """Finds words that may name a region."""

    @property
    def version(self) -> str:
        """Changes when other words may be found."""
        ...

    def find(self, sample: Sample) -> list[Words]:
        """Words to look for, in the order of the text, each once."""
        ...


@dataclass(frozen=True)
class Given:
    """The phrases that the data name, with or without a region; some may stand inside others."""

    version: str = "given"

    def find(self, sample: Sample) -> list[Words]:
        named = [Words(p.message, p.start, p.end) for p in sample.phrases] + list(sample.words)
        return list(dict.fromkeys(sorted(named, key=lambda w: (w.message, w.start, -w.end))))


class Vocabulary:
    """Whole words from a list, singular or plural, in any case; see `Names`.

    Args:
        terms: words or phrases in the singular.
        name: of the list, for messages and the version.
    """

    def __init__(self, terms: Sequence[str], name: str) -> None:
        import hashlib

        terms = sorted({" ".join(term.lower().split()) for term in terms} - {""})
        if not terms:
            raise DataError(f"{name}: no phrase in it; give one a line")
        self._names = Names(terms)
        self.version = f"words of {name} ({hashlib.sha256(chr(10).join(terms).encode()).hexdigest()[:12]})"

    @classmethod
    def open(cls, path: Path) -> Vocabulary:
        """From a file with a phrase a line. Raises DataError."""
        try:
            return cls(path.read_text(encoding="utf-8").splitlines(), path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--phrases {path}: cannot be read: {error}; give a text file, a phrase a line") from None

    def find(self, sample: Sample) -> list[Words]:
        return _in_messages(sample, lambda text: [(one.start, one.end) for one in self._names.find(text)])


class NounPhrases:
    """Noun phrases as a spaCy pipeline chunks them, without articles; pronouns are left out.

    Args:
        pipeline: name or path of a pipeline with tagger and parser, as en_core_web_sm.
    """

    def __init__(self, pipeline: str) -> None:
        try:
            import spacy  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise DataError(
                f"--phrases {SPACY}{pipeline}: spaCy is not installed; pip install spacy, and the pipeline itself"
            ) from None
        try:
            self._pipeline: Any = spacy.load(pipeline)
        except (OSError, ValueError) as error:
            raise DataError(f"--phrases {SPACY}{pipeline}: {error}") from None
        if "parser" not in self._pipeline.pipe_names:
            raise DataError(f"--phrases {SPACY}{pipeline}: it has no parser, so it finds no noun phrases; give another")
        meta = self._pipeline.meta
        self.version = f"noun phrases of spaCy's {meta.get('lang')}_{meta.get('name')} {meta.get('version')}"

    def find(self, sample: Sample) -> list[Words]:
        return _in_messages(sample, self._spans)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        found = []
        for chunk in self._pipeline(text).noun_chunks:
            tokens = [token for token in chunk if token.pos_ not in ("DET", "PRON", "SPACE")]
            if tokens:
                found.append((tokens[0].idx, tokens[-1].idx + len(tokens[-1].text)))
        return found


def open_finder(name: str) -> PhraseFinder:
    """`given`, `coco` (the names of COCO's categories), `spacy:PIPELINE`, or a file with a phrase a line.

    Raises:
        DataError: no such file, an empty one, or spaCy or its pipeline is missing.
    """
    if name == "given":
        return Given()
    if name == "coco":
        return Vocabulary.open(COCO)
    if name.startswith(SPACY):
        return NounPhrases(name.removeprefix(SPACY))
    return Vocabulary.open(Path(name).expanduser())


def _in_messages(sample: Sample, spans: Callable[[str], Sequence[tuple[int, int]]]) -> list[Words]:
    """Spans in what user and assistant say."""
    return _apart(
        [
            Words(number, *span)
            for number, message in enumerate(sample.messages)
            if message.role != "system"
            for span in spans(message.text)
        ]
    )


def _apart(words: Sequence[Words]) -> list[Words]:
    """Without those that overlap one before them."""
    kept: list[Words] = []
    for one in words:
        if not kept or kept[-1].message != one.message or kept[-1].end <= one.start:
            kept.append(one)
    return kept
