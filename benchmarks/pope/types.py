"""What a POPE question is, once its file format is behind us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

SPLITS = ("random", "popular", "adversarial")
"""The splits of POPE in the order tables print them."""
LIMIT = " limit "
"""What stands in a data version between the version and the number of images it was limited to."""
PAIRED = "popev2"
"""The split whose clusters are pairs: the same question about an original and an edited image."""


@dataclass(frozen=True, slots=True)
class Question:
    """One yes/no question about one image.

    `text` is the question alone: a prompt suffix that a file carries ("Answer the question using a single word or
    phrase.") is taken off on loading, so that the prompt template alone decides what the model is asked.
    """

    split: str
    """random, popular, adversarial; popev2; or the file's stem where the name tells no split."""
    question_id: str
    """As the file gives it (integers as their decimal string); unique within its split."""
    image: str
    """The image's file name as the file gives it: a POSIX path relative to the image folder."""
    text: str
    label: bool
    """True where the official answer is yes."""
    object_name: str
    """The object that is asked about ("dining table"); the whole question where no template matches."""
    cluster: str
    """The sampling unit of the statistics: the image, or in POPEv2 the pair of original and edited image."""
    where: str
    """File and line or row, for error messages."""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one data set in all its splits, and which published data version they are."""

    name: str
    """The data set's family: coco, aokvqa, gqa, popev2, or the file's stem."""
    data_version: str
    """A published version by content ("pope-coco@3df3ba1") or `custom:` and the first 12 hex digits of the hash."""
    content_sha256: str
    """Hash of the sorted (split, image stem, question, label) rows: blind to line endings, ids, order, container."""
    questions: tuple[Question, ...]
    image_bytes: Mapping[str, bytes] | None = None
    """Encoded image files by name where the questions' own container holds them (parquet, hub); else None."""

    @property
    def split_counts(self) -> dict[str, int]:
        """Questions in each split."""
        return dict(Counter(q.split for q in self.questions))
