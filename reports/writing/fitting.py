"""A gallery made to fit a page of limited size: what is left out, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from reports.document import Gallery, Item
from reports.writing.order import is_wrong, worst_first


def fitted(gallery: Gallery, room: int) -> tuple[Gallery, list[str]]:
    """The gallery with as many pictures and overlays as there is room for.

    Kept first are the pictures of wrong answers, then their overlays, the other pictures, the other overlays; each in
    the order `worst_first`, up to the first that does not fit.

    Args:
        gallery: all of it.
        room: bytes for pictures and overlays as they stand in the page.

    Returns:
        The gallery, its notes with what was left out, and those new notes alone.
    """
    sizes: dict[tuple[str, int], int] = {("picture", k): _bytes(one.data) for k, one in enumerate(gallery.pictures)}
    for place, over in enumerate(gallery.overlays):
        sizes["overlay", place] = _bytes(over.attention, over.mask or b"", over.note.encode())
    if sum(sizes.values()) <= room:
        return gallery, []
    kept: dict[str, dict[int, int]] = {"picture": {}, "overlay": {}}
    for what, place in dict.fromkeys(_wanted([gallery.items[place] for place in worst_first(gallery.items)])):
        room -= sizes[what, place]
        if room < 0:
            break
        kept[what][place] = len(kept[what])
    said = [
        f"To keep this file small, {of - len(kept[what]):,} of {of:,} {what}s were left out; those of wrong answers, "
        "the worst first, were kept."
        for what, of in (("picture", len(gallery.pictures)), ("overlay", len(gallery.overlays)))
        if len(kept[what]) < of
    ]
    fewer = replace(
        gallery,
        items=tuple(
            replace(item, picture=_new(kept["picture"], item.picture), overlay=_new(kept["overlay"], item.overlay))
            for item in gallery.items
        ),
        pictures=tuple(gallery.pictures[place] for place in kept["picture"]),
        overlays=tuple(gallery.overlays[place] for place in kept["overlay"]),
        notes=(*gallery.notes, *said),
    )
    return fewer, said


def _wanted(ordered: Sequence[Item]) -> Iterator[tuple[str, int]]:
    for group in ([one for one in ordered if is_wrong(one)], [one for one in ordered if not is_wrong(one)]):
        yield from (("picture", one.picture) for one in group if one.picture is not None)
        yield from (("overlay", one.overlay) for one in group if one.overlay is not None)


def _new(kept: dict[int, int], place: int | None) -> int | None:
    return None if place is None else kept.get(place)


def _bytes(*parts: bytes) -> int:
    """In base64, with quotes, commas and the measures of a picture."""
    return sum((len(part) + 2) // 3 * 4 + 3 for part in parts) + 40
