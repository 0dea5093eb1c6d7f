"""Rows of phrase-mask data sets in one form, whatever release they are from.

Referring expressions (RefCOCO, RefCOCO+, RefCOCOg): a row is an object with what people called it.

    expressions   `sentences` (texts, or objects with `sent` or `raw`), `expressions`, `answer` or `captions`
    region        `segmentation`, `mask` (an RLE object), `raw_anns` (a COCO annotation as JSON text), or `ann_id`,
                  or a list of these, looked up in COCO's instances.json; else `bbox`
    image         `image` (bytes in a Parquet file, or a file name), or a file name: that of `raw_image_info` (JSON
                  text) or of the annotation in instances.json, else `img_file_name` or `file_name`
    id            `ref_id`, `question_id` or `id`

That is what the REFER files' references have once they are JSON, and the Parquet releases jxu124/refcoco (refcocoplus,
refcocog) and lmms-lab/RefCOCO (RefCOCOplus, RefCOCOg).

Grounded captions (GLaMM's GCG): a row is an image with a caption and its phrases.

    GranDf, OpenPSG   `file_name`, `caption`, `groundings`: {phrase: {"token_positives": [start, end] or a list of
                      these, "rle_masks": [RLE, ...]}}, characters of the caption without quotes and blanks around it
    RefCOCOg-GCG      `img_file_name`, `caption`, `refs`: [{"sentence", "segmentation"}, ...]; sentences that the
                      caption does not have are left out
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agevlm.data.annotations import InstanceImage, Instances
from agevlm.errors import DataError
from train.data.files import parts_of
from train.data.samples import BadSample

EXPRESSIONS = ("sentences", "expressions", "answer", "captions")
REGIONS = ("segmentation", "mask", "raw_anns", "ann_id", "bbox")
IDS = ("ref_id", "question_id", "id")
BOXES = ("xywh", "xyxy")
_REFER = re.compile(r"(COCO_\w+_\d{12})_\d+(\.jpg)")
"""REFER's file names: the image's, with the object's number behind it."""


@dataclass(frozen=True)
class Annotations:
    """A COCO instances file as rows look it up."""

    of: Mapping[Any, tuple[InstanceImage, Any]]
    """Annotation id -> its image, and its segmentation."""

    @classmethod
    def of_file(cls, instances: Instances) -> Annotations:
        """Raises DataError if annotations have no ids."""
        images = {image.id: image for image in instances.images}
        found = {
            one.id: (images[one.image_id], one.segmentation) for one in instances.annotations if one.id is not None
        }
        if not found:
            raise DataError(f"{instances.path}: its annotations have no ids, so no row can name one")
        return cls(found)


def is_known(row: Mapping[str, Any]) -> bool:
    """Whether a row is of one of the forms above, by its keys."""
    return _is_caption(row) or (any(key in row for key in EXPRESSIONS) and any(key in row for key in REGIONS))


def _is_caption(row: Mapping[str, Any]) -> bool:
    return "caption" in row and ("groundings" in row or "refs" in row)


def record_of(row: Any, number: int, annotations: Annotations | None, boxes: str) -> dict[str, Any]:
    """A row as a record: id, image (a file name), and expressions with their region, or a caption with phrases.

    Args:
        row: as JSON or Parquet has it.
        number: of the row, its id where it has none.
        annotations: to look `ann_id` up in.
        boxes: what the numbers of `bbox` are, xywh or xyxy; empty if boxes are no regions.

    Returns:
        {"id", "image", "size", "expressions", "region"}, where size is the image's width and height, None if the row
        does not say; {"id", "image", "caption", "phrases": [{"spans", "region"}, ...]}; or {"id", "bad", "reason"} if
        the row cannot be used.
    """
    key = str(number)
    try:
        if not isinstance(row, dict):
            raise BadSample(f"expected an object, not {row!r:.80}")
        key = next((str(row[name]) for name in IDS if row.get(name) is not None), key)
        made = _caption(row) if _is_caption(row) else _expressions(row, annotations, boxes)
    except BadSample as bad:
        return {"id": key, "bad": str(bad), "reason": bad.reason}
    return {"id": key, **made}


def _expressions(row: Mapping[str, Any], annotations: Annotations | None, boxes: str) -> dict[str, Any]:
    said = next((row[name] for name in EXPRESSIONS if row.get(name)), None)
    if isinstance(said, str):
        said = [said]
    if not isinstance(said, list):
        raise BadSample(f"no expression in it: one of {', '.join(EXPRESSIONS)} must be a list of texts")
    texts = [one.get("sent") or one.get("raw") if isinstance(one, dict) else one for one in said]
    cleaned = [text.strip().rstrip(".?!").rstrip() for text in texts if isinstance(text, str)]
    if not (cleaned := [text for text in cleaned if text]):
        raise BadSample(f"expressions: expected texts that are not empty, not {said!r:.80}")
    image, listed = _listed(row.get("ann_id"), annotations)
    known = _json(row, "raw_image_info")
    size = [known.get("width"), known.get("height")] if image is None else [image.width, image.height]
    return {
        "image": _image(row, image),
        "size": size if all(isinstance(side, int) for side in size) else None,
        "expressions": cleaned,
        "region": _region(row, listed, boxes),
    }


