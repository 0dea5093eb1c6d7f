"""Images to pixel values, and which cells of the token grid hold any image.

All resizing obeys `agevlm.geometry`; this module adds colours and the transformers interface.
"""

# No `from __future__ import annotations`: transformers reads the annotations of processors.
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from agevlm.errors import DataError
from agevlm.geometry import Geometry

RESIZE_MODES = {"letterbox": Geometry.letterbox, "squash": Geometry.squash, "crop": Geometry.crop}

SERVICE_KEYS = frozenset({"image_processor_type", "feature_extractor_type", "processor_class", "auto_map"})
"""What transformers writes beside the settings."""


class AgeVlmImageKwargs(TypedDict, total=False):
    """The settings; `from_pretrained` may override them."""

    image_size: int
    stride: int
    resize_mode: str
    resample: int
    image_mean: Sequence[float]
    image_std: Sequence[float]
    pad_color: Sequence[int] | None


class AgeVlmImageProcessor(BaseImageProcessor):
    """Turns images into square, normalised pixel values.

    Args:
        image_size: side of the square model input in pixels; a multiple of `stride`.
        stride: side of a token grid cell in input pixels.
        resize_mode: "letterbox" keeps the aspect ratio and pads, "squash" stretches, "crop" cuts the centre out.
        resample: a PIL resampling filter (bicubic); antialiased when an image shrinks.
        image_mean: of each channel, 0 to 1.
        image_std: of each channel, above 0.
        pad_color: of letterbox padding, red, green and blue from 0 to 255; None is the mean colour, exactly 0 once
            normalised.

    Raises:
        ValueError: a setting out of range or unknown.
    """

    model_input_names = ["pixel_values", "vision_token_mask"]  # noqa: RUF012 (transformers' own way)
    valid_kwargs = AgeVlmImageKwargs

    def __init__(
        self,
        image_size: int = 768,
        stride: int = 32,
        resize_mode: str = "letterbox",
        resample: int = Image.Resampling.BICUBIC,
        image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        image_std: Sequence[float] = IMAGENET_DEFAULT_STD,
        pad_color: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(kwargs.keys() - SERVICE_KEYS)
        if unknown:
            raise ValueError(f"unknown settings of the image processor: {', '.join(unknown)}; leave them out")
        super().__init__(**kwargs)
        if resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode is {resize_mode!r}; choose one of {', '.join(RESIZE_MODES)}")
        if stride < 1 or image_size < stride or image_size % stride:
            raise ValueError(
                f"image_size {image_size} is not a multiple of the stride {stride}: choose a whole number of strides"
            )
        if len(image_mean) != 3 or len(image_std) != 3 or min(image_std) <= 0:
            raise ValueError("image_mean and image_std need three numbers each, one a channel; std above 0")
        if pad_color is not None and (len(pad_color) != 3 or min(pad_color) < 0 or max(pad_color) > 255):
            raise ValueError(
                f"pad_color is {pad_color!r}: give red, green and blue from 0 to 255, or None for the mean"
            )
        self.image_size = image_size
        self.stride = stride
        self.resize_mode = resize_mode
        self.resample = int(Image.Resampling(resample))
        self.image_mean = [float(value) for value in image_mean]
        self.image_std = [float(value) for value in image_std]
        self.pad_color = None if pad_color is None else [int(value) for value in pad_color]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens."""
        return self.image_size // self.stride, self.image_size // self.stride

    def geometry(self, width: int, height: int) -> Geometry:
        """Where the pixels of an image of this size (in pixels) go.

        Raises:
            DataError: the image is too thin (see `agevlm.geometry.check_size`).
        """
        return RESIZE_MODES[self.resize_mode]((width, height), (self.image_size, self.image_size), self.grid)

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """Prepare images for the model; calling the processor does the same.

        Args:
            images: one or a list: PIL image of any 8-bit mode, numpy (height, width, 3) or torch (3, height, width) of
                uint8, or an address that transformers can load.
            return_tensors: "pt" for torch; None or "np" for numpy.
            **kwargs: nothing; settings are those of the processor, so that `geometry` stays true.

        Returns:
            pixel_values (n, 3, image_size, image_size) float32, normalised; vision_token_mask (n, cells) bool, row by
            row of the grid, True where the cell holds any image at all.

        Raises:
            DataError: no images, an image too thin, or one whose layout or number range is unclear.
            ValueError: settings among the arguments.
        """
        given = sorted(name for name, value in kwargs.items() if value is not None)
        if given:
            raise ValueError(f"{', '.join(given)}: not per call; make an AgeVlmImageProcessor with these settings")
        loaded = [to_rgb(image) for image in flat_list(self.fetch_images(images))]
        if not loaded:
            raise DataError("no images were given")
        pixels = np.zeros((len(loaded), 3, self.image_size, self.image_size), np.float32)
        masks = [self._prepare(image, into) for image, into in zip(loaded, pixels, strict=True)]
        data = {"pixel_values": pixels, "vision_token_mask": np.stack(masks)}
        return BatchFeature(data, tensor_type=return_tensors)

    def _prepare(self, image: Image.Image, pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Put an image into (3, image_size, image_size) zeros; which cells hold any of it."""
        geometry = self.geometry(*image.size)
        left, top, right, bottom = geometry.input_box
        shown = image.resize((right - left, bottom - top), self.resample, box=geometry.seen_box)
        if self.pad_color is not None:
            pixels += self._normalised(np.asarray(self.pad_color))[:, None, None]
        # Looked up: there are but 256 levels, and dividing each of a million pixels takes longer than resizing them.
        levels = self._normalised(np.repeat(np.arange(256), 3).reshape(256, 3))
        for channel, colours in enumerate(np.asarray(shown).transpose(2, 0, 1)):
            np.take(levels[channel], colours, out=pixels[channel, top:bottom, left:right], mode="clip")
        return geometry.coverage().ravel() > 0

    def _normalised(self, colours: NDArray[Any]) -> NDArray[np.float32]:
        """(3,) or (n, 3) levels from 0 to 255 -> (3,) or (3, n)."""
        mean, std = np.asarray(self.image_mean, np.float32), np.asarray(self.image_std, np.float32)
        return np.ascontiguousarray(((colours.astype(np.float32) / np.float32(255) - mean) / std).T)


def flat_list(images: Any) -> list[Any]:
    """One image, a batch in one array, or (nested) lists of either, as a flat list."""
    if isinstance(images, list | tuple):
        return [image for part in images for image in flat_list(part)]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    return [images]


def to_rgb(image: Any) -> Image.Image:
    """An image as RGB, 8 bit; transparency is dropped.

    Raises:
        DataError: not an image, or one whose layout or number range would have to be guessed.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith("I") or image.mode == "F":
            # convert() would clip what is above 255 to white.
            raise DataError(f"an image has mode {image.mode}, more than 8 bits a channel: scale it to 8 bits first")
        try:
            return image.convert("RGB")
        except ValueError as error:
            raise DataError(f"an image has mode {image.mode}: {error}; convert it to RGB first") from None
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3:
        return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3:
        return Image.fromarray(image)
    what = f"{type(image).__name__} of shape {tuple(image.shape)}, {image.dtype}" if hasattr(image, "shape") else image
    raise DataError(
        f"not an image in a known layout: {what}; give a PIL image, numpy (height, width, 3) or torch "
        "(3, height, width), both of uint8"
    )
