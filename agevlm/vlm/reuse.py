"""What a model's questions about one image share, and how that is told. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Reuse:
    """What is done once for all questions of an image."""

    image: bool = True
    """The image is encoded once."""
    prefix: bool = True
    """The prompt's beginning, image included, runs through the language model once."""
    why: str = ""
    """What keeps more from being shared; empty where nothing does."""

    def facts(self) -> dict[str, object]:
        """For `describe` and the manifest."""
        return {name: value for name, value in asdict(self).items() if value != ""}


def remark(description: Mapping[str, object]) -> str:
    """One line for whoever waits for a run in which a model shares less than it could; empty where it shares all."""
    reuse = description.get("reuse")
    if not isinstance(reuse, Mapping) or (reuse.get("image") and reuse.get("prefix")):
        return ""
    if reuse.get("image"):
        return f"each image is encoded once, but every question runs its whole prompt: {reuse.get('why')}"
    return f"every question runs alone, as plain generate does, with the image encoded anew: {reuse.get('why')}"
