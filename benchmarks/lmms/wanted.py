"""What lmms-eval's requests want, in our terms: an image by its content, a prompt, a token budget, where to stop.

Nothing here changes a request: lmms-eval's own cache keys, its logs and other models see `gen_kwargs` as the task wrote
them. Needs no lmms-eval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agevlm.errors import DataError, NotSupported
from benchmarks.plan import Shown

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_TOKENS = 1024
"""Tokens of an answer where the task states none, as in lmms-eval's own wrappers."""
KNOWN = {"until", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams", "image_sizes"}
"""Generation settings that are honoured, or that play no part in greedy decoding."""
PLACEHOLDER = "<image>"
MARGIN = 10
"""Pixels between images that are joined."""
IMAGE_FILES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Decoding:
    """How an answer is to be generated; always greedily."""

    max_new_tokens: int
    until: tuple[str, ...]
    """The answer ends before the first of these strings. It is cut there; the record keeps all that was generated."""
    ignored: tuple[str, ...] = ()
    """Settings of the task that are not honoured."""

    def cut(self, text: str) -> str:
        """The answer as lmms-eval is to see it."""
        return text[: min((place for stop in self.until if (place := text.find(stop)) >= 0), default=len(text))]


@dataclass(frozen=True)
class Wanted:
    """One request."""

    where: str
    """Task, split and document, for messages."""
    shown: Shown | None
    """The image; None for a document without one."""
    prompt: str
    decoding: Decoding
    option: str | None = None
    """The continuation whose log-likelihood is wanted; None where text is to be generated."""


def read_decoding(settings: Mapping[str, Any], where: str) -> Decoding:
    """The decoding that a task's `generation_kwargs` ask for.

    Raises:
        NotSupported: sampling or beams: a sampled answer would be none that could be kept or compared.
        DataError: a token budget that is none.
    """
    temperature, sampled = settings.get("temperature"), settings.get("do_sample")
    if sampled is not False and (float(temperature or 0) > 0 or (sampled and temperature is None)):
        raise NotSupported(
            f"{where}: asks for sampling ({_some(settings, 'do_sample', 'temperature')}); answers here are greedy. "
            "Give --gen_kwargs temperature=0,do_sample=False"
        )
    if int(settings.get("num_beams") or 1) > 1:
        raise NotSupported(
            f"{where}: asks for {settings['num_beams']} beams; answers here are greedy. Give --gen_kwargs num_beams=1"
        )
    until = settings.get("until") or ()
    return Decoding(
        token_budget(settings, where),
        tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
        tuple(sorted(k for k, v in settings.items() if k not in KNOWN and v is not None)),
    )


def token_budget(settings: Mapping[str, Any], where: str) -> int:
    """Most tokens of an answer, `DEFAULT_TOKENS` where the settings state none. Raises DataError."""
    stated = settings.get("max_new_tokens")
    if stated is None:
        return DEFAULT_TOKENS
    try:
        if isinstance(stated, bool) or int(stated) != float(stated) or int(stated) < 1:
            raise ValueError
        return int(stated)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: max_new_tokens={stated}: give a whole number of at least 1") from None


def _some(settings: Mapping[str, Any], *names: str) -> str:
    return ", ".join(f"{name}={settings[name]}" for name in names if name in settings)


def one_image(visuals: Any, where: str, *, join: bool = False) -> Image | None:
    """The image that a document's visuals are, RGB; None where there are none.

    Args:
        visuals: what the task hands out: images, paths, dictionaries, one of them or a list.
        where: begins every message.
        join: put several images side by side into one.

    Raises:
        NotSupported: several images that are not to be joined, or anything that is none (video, audio).
        DataError: an image file that cannot be opened.
    """
    if visuals is None:
        return None
    items = list(visuals) if isinstance(visuals, (list, tuple)) else [visuals]
    if len(items) > 1 and not join:
        raise NotSupported(
            f"{where}: has {len(items)} images, and a question here has one or none. To put them side by side into "
            "one: several_images=join (agevlm-eval lmms --join-images)"
        )
    images = [_image(item, where) for item in items]
    return side_by_side(images) if len(images) > 1 else next(iter(images), None)


def side_by_side(images: Sequence[Image]) -> Image:
    """Images from left to right on black, centred vertically, `MARGIN` pixels apart.

    As in BLINK's own evaluation of models that take one image (zeyofu/BLINK_Benchmark, eval).
    """
    from PIL import Image as Pillow

    height = max(image.height for image in images)
    joined = Pillow.new("RGB", (sum(image.width for image in images) + MARGIN * (len(images) - 1), height))
    left = 0
    for image in images:
        joined.paste(image, (left, (height - image.height) // 2))
        left += image.width + MARGIN
    return joined


def _image(item: Any, where: str) -> Image:
    from PIL import Image as Pillow

    if isinstance(item, Mapping):
        item = item.get("url") or item.get("path") or item
    if isinstance(item, Pillow.Image):
        return item.convert("RGB")
    if isinstance(item, str) and Path(item).suffix.lower() in IMAGE_FILES:
        from agevlm.data.images import decode, read_file

        return decode(read_file(Path(item)))
    what = item if isinstance(item, str) else type(item).__name__
    raise NotSupported(f"{where}: {what!s:.200} is no image; neither video nor audio can be asked about here")


def identity(image: Image) -> str:
    """Content identity of an RGB image: SHA-256 of its size and pixels."""
    width, height = image.size
    return f"pixels {hashlib.sha256(f'{width}x{height} '.encode() + image.tobytes()).hexdigest()}"


def plain_prompt(text: str, *, with_image: bool) -> str:
    """A prompt without the one placeholder that some tasks write where the image goes: here the image stands first."""
    if with_image and text.count(PLACEHOLDER) == 1:
        return text.replace(PLACEHOLDER, "").strip()
    return text


def chat_parts(messages: Sequence[Any], where: str) -> tuple[list[Any], str]:
    """The visuals and the text of a chat task's messages.

    The texts of one user turn are joined by line breaks, a system message before them; the image stands before all of
    it, wherever the task puts it.

    Raises:
        NotSupported: earlier turns of a conversation, or parts that are neither image nor text.
    """
    visuals, texts, users = [], [], 0
    for message in messages:
        users += message["role"] == "user"
        if message["role"] not in ("user", "system") or users > 1:
            raise NotSupported(f"{where}: is a conversation of several turns; a question here is one user turn")
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "image":
                visuals.append(part.get("url", part.get("image")))
            else:
                raise NotSupported(f"{where}: has a part of type {part['type']!r}; only images and text can be asked")
    return visuals, "\n".join(text.strip("\n") if len(texts) > 1 else text for text in texts if text)


class Images:
    """Images of a list of requests by their content, opened again when their turn comes: none is held meanwhile."""

    def __init__(self) -> None:
        self._open: dict[str, Callable[[], Image | None]] = {}

    def add(self, name: str, opened: Callable[[], Image | None]) -> Shown | None:
        """Note an image under its content; None where there is none."""
        image = opened()
        if image is None:
            return None
        content = identity(image)
        self._open.setdefault(content, opened)
        return Shown(content, name)

    def load(self, shown: Shown) -> Image:
        """The pixels of a noted image."""
        image = self._open[shown.identity]()
        if image is None:
            raise LookupError(f"{shown.name}: its image is gone")
        return image