def _listed(ids: Any, annotations: Annotations | None) -> tuple[InstanceImage | None, Any]:
    """The image of an annotation and its segmentation; of several ids (gRefCOCO) what all of them cover."""
    if annotations is None or ids is None or ids == []:
        return None, None
    image, parts = None, []
    for one in ids if isinstance(ids, list) else [ids]:
        found = annotations.of.get(one) if isinstance(one, int | str) else None
        if found is None:
            raise BadSample(f"ann_id {one!r:.80} is not in the instances file", "region")
        if image is not None and found[0].id != image.id:
            raise BadSample(f"ann_id {ids!r:.80}: annotations of several images", "region")
        image = found[0]
        parts += parts_of(found[1])
    return image, parts


def _plain(region: Any) -> Any:
    """A region as JSON can hold it: Parquet may have run lengths as bytes."""
    if isinstance(region, list):
        return [_plain(one) for one in region]
    if isinstance(region, dict) and isinstance(region.get("counts"), bytes):
        return {**region, "counts": region["counts"].decode("ascii", "replace")}
    if isinstance(region, bytes) or (isinstance(region, dict) and isinstance(region.get("bytes"), bytes)):
        raise BadSample("its region is an image file; expected COCO's polygons or RLE", "region")
    return region


def _region(row: Mapping[str, Any], listed: Any, boxes: str) -> Any:
    known = [row.get("segmentation"), row.get("mask"), _json(row, "raw_anns").get("segmentation"), listed]
    if found := next((region for region in known if region), None):
        return _plain(found)
    if row.get("bbox") and boxes:
        try:
            x0, y0, x1, y1 = map(float, row["bbox"])
        except (TypeError, ValueError):
            raise BadSample(f"bbox: expected four numbers, not {row['bbox']!r:.80}", "region") from None
        if boxes == "xywh":
            x1, y1 = x0 + x1, y0 + y1
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    hint = "its box can be one: give options.boxes as xywh or xyxy; " if row.get("bbox") else ""
    raise BadSample(f"no segmentation of it; {hint}ann_id needs options.instances", "region")


def _image(row: Mapping[str, Any], listed: InstanceImage | None) -> str:
    inside = row.get("image")
    names = [inside if isinstance(inside, str) else None, _json(row, "raw_image_info").get("file_name")]
    names += [listed.file_name if listed else None, row.get("img_file_name"), row.get("file_name")]
    name = next((name for name in names if isinstance(name, str) and name), "")
    match = _REFER.fullmatch(name)
    return match[1] + match[2] if match else name


def _json(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What a text in a row holds; nothing if there is none."""
    if not isinstance(row.get(key), str):
        return {}
    try:
        found = json.loads(row[key])
    except ValueError as error:
        raise BadSample(f"{key}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadSample(f"{key}: expected an object, not {found!r:.80}")
    return found


def _caption(row: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(row["caption"], str) or not (caption := row["caption"].strip('"').strip()):
        raise BadSample(f"caption: expected a text, not {row['caption']!r:.80}", "silent")
    refs, groundings = row.get("refs"), row.get("groundings")
    if groundings is not None and not isinstance(groundings, dict):
        raise BadSample(f"groundings: expected an object, not {groundings!r:.80}", "region")
    if groundings is None and not isinstance(refs, list):
        raise BadSample(f"refs: expected a list, not {refs!r:.80}", "region")
    phrases = [_grounding(words, one) for words, one in (groundings or {}).items()]
    for one in refs or () if groundings is None else ():
        if not isinstance(one, dict) or not isinstance(one.get("sentence"), str) or not one["sentence"].strip():
            raise BadSample(f"refs: expected objects with sentence and segmentation, not {one!r:.80}", "region")
        if found := re.search(rf"(?<!\w){re.escape(one['sentence'].strip())}(?!\w)", caption, re.IGNORECASE):
            phrases.append({"spans": [found.span()], "region": _plain(one.get("segmentation"))})
    return {"image": _image(row, None), "caption": caption, "phrases": phrases}


def _grounding(words: str, one: Any) -> dict[str, Any]:
    spans = one.get("token_positives") if isinstance(one, dict) else None
    if isinstance(spans, list) and spans and all(isinstance(value, int) for value in spans):
        spans = [spans]
    fits = isinstance(spans, list) and all(
        isinstance(span, list) and len(span) == 2 and all(isinstance(v, int) for v in span) for span in spans
    )
    if not fits or not spans:
        raise BadSample(f"groundings of {words!r}: token_positives must be [start, end], not {spans!r:.80}", "region")
    return {"spans": spans, "region": _plain(one.get("rle_masks"))}
