"""What segmenters of the SAM family (Kirillov et al. 2023, arXiv:2304.02643) have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agevlm.errors import CheckpointError
from train.teacher.loading import arithmetic, check_settings
from train.teacher.producer import Detected, Found

if TYPE_CHECKING:
    import torch

BOXES = 32
"""Most boxes that are decoded at once."""
LOGITS = 64_000_000
"""Most logits at the image's size that are made at once, 4 bytes each: of large photos fewer boxes."""
MASK_THRESHOLD, STABILITY_OFFSET = 0.0, 1.0


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image as its encoder left it."""

    features: torch.Tensor
    """(1, channels, rows, columns)."""
    input_size: tuple[int, int]
    """Height and width of the image as the encoder saw it, without padding."""
    size: tuple[int, int]
    """Height and width of the image."""


@dataclass(frozen=True, eq=False, repr=False)
class SamFamily(ABC):
    """Masks of boxes: several images are encoded in one forward pass, the boxes of an image decoded together.

    Masks are the image's size, where the logits there are above 0. Stability is that of the same logits, as in
    segment-anything's automatic mask generator; 0 for a mask without a pixel above -1.
    """

    model: Any
    content: str
    """Kind of model and hash of its weights."""
    batch_size: int = 4
    """Images in a forward pass of the encoder."""
    multimask: bool = False
    """Of SAM's three masks take the one that it thinks best, instead of the single mask that it gives for one box."""
    dtype: str = "float32"
    """Of the encoder's matrix products; the decoder computes in float32."""

    def __post_init__(self) -> None:
        check_settings("SAM", self.dtype, self.batch_size)

    @property
    def version(self) -> str:
        """Model and settings without `batch_size`."""
        return f"{self.content} {'multimask' if self.multimask else 'single mask'} {self.dtype}"

    @abstractmethod
    def encode(self, images: Sequence[Any]) -> list[Encoded]:
        """Each image as the decoder needs it."""

    @abstractmethod
    def decode(self, image: Encoded, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of (boxes, masks, rows, columns) at the decoder's own size, and the predicted IoU of (boxes, masks).

        Args:
            image: from `encode`.
            boxes: (boxes, 4) as x0, y0, x1, y1 in pixels of the image.
        """

    @abstractmethod
    def enlarge(self, image: Encoded, logits: torch.Tensor) -> torch.Tensor:
        """Logits of (boxes, 1, rows, columns) as (boxes, 1, height, width) of the image."""

    def segment(self, images: Sequence[Any], boxes: Sequence[Sequence[Detected]]) -> list[list[Found]]:
        """A region for every box of every image, in their order. Images without boxes are not encoded.

        Raises:
            CheckpointError: the model's logits are not numbers.
        """
        import torch

        found: list[list[Found]] = [[] for _ in images]
        asked = [index for index, of_image in enumerate(boxes) if of_image]
        for first in range(0, len(asked), self.batch_size):
            together = asked[first : first + self.batch_size]
            with torch.inference_mode():
                with arithmetic(self.model.device, self.dtype):
                    encoded = self.encode([images[index] for index in together])
                for index, image in zip(together, encoded, strict=True):
                    step = min(BOXES, max(1, LOGITS // (image.size[0] * image.size[1])))
                    for start in range(0, len(boxes[index]), step):
                        found[index] += self._regions(image, boxes[index][start : start + step])
        return found

    def _regions(self, image: Encoded, boxes: Sequence[Detected]) -> list[Found]:
        import torch
        from segment_anything.utils.amg import calculate_stability_score

        corners = torch.tensor([box.box for box in boxes], dtype=torch.float32, device=self.model.device)
        low, quality = self.decode(image, corners)
        each, best = torch.arange(len(boxes), device=low.device), quality.argmax(1)
        quality = quality[each, best]
        logits = self.enlarge(image, low[each, best][:, None])[:, 0]
        if not (logits.isfinite().all() and quality.isfinite().all()):
            raise CheckpointError(f"SAM gives logits that are no numbers with its encoder in {self.dtype}; use float32")
        # An empty mask's stability is 0 / 0.
        stability = calculate_stability_score(logits, MASK_THRESHOLD, STABILITY_OFFSET).nan_to_num(0.0).tolist()
        masks = (logits > MASK_THRESHOLD).cpu().numpy()
        return [
            Found.of(mask, box.box, score=box.score, predicted_iou=iou, stability=stable)
            for box, mask, iou, stable in zip(boxes, masks, quality.tolist(), stability, strict=True)
        ]
