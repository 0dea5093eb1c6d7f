"""SAM in its original form: a .pth file of the segment-anything package."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agevlm.data.checkpoint_files import one_line
from agevlm.errors import CheckpointError
from agevlm.vlm.fingerprint import HashCache
from agevlm.vlm.hf.checkpoint import find_device, to_device
from train.teacher.loading import DIGITS
from train.teacher.segmenting import Encoded, SamFamily

if TYPE_CHECKING:
    import torch

KINDS = ("vit_b", "vit_l", "vit_h")


class SamSegmenter(SamFamily):
    """Masks by a `segment_anything.modeling.Sam`."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        kind: str,
        *,
        device: str = "auto",
        sha256: str | None = None,
        cache: HashCache | None = None,
        **settings: Any,
    ) -> SamSegmenter:
        """Load a state dict.

        Args:
            path: the .pth file.
            kind: vit_b, vit_l or vit_h.
            device: cpu, cuda, cuda:N or auto.
            sha256: what the file must hash to, in hex; None takes any.
            cache: remembers hashes of files; a default one in the user's cache folder.
            settings: `batch_size`, `multimask`, `dtype` as the class has them.

        Raises:
            CheckpointError: no such file or kind, another hash, a file of anything but tensors (it is not unpickled),
                or weights of another model.
            TrainError: a setting out of its range.
        """
        from segment_anything import sam_model_registry

        path = Path(path).expanduser()
        where = f"segmenter {path}"
        if kind not in KINDS:
            raise CheckpointError(f"{where}: kind {kind!r} is unknown; give one of {', '.join(KINDS)}")
        if not path.is_file():
            raise CheckpointError(f"{where}: no such file; give a .pth file of segment-anything")
        target = find_device(device)
        cache = cache or HashCache()
        found = cache.sha256(path)
        cache.save()
        if sha256 is not None and found != sha256.lower():
            raise CheckpointError(f"{where}: its SHA-256 is {found}, not {sha256}; fetch it again")
        state = _read_state(path, where)
        _check_kind(state, kind, where)
        model = sam_model_registry[kind](checkpoint=None)
        model.load_state_dict(state)
        return cls(to_device(model, where, target), f"sam {kind} {found[:DIGITS]}", **settings)

    def encode(self, images: Sequence[Any]) -> list[Encoded]:
        """Each image as the decoder needs it."""
        import numpy as np
        import torch

        scaled = [self._transform.apply_image(np.asarray(image)) for image in images]
        inputs = [torch.as_tensor(pixels, device=self.model.device).permute(2, 0, 1) for pixels in scaled]
        features = self.model.image_encoder(torch.stack([self.model.preprocess(pixels) for pixels in inputs])).float()
        return [
            Encoded(features[i : i + 1], (pixels.shape[-2], pixels.shape[-1]), (image.height, image.width))
            for i, (pixels, image) in enumerate(zip(inputs, images, strict=True))
        ]

    def decode(self, image: Encoded, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and predicted IoU, see the base class."""
        prompts, decoder = self.model.prompt_encoder, self.model.mask_decoder
        sparse, dense = prompts(points=None, boxes=self._transform.apply_boxes_torch(boxes, image.size), masks=None)
        logits, quality = decoder(
            image_embeddings=image.features,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask,
        )
        return logits, quality

    def enlarge(self, image: Encoded, logits: torch.Tensor) -> torch.Tensor:
        """Logits at the image's size."""
        enlarged: torch.Tensor = self.model.postprocess_masks(logits, image.input_size, image.size)
        return enlarged

    @property
    def _transform(self) -> Any:
        from segment_anything.utils.transforms import ResizeLongestSide

        return ResizeLongestSide(self.model.image_encoder.img_size)


def _read_state(path: Path, where: str) -> dict[str, torch.Tensor]:
    """A file's state dict, without running anything that it holds."""
    import torch

    try:
        # Files from before torch 1.6 are no archives, which alone can be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise CheckpointError(
            f"{where}: is no state dict of tensors alone ({one_line(error)}); anything else in a pickle could run code "
            "and is refused"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        held = f"keys {', '.join(map(str, list(state)[:3]))}" if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(f"{where}: is no state dict but holds {held}; give segment-anything's own .pth file")
    return dict(state)


def _check_kind(state: Mapping[str, torch.Tensor], kind: str, where: str) -> None:
    """Raise CheckpointError if the weights are not those of a SAM of this kind, by names and shapes."""
    found = {name: value.shape for name, value in state.items()}
    wanted = _shapes(kind)
    if found == wanted:
        return
    others = [other for other in KINDS if other != kind and _shapes(other) == found]
    if others:
        raise CheckpointError(f"{where}: is a {others[0]}, not a {kind}")
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    raise CheckpointError(
        f"{where}: is no SAM of kind {kind}: {len(wrong)} weights are missing, too many or of another shape, "
        f"first {wrong[0]}"
    )


def _shapes(kind: str) -> dict[str, torch.Size]:
    import torch
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        model = sam_model_registry[kind](checkpoint=None)
    return {name: value.shape for name, value in model.state_dict().items()}
