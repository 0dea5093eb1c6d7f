"""What the session keeps of images, and asks as rows of token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from agevlm.vlm.contract import EncodedImages
from agevlm.vlm.hf.prefix import Prefix

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm


@dataclass
class HfImages(EncodedImages):
    """Vision features per image and, once a question was asked, the keys and values of its prompt prefix."""

    owner: HfVlm
    """The model whose features these are."""
    features: list[Any]
    """Per image what the family keeps of it, on the model's device."""
    sizes: list[tuple[int, int]]
    """Width and height of each image as given, in pixels."""
    pictures: list[Image] = field(default_factory=list)
    """The images as given, for models that cannot be asked about encoded ones."""
    prefixes: dict[int | None, Prefix] = field(default_factory=dict)
    """The prefix last built for each image; None for asks without an image."""
    rendered: dict[tuple[str, int | None], tuple[str, list[int], int]] = field(default_factory=dict)
    """Prompts about each image: text, token ids, how many of these stand for it. Looking inside asks for them again."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Row:
    """One ask (or one option of an ask) as token ids."""

    image: int | None
    ids: list[int]
    continuation: list[int] = field(default_factory=list)
    limit: int = 0
