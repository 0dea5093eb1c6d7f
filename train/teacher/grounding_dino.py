"""Boxes of phrases by Grounding DINO (Liu et al. 2023, arXiv:2303.05499) as transformers has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, get_args

from agevlm.errors import CheckpointError, TrainError
from agevlm.vlm.fingerprint import HashCache
from agevlm.vlm.hf.checkpoint import find_device, load_pretrained, to_device
from train.teacher.loading import arithmetic, check_settings, content_of, find_model
from train.teacher.producer import Detected, Picture
from train.teacher.prompts import Prompt, make_prompts, plain, tokens_of

if TYPE_CHECKING:
    import torch

MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")
Mode = Literal["rows", "joint"]
"""rows: each (image, phrase) is a row of its own, so that a box cannot be another phrase's. joint: an image's phrases
stand in one prompt ("a cat. two dogs."), and see each other through the image; faster, less exact."""


@dataclass(frozen=True, eq=False, repr=False)
class GroundingDinoDetector:
    """Finds boxes of phrases.

    A query's score for a phrase is the largest sigmoid over the tokens of the phrase, of which the period and the
    tokens around the text are none. (The public code takes the largest over all tokens of a text and names the box by
    decoding those above a second threshold, which can be none of the phrase's, or those of two.) Which tokens are a
    phrase's is known from the tokenizer's offsets; no label is ever compared.

    Only images of one size share a batch: Grounding DINO's normalisation and shifted windows would see the padding of
    a smaller one. What else is in the batch thus changes results by rounding alone. (Where two of the encoder's
    proposals are tied up to rounding, their order decides which query embedding each gets.)
    """

    model: Any
    """GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection, in eval mode."""
    processor: Any
    content: str
    """Hash of the model's files."""
    mode: Mode = "rows"
    batch_size: int = 8
    """Prompts in a forward pass."""
    threshold: float = 0.3
    """Boxes of a score above it are found."""
    nms: float = 0.8
    """Of two boxes of a phrase with a larger IoU only the likelier is found; 1 keeps both."""
    max_boxes: int = 100
    """Boxes of a phrase; COCO's own limit per image."""
    dtype: str = "float32"
    """Of the two backbones' matrix products. What follows computes places in its features' precision, and pixels need
    float32."""

    def __post_init__(self) -> None:
        where = "Grounding DINO"
        check_settings(where, self.dtype, self.batch_size)
        if self.mode not in get_args(Mode):
            raise TrainError(f"{where}: mode {self.mode!r} is unknown; give rows or joint")
        if not (0 <= self.threshold < 1 and 0 <= self.nms <= 1):
            raise TrainError(f"{where}: threshold {self.threshold} and nms {self.nms} must lie between 0 and 1")
        if self.max_boxes < 1:
            raise TrainError(f"{where}: max_boxes {self.max_boxes}; give 1 or more")

    @classmethod
    def open(
        cls, name: str, *, device: str = "auto", cache: HashCache | None = None, **settings: Any
    ) -> GroundingDinoDetector:
        """Load a checkpoint.

        Args:
            name: a local folder, or a hub id such as IDEA-Research/grounding-dino-tiny.
            device: cpu, cuda, cuda:N or auto.
            cache: remembers hashes of files; a default one in the user's cache folder.
            settings: `mode`, `batch_size`, `threshold`, `nms`, `max_boxes`, `dtype` as the class has them.

        Raises:
            CheckpointError: not there, another model, pickled or damaged weights, or no such device.
            TrainError: a setting out of its range.
        """
        where = f"detector {name}"
        folder, target = find_model(name, where, MODEL_TYPES), find_device(device)
        from transformers import AutoModelForZeroShotObjectDetection as AutoDetector

        parts = ("image_processor", "tokenizer")
        model, processor = load_pretrained(AutoDetector, folder, where, dtype="float32", parts=parts)
        _check_tokenizer(processor.tokenizer, where)
        # Eager attention, which a config may ask for, does not keep to the mask between phrases.
        model.model.text_backbone.set_attn_implementation("sdpa")
        return cls(to_device(model, where, target), processor, content_of(folder, cache), **settings)

    @property
    def version(self) -> str:
        """Model and settings without `batch_size`."""
        return (
            f"{self.model.config.model_type} {self.content} {self.mode} threshold={self.threshold} nms={self.nms} "
            f"max_boxes={self.max_boxes} {self.dtype}"
        )

    def detect(self, pictures: Sequence[Picture]) -> list[list[list[Detected]]]:
        """Boxes of each phrase of each picture, the likeliest first.

        A phrase without a word, or of more tokens than the model reads, has none.

        Raises:
            CheckpointError: the model's scores are not numbers.
        """
        found: list[list[list[Detected]]] = [[[] for _ in picture.phrases] for picture in pictures]
        rows = [(index, prompt) for index, picture in enumerate(pictures) for prompt in self._prompts(picture)]
        rows.sort(key=lambda row: pictures[row[0]].image.size)
        for _, same in groupby(rows, key=lambda row: pictures[row[0]].image.size):
            of_size = list(same)
            for first in range(0, len(of_size), self.batch_size):
                for index, phrase, boxes in self._batch(pictures, of_size[first : first + self.batch_size]):
                    found[index][phrase] = boxes
        return found

    def _prompts(self, picture: Picture) -> list[Prompt]:
        tokenizer, limit = self.processor.tokenizer, int(self.model.config.max_text_len)
        room = limit - tokenizer.num_special_tokens_to_add()

        def length(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

        phrases = [plain(phrase) for phrase in picture.phrases]
        readable = [i for i, phrase in enumerate(phrases) if length(phrase) and length(f"{phrase}.") <= room]
        made = make_prompts([phrases[i] for i in readable], length, None if self.mode == "rows" else room)
        return [
            replace(prompt, spans=tuple(replace(span, phrase=readable[span.phrase]) for span in prompt.spans))
            for prompt in made
        ]

    def _batch(
        self, pictures: Sequence[Picture], rows: Sequence[tuple[int, Prompt]]
    ) -> Iterator[tuple[int, int, list[Detected]]]:
        """Boxes of the phrases of some prompts on images of one size, with the picture's index and the phrase's."""
        import torch

        device = self.model.device
        shown = sorted({index for index, _ in rows})
        which = torch.tensor([shown.index(index) for index, _ in rows], device=device)
        images = [pictures[index].image for index in shown]
        pixels = self.processor.image_processor(images, do_pad=True, return_tensors="pt")
        texts = self.processor.tokenizer(
            [prompt.text for _, prompt in rows], padding=True, return_offsets_mapping=True, return_tensors="pt"
        )
        offsets = texts.pop("offset_mapping").tolist()
        with torch.inference_mode(), _narrow(self.model, self.dtype), _repeated(self.model, which):
            output = self.model(
                pixel_values=pixels["pixel_values"].to(device),
                pixel_mask=pixels["pixel_mask"].to(device)[which],
                **texts.to(device),
            )
        scores, corners = output.logits.float().sigmoid().cpu(), _corners(output.pred_boxes.float()).cpu()
        if not (scores.isfinite().all() and corners.isfinite().all()):
            raise CheckpointError(f"Grounding DINO gives scores that are no numbers in {self.dtype}; use float32")
        for row, (index, prompt) in enumerate(rows):
            width, height = pictures[index].image.size
            boxes = corners[row] * torch.tensor([width, height, width, height])
            for span in prompt.spans:
                of_phrase = scores[row][:, tokens_of(span, offsets[row])].amax(1)
                yield index, span.phrase, self._best(boxes, of_phrase)

    def _best(self, boxes: torch.Tensor, scores: torch.Tensor) -> list[Detected]:
        """Those above the threshold that no likelier one stands for."""
        from torchvision.ops import nms

        is_box = (boxes[:, 2:] > boxes[:, :2]).all(1)
        above = ((scores > self.threshold) & is_box).nonzero()[:, 0]
        kept = above[nms(boxes[above], scores[above], self.nms)][: self.max_boxes]
        return [
            Detected((x0, y0, x1, y1), score)
            for (x0, y0, x1, y1), score in zip(boxes[kept].tolist(), scores[kept].tolist(), strict=True)
        ]


def _check_tokenizer(tokenizer: Any, where: str) -> None:
    """Raise CheckpointError if it is not the model's: without its file transformers makes an empty one."""
    from transformers.models.grounding_dino.modeling_grounding_dino import SPECIAL_TOKENS

    if not tokenizer.is_fast:
        raise CheckpointError(f"{where}: its tokenizer does not say where tokens stand; fetch tokenizer.json")
    if tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"]) != SPECIAL_TOKENS:
        raise CheckpointError(f"{where}: its tokenizer is not the model's; fetch tokenizer.json or vocab.txt")


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) of centre, width and height in 0 to 1 as x0, y0, x1, y1 inside the image."""
    import torch
    from torchvision.ops import box_convert

    return torch.clamp(box_convert(boxes, "cxcywh", "xyxy"), 0, 1)


@contextmanager
def _narrow(model: Any, dtype: str) -> Iterator[None]:
    """Within it the image's and the text's backbones compute in `dtype`, and give float32."""

    def widen(_module: Any, _given: Any, output: Any) -> Any:
        if "feature_maps" in output:
            output.feature_maps = tuple(features.float() for features in output.feature_maps)
        else:
            output.last_hidden_state = output.last_hidden_state.float()
        return output

    backbones = model.model.backbone.conv_encoder.model, model.model.text_backbone
    hooks = [backbone.register_forward_hook(widen) for backbone in backbones]
    for backbone in backbones:
        backbone.forward = arithmetic(model.device, dtype)(backbone.forward)
    try:
        yield
    finally:
        for backbone, hook in zip(backbones, hooks, strict=True):
            del backbone.forward
            hook.remove()


@contextmanager
def _repeated(model: Any, which: torch.Tensor) -> Iterator[None]:
    """Within it the vision backbone sees each image once, and row i of its feature maps is that of image `which[i]`."""

    def repeat(_module: Any, _given: Any, output: Any) -> Any:
        output.feature_maps = tuple(features[which] for features in output.feature_maps)
        return output

    hook = model.model.backbone.conv_encoder.model.register_forward_hook(repeat)
    try:
        yield
    finally:
        hook.remove()
