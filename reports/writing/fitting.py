"""A gallery made to fit a page of limited size: what is left out, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from reports.document import Gallery, Item
from reports.writing.order import worst_first


def fitted(gallery: Gallery, room: int) -> tuple[Gallery, list[str]]:
    """The gallery with as many pictures as there is room for.

    Overlays go first, then pictures; each from the end of the order `worst_first`, so that those of the worst answers
    stay. An overlay goes with its picture.

    Args:
        gallery: all of it.
        room: bytes for pictures and overlays as they stand in the page.

    Returns:
        The gallery, its notes with what was left out, and those new notes alone.
    """
    pictures = {place: _bytes(one.data) for place, one in enumerate(gallery.pictures)}
    overlays = {
        place: _bytes(one.attention, one.mask or b"", one.note.encode()) for place, one in enumerate(gallery.overlays)
    }
    if sum(pictures.values()) + sum(overlays.values()) <= room:
        return gallery, []
    ordered = [gallery.items[place] for place in worst_first(gallery.items)]
    kept_pictures = _first(ordered, lambda item: item.picture, pictures, room)
    left = room - sum(pictures[place] for place in kept_pictures)
    shown = [item for item in ordered if _new(kept_pictures, item.picture) is not None]
    kept_overlays = _first(shown, lambda item: item.overlay, overlays, left)
    said = [
        f"To keep this file small, {gone:,} of {of:,} {what} were left out, those of the worst answers last."
        for gone, of, what in (
            (len(overlays) - len(kept_overlays), len(overlays), "overlays"),
            (len(pictures) - len(kept_pictures), len(pictures), "pictures"),
        )
        if gone
    ]
    fewer = replace(
        gallery,
        items=tuple(
            replace(item, picture=_new(kept_pictures, item.picture), overlay=_new(kept_overlays, item.overlay))
            for item in gallery.items
        ),
        pictures=tuple(gallery.pictures[place] for place in kept_pictures),
        overlays=tuple(gallery.overlays[place] for place in kept_overlays),
        notes=(*gallery.notes, *said),
    )
    return fewer, said


def _first(ordered: list[Item], of: Callable[[Item], int | None], sizes: dict[int, int], room: int) -> dict[int, int]:
    """New places of what fits, by the old ones."""
    kept: dict[int, int] = {}
    for place in dict.fromkeys(of(item) for item in ordered):
        if place is None:
            continue
        room -= sizes[place]
        if room < 0:
            break
        kept[place] = len(kept)
    return kept


def _new(kept: dict[int, int], place: int | None) -> int | None:
    return None if place is None else kept.get(place)


def _bytes(*parts: bytes) -> int:
    """In base64, with quotes and commas."""
    return sum((len(part) + 2) // 3 * 4 + 3 for part in parts) + 40
