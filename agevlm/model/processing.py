"""Prompts and images to the model's inputs, for both ways of fusing them."""

# No `from __future__ import annotations`: transformers reads the annotations of processors.
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from agevlm.errors import DataError
from agevlm.model.configuration import FUSIONS
from agevlm.model.image_processing import AgeVlmImageProcessor, flat_list
from agevlm.model.templates import chat_template as default_chat_template


class AgeVlmProcessor(ProcessorMixin):
    """Image processor, tokenizer and chat template of an AGE-VLM.

    A prompt shows its image by exactly one image token in its text. With fusion "cross" the token is taken out: the
    text holds no visual token. With "concat" it is repeated, once for each cell of the token grid.

    Args:
        image_processor: an `AgeVlmImageProcessor`.
        tokenizer: a tokenizer with an end token; a fast one where offsets or assistant masks are wanted.
        chat_template: Jinja; None for the one that suits the tokenizer (`agevlm.model.templates`).
        fusion: "cross" or "concat".
        image_token: what stands for the image; one token of the tokenizer if fusion is "concat".

    Raises:
        ValueError: no such fusion.
        DataError: fusion is "concat" and the image token is not one token.
        CheckpointError: a tokenizer without an end token.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        fusion: str = "cross",
        image_token: str = "<image>",
    ) -> None:
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; choose one of {', '.join(FUSIONS)}")
        if chat_template is None:
            chat_template = default_chat_template(tokenizer, image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.fusion = fusion
        self.image_token = image_token
        if fusion == "concat" and tokenizer.encode(image_token, add_special_tokens=False) != [self.image_token_id]:
            raise DataError(
                f"{image_token} is not one token of the tokenizer: add it with "
                f"tokenizer.add_tokens([{image_token!r}], special_tokens=True), and its row to the model's embeddings"
            )

    @classmethod
    def _get_arguments_from_pretrained(
        cls,
        folder: Any,
        processor_dict: Any = None,  # noqa: ARG003
        **kwargs: Any,
    ) -> list[Any]:
        # transformers would look the image processor's class up in its own list of models.
        return [AgeVlmImageProcessor.from_pretrained(folder, **kwargs), AutoTokenizer.from_pretrained(folder, **kwargs)]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names, "image_mask"]

    @property
    def image_token_id(self) -> int | None:
        """Id of the visual tokens in `input_ids`; None with fusion "cross", which has none there."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token) if self.fusion == "concat" else None

    @property
    def visual_tokens(self) -> int:
        """How many visual tokens stand for one image: the cells of the grid."""
        rows, columns = self.image_processor.grid
        return rows * columns

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        text_kwargs: dict[str, Any] | None = None,
        images_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch of prompts, each with one image or none.

        Args:
            images: one image, a flat list in the order of the prompts that have one, or a list for each prompt
                ([[image], []]); what an image may be says `AgeVlmImageProcessor.preprocess`.
            text: one prompt or a list; a list is what comes out.
            return_tensors: "pt", "np" or None (lists, and numpy for images).
            return_offsets_mapping: also give for each token the (start, end) of its characters in the caller's text;
                all visual tokens of an image have the image token's.
            text_kwargs: more for the tokenizer.
            images_kwargs: more for the image processor.
            **kwargs: more for the tokenizer, such as padding. `add_special_tokens` is left to the tokenizer unless the
                prompts begin with its BOS already.

        Returns:
            input_ids and attention_mask, (batch, length); with images also pixel_values (images, 3, side, side)
            float32, vision_token_mask (images, cells) bool, and image_mask (batch,) bool, True for the prompts that
            have an image, whose images follow in that order.

        Raises:
            DataError: images and image tokens that do not match, two in a prompt, visual tokens cut off, prompts of
                which only some begin with BOS, other modalities, or images that cannot be used.
        """
        options = {**kwargs, **(text_kwargs or {})}
        for modality in ("videos", "audio"):
            if options.pop(modality, None) is not None:
                raise DataError(f"{modality} were given; this model takes images and text only")
        # How transformers asks for the spans of repeated tokens; the offsets below need no such correction.
        options.pop("return_text_replacement_offsets", None)
        if text is None:
            raise DataError("no text was given: give a prompt, or call image_processor for images alone")
        prompts = [text] if isinstance(text, str) else list(text)
        has_image = [self._has_image(prompt, row) for row, prompt in enumerate(prompts)]
        shown = match_images(images, has_image, self.image_token)
        data = dict(self._tokenize(prompts, has_image, return_offsets_mapping, options))
        if shown:
            data.update(self.image_processor(shown, **(images_kwargs or {})))
            data["image_mask"] = np.array(has_image)
        return BatchFeature(data, tensor_type=return_tensors)

    def _has_image(self, prompt: str, row: int) -> bool:
        count = prompt.count(self.image_token)
        if count > 1:
            raise DataError(f"prompt {row} has {count} times {self.image_token}; one image a prompt")
        return count == 1

    def _tokenize(self, prompts: list[str], has_image: list[bool], offsets: bool, options: dict[str, Any]) -> Any:
        stand_in = self.image_token * (self.visual_tokens if self.fusion == "concat" else 0)
        texts = [prompt.replace(self.image_token, stand_in) for prompt in prompts]
        if "add_special_tokens" not in options and self._begin_with_bos(texts):
            options["add_special_tokens"] = False
        # These stay lists: whole batches become tensors at the end.
        options |= {"return_tensors": None, "return_token_type_ids": False, "return_offsets_mapping": offsets}
        encoded = self.tokenizer(texts, **options)
        if self.fusion == "concat":
            for row, (ids, expected) in enumerate(zip(encoded["input_ids"], has_image, strict=True)):
                if ids.count(self.image_token_id) != expected * self.visual_tokens:
                    raise DataError(
                        f"prompt {row}: truncation cut visual tokens off; an image takes {self.visual_tokens} tokens, "
                        "so raise max_length or shorten the text"
                    )
        if offsets:
            encoded["offset_mapping"] = [
                shift_offsets(spans, prompt, self.image_token, stand_in)
                for spans, prompt in zip(encoded["offset_mapping"], prompts, strict=True)
            ]
        return encoded

    def _begin_with_bos(self, texts: list[str]) -> bool:
        bos = self.tokenizer.bos_token
        begins = [bool(bos) and text.startswith(bos) for text in texts]
        if any(begins) and not all(begins):
            raise DataError(f"only some of the prompts begin with {bos}: write it in all or in none")
        return all(begins)


def match_images(images: Any, has_image: Sequence[bool], image_token: str) -> list[Any]:
    """The images in the order of the prompts that have an image token.

    Args:
        images: one, a flat list, or a list for each prompt; or None.
        has_image: of each prompt.
        image_token: for messages.

    Raises:
        DataError: a prompt without its image or an image without its prompt.
    """
    wanted = sum(has_image)
    if isinstance(images, list | tuple) and images and all(isinstance(row, list | tuple) for row in images):
        if len(images) != len(has_image):
            raise DataError(
                f"{len(images)} lists of images for {len(has_image)} prompts; give one list for each prompt"
            )
        for row, (given, expected) in enumerate(zip(images, has_image, strict=True)):
            if len(given) != expected:
                raise DataError(
                    f"prompt {row} has {int(expected)} image tokens and {len(given)} images: write {image_token} "
                    "once where the image belongs, and give one image for it"
                )
    flat = [] if images is None else flat_list(images)
    if len(flat) != wanted:
        raise DataError(
            f"{len(flat)} images, but {wanted} of {len(has_image)} prompts have an image token: write {image_token} "
            "once in each prompt that shows an image, and give one image for each"
        )
    return flat


def shift_offsets(spans: Sequence[Any], prompt: str, image_token: str, stand_in: str) -> list[tuple[int, int]]:
    """Offsets in a text whose image token was replaced, as offsets in the text before.

    They never decrease and leave no space out, because transformers' search for the assistant's tokens counts on both.
    Some tokenizers leave the space before a word out of its offsets, or give a lone space an empty span; and all give
    (0, 0) to tokens that stand for no text, padding on the right among them.

    Args:
        spans: (start, end) in characters for each token of the replaced text.
        prompt: the text before.
        image_token: what was replaced, at most once.
        stand_in: what replaced it.

    Returns:
        (start, end) in characters of `prompt` for each token; empty, at its beginning or end, for tokens added to it.
    """
    replaced = prompt.replace(image_token, stand_in)
    at = prompt.find(image_token)
    to_start, to_end = _shifts(at, len(image_token), len(stand_in)) if at >= 0 else (int, int)
    shifted: list[tuple[int, int]] = []
    reached = 0
    for start, end in spans:
        if end == 0:
            shifted.append((len(prompt), len(prompt)) if reached else (0, 0))
            continue
        first = reached if replaced[reached:start].isspace() else start
        shifted.append((to_start(first), to_end(end)))
        reached = end
    return shifted


def _shifts(at: int, old: int, new: int) -> tuple[Callable[[int], int], Callable[[int], int]]:
    """Maps from a text in which `old` characters at `at` became `new`, back: for starts and for ends of spans."""

    def to_start(position: int) -> int:
        if position < at:
            return position
        return at if position < at + new else position - new + old

    def to_end(position: int) -> int:
        if position <= at:
            return position
        return at + old if position <= at + new else position - new + old

    return to_start, to_end
