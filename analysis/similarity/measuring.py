"""What is recorded of a model: cosines of each image with each of its texts, and the means states are centred by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image

from agevlm.data.images import decode
from agevlm.data.sources import ImageSource
from agevlm.errors import AgeVlmError, DataError, NotSupported
from agevlm.vlm.contract import Ask, Centre, Compared, ProbedToken, Space, StateSpec, Vlm
from analysis.similarity.negatives import MATCH
from analysis.similarity.planning import Item

if TYPE_CHECKING:
    import pyarrow as pa

SPACES: tuple[Space, ...] = ("hidden", "cross_output", "query_key")
TEXT = "{text}"
"""Stands for the caption in the prompt that carries it."""
CENTRING_IMAGES = 256
"""Most images that centres are taken from."""
CHUNK = 16
"""Images whose states are summed into one record of centres."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """How a caption is put to a model."""

    template: str = TEXT

    def __post_init__(self) -> None:
        if self.template.count(TEXT) != 1:
            raise DataError(f"--prompt must hold {TEXT} once, where the caption goes; it is {self.template!r}")

    def prompt(self, text: str) -> str:
        """The user's text."""
        return self.template.replace(TEXT, text)

    def wanted(self, text: str, tokens: Sequence[ProbedToken]) -> list[int]:
        """The tokens of the caption alone, of those of the whole prompt.

        Raises:
            DataError: there is none.
        """
        start = self.template.index(TEXT)
        end = start + len(text)
        found = [i for i, t in enumerate(tokens) if t.part == "prompt" and t.start < end and start < t.end]
        if not found:
            raise DataError(f"no token holds anything of the text {text[:60]!r}")
        return found


def compared(
    vlm: Vlm, reading: Reading, image: Image, texts: Sequence[str], spec: StateSpec
) -> tuple[list[Mapping[Space, Compared]], list[int]]:
    """What each text is to the image inside the model, and how many of its tokens were compared."""
    encoded = vlm.encode([image])
    asks = [Ask(reading.prompt(text), 0) for text in texts]
    tokens = vlm.tokens(encoded, asks, [()] * len(asks))
    wanted = [reading.wanted(text, own) for text, own in zip(texts, tokens, strict=True)]
    return vlm.similarities(encoded, asks, wanted, spec), [len(own) for own in wanted]


# --- records of pairs ------------------------------------------------------------------------------------------------


def schema() -> pa.Schema:
    """Of the records: one row for each image and text. Cosines are by layer, then by pooling in the order of
    `POOLINGS`; a space that the model lacks is null."""
    import pyarrow as pa

    fields = [("group", pa.string()), ("image", pa.string()), ("kind", pa.string()), ("of", pa.int32())]
    fields += [("text", pa.string()), ("tokens", pa.int32())]
    for space in SPACES:
        fields += [(f"{space}_layers", pa.list_(pa.string()))]
        fields += [(f"{space}_{form}", pa.list_(pa.float32())) for form in ("raw", "centred")]
    return pa.schema(fields)


def opened(images: ImageSource, item: Item) -> Image:
    """The item's image. Raises DataError."""
    return decode(images.read(item.image))


def look(vlm: Vlm, item: Item, image: Image, reading: Reading, centres: Mapping[Space, Centre]) -> list[Row]:
    """The rows of one image."""
    texts = [text.text for text in item.texts]
    try:
        found, tokens = compared(vlm, reading, image, texts, StateSpec(SPACES, None, centres))
    except NotSupported:
        raise
    except AgeVlmError as error:
        raise type(error)(f"image {item.image}: {error}") from None
    rows = []
    for text, count, spaces in zip(item.texts, tokens, found, strict=True):
        row: Row = {"image": item.image, "kind": text.kind, "of": text.of, "text": text.text, "tokens": count}
        for space, one in spaces.items():
            row[f"{space}_layers"] = list(one.layers)
            row[f"{space}_raw"] = one.raw.ravel()
            row[f"{space}_centred"] = None if one.centred is None else one.centred.ravel()
        rows.append(row)
    return rows


# --- centres ---------------------------------------------------------------------------------------------------------


