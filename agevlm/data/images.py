"""Opening image files: one way, one EXIF policy, no surprises.

The policy: pixels are RGB, 8 bit, first frame, with the EXIF orientation applied (what `datasets` and transformers'
`load_image` do too); transparency is dropped, 16-bit grey is scaled down. Files that are missing, empty, truncated, of
no known format, of 32-bit pixels without a defined range or absurdly large are a `DataError` that names the file;
nothing is ever repaired silently.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agevlm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that every server of models reads, and their media types."""
_ORIGINAL = "_agevlm_original"


@dataclass(frozen=True)
class OriginalBytes:
    """The file that an image was decoded from, where any reader gets the same pixels from it."""

    data: bytes
    media_type: str
    """image/jpeg, image/png or image/webp."""


@dataclass(frozen=True)
class EncodedFile:
    """An image file as its bytes, before anything is decoded."""

    name: str
    """The name that questions use for it."""
    data: bytes

    @property
    def sha256(self) -> str:
        """Content identity: hex SHA-256 of the file's bytes."""
        return hashlib.sha256(self.data).hexdigest()


def read_file(path: Path, name: str | None = None) -> EncodedFile:
    """Read an image file's bytes. Raises DataError if it is missing, empty or unreadable."""
    label = name or str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"image {label}: no such file {path}") from None
    except OSError as error:
        raise DataError(f"image {label}: cannot read {path}: {error.strerror or error}") from None
    if not data:
        raise DataError(f"image {label}: {path} is empty (0 bytes); fetch it again")
    return EncodedFile(label, data)


def decode(file: EncodedFile, least: int | None = None) -> Image:
    """Decode to an RGB PIL image with the EXIF orientation applied.

    The file's bytes stay with this very image (`original_bytes`), not with what is made from it.

    Args:
        file: its bytes.
        least: for small copies: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its
            longer side keeps at least so many pixels. Such pixels are not those that a model is shown.

    Raises:
        DataError: no known image format, truncated data, 32-bit pixels, or a decompression bomb.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file.data)) as image:
            # Compared here because turning Pillow's warning into an error is not safe in a thread.
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            if least is not None:
                longer = max(image.size)
                image.draft(None, (math.ceil(image.width * least / longer), math.ceil(image.height * least / longer)))
            image.load()
            original = _original(image, file.data) if least is None else None
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        head = file.data[:12]
        raise DataError(f"image {file.name}: not an image file (it begins with {head!r})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"image {file.name}: too large to open safely: {error}") from None
    except Exception as error:
        # Pillow's readers raise whatever foreign bytes lead them to (struct.error, KeyError, zlib.error, ...).
        raise DataError(f"image {file.name}: damaged or truncated file: {error}; fetch it again") from None
    if upright.mode.startswith("I;16"):
        # convert() would clip every value above 255 to white.
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if upright.mode in ("I", "F"):
        raise DataError(f"image {file.name}: 32-bit pixels (mode {upright.mode}) have no defined range; store 8 bits")
    decoded = upright.convert("RGB")
    if original is not None:
        setattr(decoded, _ORIGINAL, original)
    return decoded


def original_bytes(image: Image) -> OriginalBytes | None:
    """The file that `decode` made this image from, if its pixels are what any reader sees in it.

    None for copies and anything else derived from a decoded image: Pillow does not hand such attributes on. (Pixels
    changed in place are not noticed; change a copy.) None too where our policy does something of its own: EXIF
    orientation, transparency, several frames, 16-bit grey, unusual formats and colours. (Of 16-bit colours
    Pillow reads the upper 8 bits, whoever asks it.)
    """
    found = getattr(image, _ORIGINAL, None)
    return found if isinstance(found, OriginalBytes) else None


def _original(image: Image, data: bytes) -> OriginalBytes | None:
    from PIL import ExifTags

    plain = (
        image.format in SENT_AS_THEY_ARE
        and image.mode in ("RGB", "L")
        and "transparency" not in image.info
        and getattr(image, "n_frames", 1) == 1
        and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    )
    return OriginalBytes(data, SENT_AS_THEY_ARE[str(image.format)]) if plain else None
