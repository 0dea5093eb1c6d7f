"""Opening image files: one way, one EXIF policy, no surprises.

The policy: pixels are RGB, 8 bit, first frame, with the EXIF orientation applied (what `datasets` and transformers'
`load_image` do too). Files that are missing, empty, truncated, of no known format or absurdly large are a `DataError`
that names the file; nothing is ever repaired silently.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agevlm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


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


def decode(file: EncodedFile) -> Image:
    """Decode to an RGB PIL image with the EXIF orientation applied.

    Raises:
        DataError: no known image format, truncated data, or a decompression bomb.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(file.data)) as image:
                image.load()
                return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        head = file.data[:12]
        raise DataError(f"image {file.name}: not an image file (it begins with {head!r})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"image {file.name}: too large to open safely: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"image {file.name}: damaged or truncated file: {error}; fetch it again") from None