def centre_schema() -> pa.Schema:
    """Of the records of centres: for each chunk of images and each space the sums of their mean states."""
    import pyarrow as pa

    fields = [("group", pa.string()), ("space", pa.string()), ("shape", pa.list_(pa.int32()))]
    fields += [(name, pa.int32()) for name in ("texts", "images")]
    return pa.schema([*fields, *((name, pa.list_(pa.float64())) for name in ("text", "visual"))])


def centring_sample(items: Sequence[Item], seed: int) -> list[tuple[Item, ...]]:
    """A seeded sample of the images, in chunks."""
    draw = np.random.default_rng(seed)
    kept = sorted(draw.permutation(len(items))[:CENTRING_IMAGES])
    return [tuple(items[i] for i in kept[start : start + CHUNK]) for start in range(0, len(kept), CHUNK)]


def chunk_key(chunk: Sequence[Item], *how: str) -> str:
    """Says by content what a chunk holds."""
    return hashlib.sha256("".join(item.key(*how) for item in chunk).encode()).hexdigest()[:24]


def open_chunk(images: ImageSource, chunk: Sequence[Item]) -> list[Image | None]:
    """The images of a chunk; None where one cannot be opened: the records of pairs will name it."""
    found: list[Image | None] = []
    for item in chunk:
        try:
            found.append(opened(images, item))
        except DataError:
            found.append(None)
    return found


def look_at_chunk(vlm: Vlm, chunk: Sequence[Item], images: Sequence[Image | None], reading: Reading) -> list[Row]:
    """Sums of mean states over a chunk: of the texts that match, and of the images.

    An image that the model cannot take is passed over: the records of pairs will name it. Raises the last such error
    where nothing is left, so that the chunk is looked at again.
    """
    sums: dict[str, Row] = {}
    failed: Exception | None = None
    for item, image in zip(chunk, images, strict=True):
        if image is None:
            continue
        texts = [text.text for text in item.texts if text.kind == MATCH]
        try:
            found, _ = compared(vlm, reading, image, texts, StateSpec(SPACES))
        except NotSupported:
            raise
        except (AgeVlmError, MemoryError) as error:
            failed = error
            continue
        for space in found[0]:
            own = [one[space] for one in found]
            states = {
                "text": np.sum([one.text for one in own], axis=0, dtype=np.float64),
                "visual": np.mean([one.visual for one in own], axis=0, dtype=np.float64),
            }
            empty = {"texts": 0, "images": 0, **dict.fromkeys(states, 0.0)}
            row = sums.setdefault(space, {"space": space, "shape": list(own[0].text.shape), **empty})
            row["texts"] += len(own)
            row["images"] += 1
            for name, state in states.items():
                row[name] = row[name] + state.ravel()
    if not sums and failed is not None:
        raise failed
    return list(sums.values())


def centres_of(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[Space, Centre], dict[str, int]]:
    """Centres by space, and of how many texts and images they are the means.

    Args:
        rows: all records of centres of one model.
    """
    totals: dict[str, Row] = {}
    for row in rows:
        empty = {"shape": row["shape"], **dict.fromkeys(("texts", "images", "text", "visual"), 0)}
        known = totals.setdefault(row["space"], empty)
        for name in ("texts", "images", "text", "visual"):
            known[name] = known[name] + np.asarray(row[name])
    centres: dict[Space, Centre] = {}
    for space in SPACES:
        if space in totals:
            one = totals[space]
            means = (one["text"] / one["texts"], one["visual"] / one["images"])
            centres[space] = Centre(*(mean.reshape(one["shape"]).astype(np.float32) for mean in means))
    counts = next(iter(totals.values()), {"texts": 0, "images": 0})
    return centres, {name: int(counts[name]) for name in ("texts", "images")}


def centres_digest(centres: Mapping[Space, Centre]) -> str:
    """Changes with any number of them."""
    found = hashlib.sha256()
    for space, centre in sorted(centres.items()):
        found.update(space.encode())
        found.update(centre.text.tobytes())
        found.update(centre.visual.tobytes())
    return found.hexdigest()[:24]
