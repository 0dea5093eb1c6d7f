"""SAM as transformers has it: a folder with safetensors weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agevlm.vlm.fingerprint import HashCache
from agevlm.vlm.hf.checkpoint import find_device, load_pretrained, to_device
from train.teacher.loading import content_of, find_model
from train.teacher.segmenting import Encoded, SamFamily

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HfSamSegmenter(SamFamily):
    """Masks by a transformers `SamModel`."""

    processor: Any
    """SamImageProcessor."""

    @classmethod
    def open(
        cls, name: str, *, device: str = "auto", cache: HashCache | None = None, **settings: Any
    ) -> HfSamSegmenter:
        """Load a checkpoint.

        Args:
            name: a local folder, or a hub id such as facebook/sam-vit-huge.
            device: cpu, cuda, cuda:N or auto.
            cache: remembers hashes of files; a default one in the user's cache folder.
            settings: `batch_size`, `multimask`, `dtype` as the class has them.

        Raises:
            CheckpointError: not there, another model, pickled or damaged weights, or no such device.
            TrainError: a setting out of its range.
        """
        where = f"segmenter {name}"
        folder, target = find_model(name, where, ("sam",)), find_device(device)
        from transformers import SamModel

        model, processor = load_pretrained(SamModel, folder, where, dtype="float32", parts=("image_processor",))
        vision = model.config.vision_config
        content = f"sam of transformers {vision.hidden_size}x{vision.num_hidden_layers} {content_of(folder, cache)}"
        return cls(to_device(model, where, target), content, processor=processor.image_processor, **settings)

    def encode(self, images: Sequence[Any]) -> list[Encoded]:
        """Each image as the decoder needs it."""
        inputs = self.processor(list(images), return_tensors="pt")
        features = self.model.get_image_embeddings(inputs["pixel_values"].to(self.model.device)).float()
        sizes = zip(inputs["reshaped_input_sizes"].tolist(), inputs["original_sizes"].tolist(), strict=True)
        return [Encoded(features[i : i + 1], tuple(seen), tuple(size)) for i, (seen, size) in enumerate(sizes)]

    def decode(self, image: Encoded, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and predicted IoU, see the base class."""
        across, down = image.input_size[1] / image.size[1], image.input_size[0] / image.size[0]
        scaled = boxes * boxes.new_tensor([across, down, across, down])
        output = self.model(image_embeddings=image.features, input_boxes=scaled[None], multimask_output=self.multimask)
        return output.pred_masks[0], output.iou_scores[0]

    def enlarge(self, image: Encoded, logits: torch.Tensor) -> torch.Tensor:
        """Logits at the image's size."""
        enlarged: list[torch.Tensor] = self.processor.post_process_masks(
            [logits], [image.size], [image.input_size], binarize=False
        )
        return enlarged[0]
