"""Regions that our own teacher found for phrases of training conversations."""

from __future__ import annotations

from pathlib import Path

from agevlm.data.masks import decode_mask, union_of
from agevlm.data.sources import FolderImages
from agevlm.errors import DataError
from analysis.regions import Gathered, Regions, chosen

NO_FILE, NOT_FOUND, AGAIN = "it has no image file", "the teacher kept no region of it", "it stands there already"
FIELDS = ["image", "phrase", "height", "width", "masks", "kept", "sample_id", "message", "start"]


def teacher_regions(folder: Path, images: Path, *, limit: int | None, seed: int) -> Regions:
    """A region for each phrase of an image, the kept masks together; a phrase that comes twice is taken once.

    Raises:
        DataError: no folder of `agevlm-train masks`, or parts that are missing or cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from train.data.region_table import MANIFEST, part_path, read_manifest

    manifest, source = read_manifest(folder), FolderImages(images)
    if manifest is None:
        raise DataError(f"{folder}: no {MANIFEST} in it; give a folder that agevlm-train masks wrote")
    rows = []
    for part in range(manifest.parts):
        path = part_path(folder, part)
        try:
            rows += pq.read_table(path, columns=FIELDS).to_pylist()
        except FileNotFoundError:
            raise DataError(f"{path}: missing; finish it with the agevlm-train masks command that began it") from None
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove it and make it again") from None
    gathered = Gathered()
    by_image: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        if row["image"]:
            by_image.setdefault(row["image"], []).append(row)
        else:
            gathered.miss(NO_FILE, f"{row['sample_id']}|{row['phrase']}")
    for name in chosen(by_image, limit, seed):
        _add_image(gathered, folder, name, by_image[name])
    gathered.notes.append(f"masks of {manifest.producer}, of {manifest.source}: a teacher's, not people's")
    return gathered.done(folder.name, source)


def _add_image(gathered: Gathered, folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    seen = set()
    for row in rows:
        phrase = str(row["phrase"]).strip()
        what = f"{row['sample_id']}|{row['message']}|{row['start']}|{phrase}"
        if not row["kept"]:
            gathered.miss(NOT_FOUND, what)
        elif phrase.lower() in seen:
            gathered.miss(AGAIN, what)
        else:
            seen.add(phrase.lower())
            height, width = int(str(row["height"])), int(str(row["width"]))
            kept = list(row["masks"])[: int(str(row["kept"]))]  # type: ignore[call-overload]
            try:
                masks = [decode_mask({"size": [height, width], "counts": counts}, height, width) for counts in kept]
            except DataError as error:
                raise DataError(f"{folder}: image {name}: {phrase!r}: {error}") from None
            gathered.add(name, phrase, union_of(masks, height, width), group="phrase")
