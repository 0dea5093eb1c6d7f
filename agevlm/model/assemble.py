"""Stage 0: a LLaMA and a ConvNeXt joined into an AGE-VLM checkpoint whose new weights are untrained.

Every pretrained weight keeps its value, and the gates are shut, so that the model still says what its LLaMA says. Only
what is drawn anew is held in memory: pretrained weights go from file to file.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import logging

from agevlm.appearing import folder_appears
from agevlm.data.checkpoint_files import INDEX, WEIGHTS, one_line
from agevlm.errors import AgeVlmError, CheckpointError
from agevlm.model.configuration import AgeVlmConfig, AgeVlmTextConfig, AgeVlmVisionConfig
from agevlm.model.describe import Parameters, count_parameters, on_meta, read_age_vlm_config
from agevlm.model.image_processing import AgeVlmImageProcessor
from agevlm.model.modeling import AgeVlmForConditionalGeneration
from agevlm.model.processing import AgeVlmProcessor
from agevlm.model.sources import LlamaSource, VisionSource, dropped_of_vision, find_llama, find_vision
from agevlm.model.templates import end_token

IMAGE_TOKEN = "<image>"
RESERVED_TOKEN = "<|reserved_special_token_0|>"
"""LLaMA 3's spare token with an embedding of its own."""
RIGHT_PAD_TOKEN = "<|finetune_right_pad_id|>"
TRUNK = "model.vision_tower.trunk."
TEXT = "model.language_model."
HEAD = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"
SHARD_BYTES = 5 * 10**9

LLAMA_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)
"""What a LLaMA's weights were made for, besides its number of layers."""
VISION_FIELDS = ("architecture", "model_args", "stride", "hidden_size")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class AssembleSettings:
    """What to join, and how. None stands for the default, or for what `config` says if one is given."""

    llama: str
    """Folder or hub id."""
    vision: str
    """timm's folder, a .safetensors file, timm's name, a hub id, or "random"."""
    out: Path
    architecture: str | None = None
    """timm's name of a bare vision file."""
    image_size: int | None = None
    """Side in pixels; 768."""
    num_stages: int | None = None
    """Stages of the ConvNeXt to keep; all."""
    fusion: str | None = None
    """cross (the default) or concat."""
    cross_layers: tuple[int, ...] | None = None
    """Indices in the fused stack; one layer in five."""
    cross_mlp: bool | None = None
    """Whether cross-attention layers have an MLP branch; yes."""
    adapter: str | None = None
    """mlp (the default) or linear."""
    visual_positions: str | None = None
    """none (the default) or learned."""
    mask_padding: bool | None = None
    """Hide visual tokens that hold padding alone; no."""
    resize: str = "letterbox"
    """letterbox, squash or crop."""
    config: Path | None = None
    """An AGE-VLM's config.json that everything must fit."""
    chat_template: str | None = None
    """Jinja; the one that suits the tokenizer."""
    seed: int = 0
    """Of the new weights."""
    initializer_range: float | None = None
    """Standard deviation of the new weights; what LLaMA's config.json says (0.02). A narrow model learns faster from
    more: 0.02 is for widths in the thousands."""
    dtype: str = "auto"
    """auto: every weight as its source has it, new ones in float32. Otherwise all weights are stored in this one."""
    force: bool = False
    """Replace an AGE-VLM checkpoint that stands at `out`."""
    verify: bool = True
    """Load what was written and compare every weight."""


@dataclass(frozen=True)
class Assembled:
    """What was written."""

    out: Path
    config: AgeVlmConfig
    parameters: Parameters
    bytes_written: int
    """Size of the weight files."""
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_token: str
    verified: bool


@dataclass(frozen=True)
class _Weight:
    """A weight to be written: its shape and dtype, and how to get it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def assemble(settings: AssembleSettings) -> Assembled:
    """Write a stage-0 AGE-VLM checkpoint folder: weights, configuration, generation settings and processor.

    The same sources, settings and seed give the same bytes. The folder appears under its name only when it is whole.

    Raises:
        CheckpointError: sources that are not there, refused or of the wrong shapes; settings that make no model; an
            `out` that may not be replaced; no room on the disk; or a checkpoint that does not load as it was written.
    """
    out = _target(settings.out, settings.force)
    llama = find_llama(settings.llama)
    base = read_age_vlm_config(settings.config) if settings.config is not None else None
    known = (base.vision_config.architecture, base.vision_config.model_args) if base is not None else None
    vision = find_vision(settings.vision, settings.architecture, known)
    tokenizer = _tokenizer(llama)
    config = _config(settings, base, llama, vision)
    if settings.initializer_range is not None:
        config.initializer_range = config.text_config.initializer_range = settings.initializer_range
    image_token = _image_token(tokenizer, config)
    config.dtype = llama.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    for part in (config.text_config, config.vision_config):
        part.dtype = config.dtype
    config.architectures = [AgeVlmForConditionalGeneration.__name__]
    processor = _processor(settings, config, vision, tokenizer, image_token)
    model = on_meta(config)
    parameters = count_parameters(model)
    cast = None if settings.dtype == "auto" else config.dtype
    weights = _weights(model, llama, vision, settings.seed, cast)
    needed = sum(weight.nbytes for weight in weights.values())
    with _appearing(out, needed) as folder:
        _write_weights(weights, folder)
        _generation_config(llama, tokenizer).save_pretrained(folder)
        processor.save_pretrained(folder)
        # Last: before it nothing takes the folder for a checkpoint.
        config.save_pretrained(folder)
        if settings.verify:
            _verify(folder, weights, config.dtype)
    return Assembled(out, config, parameters, needed, vision.image_mean, vision.image_std, image_token, settings.verify)


def _target(out: Path, force: bool) -> Path:
    """Where to write. What stands there is replaced only if it is an AGE-VLM checkpoint and the user says so."""
    out = out.expanduser().resolve()
    if not out.exists():
        return out
    if not out.is_dir():
        raise CheckpointError(f"--out {out}: is a file; name a folder")
    if not force:
        raise CheckpointError(f"--out {out}: exists already; name another folder, or replace it with --force")
    try:
        read_age_vlm_config(out)
    except CheckpointError:
        raise CheckpointError(
            f"--out {out}: is no AGE-VLM checkpoint, so not even --force replaces it; name another folder"
        ) from None
    return out


def _tokenizer(llama: LlamaSource) -> Any:
    if not any((llama.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{llama.where}: no tokenizer (tokenizer.json or tokenizer.model) in {llama.folder}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(llama.folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{llama.where}: cannot load its tokenizer: {one_line(error)}") from error
    highest = max(tokenizer.get_vocab().values())
    if highest >= llama.config.vocab_size:
        raise CheckpointError(
            f"{llama.where}: its tokenizer has ids up to {highest}, but there are only {llama.config.vocab_size} "
            "embeddings; resize them (model.resize_token_embeddings) or take the tokenizer that belongs to the weights"
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        has_pad = RIGHT_PAD_TOKEN in tokenizer.get_vocab()
        tokenizer.pad_token = RIGHT_PAD_TOKEN if has_pad else (tokenizer.eos_token or end_token(tokenizer))
    return tokenizer


def _config(
    settings: AssembleSettings, base: AgeVlmConfig | None, llama: LlamaSource, vision: VisionSource
) -> AgeVlmConfig:
    """The model's configuration: made from the parts, or the one given if the parts fit it."""
    if base is not None:
        return _fitting(settings, base, llama, vision)
    fusion = settings.fusion or "cross"
    layers = None if settings.cross_layers is None else list(settings.cross_layers)
    if fusion == "concat":
        if layers:
            raise CheckpointError(
                "--cross-layers with --fusion concat: it has no cross-attention layers; leave them out"
            )
        layers = []
    try:
        return AgeVlmConfig(
            text_config=AgeVlmTextConfig.from_llama(
                llama.config,
                cross_attention_layers=layers,
                cross_attention_mlp=settings.cross_mlp is not False,
            ),
            vision_config=AgeVlmVisionConfig.from_timm(
                vision.architecture,
                image_size=settings.image_size or 768,
                num_stages=settings.num_stages,
                model_args=vision.model_args,
            ),
            fusion=fusion,
            adapter=settings.adapter or "mlp",
            visual_positions=settings.visual_positions or "none",
            mask_padding=bool(settings.mask_padding),
        )
    except Exception as error:
        raise CheckpointError(f"these settings make no AGE-VLM: {one_line(error)}") from error


def _fitting(settings: AssembleSettings, base: AgeVlmConfig, llama: LlamaSource, vision: VisionSource) -> AgeVlmConfig:
    text, eyes = base.text_config, base.vision_config
    pairs: list[tuple[str, Any, str, Any]] = [
        ("num_hidden_layers", len(text.self_attention_layers), llama.where, llama.config.num_hidden_layers),
        *((name, getattr(text, name), llama.where, getattr(llama.config, name)) for name in LLAMA_FIELDS),
    ]
    try:
        seen = AgeVlmVisionConfig.from_timm(
            vision.architecture,
            image_size=eyes.image_size,
            num_stages=eyes.num_stages,
            model_args=vision.model_args,
        )
    except Exception as error:
        raise CheckpointError(f"{vision.where}: does not go with {settings.config}: {one_line(error)}") from error
    pairs += [(name, getattr(eyes, name) or None, vision.where, getattr(seen, name) or None) for name in VISION_FIELDS]
    layers = None if settings.cross_layers is None else sorted(settings.cross_layers)
    given = (
        ("image_size", eyes.image_size, settings.image_size),
        ("num_stages", eyes.num_stages, settings.num_stages),
        ("fusion", base.fusion, settings.fusion),
        ("cross_attention_layers", text.cross_attention_layers, layers),
        ("cross_attention_mlp", text.cross_attention_mlp, settings.cross_mlp),
        ("adapter", base.adapter, settings.adapter),
        ("visual_positions", base.visual_positions, settings.visual_positions),
        ("mask_padding", base.mask_padding, settings.mask_padding),
    )
    pairs += [(name, there, "the command line", here) for name, there, here in given if here is not None]
    differing = [f"{name} is {there} there, {here} in {where}" for name, there, where, here in pairs if there != here]
    if differing:
        raise CheckpointError(f"--config {settings.config} does not fit: {'; '.join(differing)}")
    for name in TOKEN_IDS:
        setattr(text, name, getattr(llama.config, name))
    return base


def _image_token(tokenizer: Any, config: AgeVlmConfig) -> str:
    """What stands for the image in a prompt; with concat its id goes into the configuration."""
    if config.fusion == "cross":
        return IMAGE_TOKEN
    for token in (IMAGE_TOKEN, RESERVED_TOKEN):
        if token in tokenizer.get_vocab():
            config.image_token_id = tokenizer.convert_tokens_to_ids(token)
            return token
    raise CheckpointError(
        f"fusion 'concat' needs a token for the image, and the tokenizer has neither {IMAGE_TOKEN} nor "
        f"{RESERVED_TOKEN}. Add one to the LLaMA folder: tokenizer.add_tokens(['{IMAGE_TOKEN}'], special_tokens=True), "
        "model.resize_token_embeddings(len(tokenizer)), and save both"
    )


def _processor(
    settings: AssembleSettings, config: AgeVlmConfig, vision: VisionSource, tokenizer: Any, image_token: str
) -> AgeVlmProcessor:
    eyes = config.vision_config
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    try:
        processor = AgeVlmProcessor(
            AgeVlmImageProcessor(
                image_size=eyes.image_size,
                stride=eyes.stride,
                resize_mode=settings.resize,
                image_mean=vision.image_mean,
                image_std=vision.image_std,
            ),
            tokenizer,
            chat_template=settings.chat_template,
            fusion=config.fusion,
            image_token=image_token,
        )
        prompt = processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    except AgeVlmError:
        raise
    except Exception as error:
        raise CheckpointError(f"no processor can be made of these settings: {one_line(error)}") from error
    if prompt.count(image_token) != 1:
        raise CheckpointError(
            f"the chat template writes {image_token} {prompt.count(image_token)} times for one image; it must be once"
        )
    return processor


def _generation_config(llama: LlamaSource, tokenizer: Any) -> GenerationConfig:
    """Greedy; it ends where LLaMA ended, and where the chat template ends an answer."""
    path = llama.folder / "generation_config.json"
    try:
        declared = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{llama.where}: cannot read {path}: {error}") from None
    ends: set[int] = {tokenizer.convert_tokens_to_ids(end_token(tokenizer))}
    for named in (llama.config.eos_token_id, declared.get("eos_token_id")):
        ends.update([] if named is None else named if isinstance(named, list) else [named])
    return GenerationConfig(eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id, do_sample=False)


def _weights(
    model: AgeVlmForConditionalGeneration,
    llama: LlamaSource,
    vision: VisionSource,
    seed: int,
    cast: torch.dtype | None,
) -> dict[str, _Weight]:
    """Every weight of the model, in its order, from where it comes: LLaMA, ConvNeXt, or drawn now."""
    config = model.config
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[HEAD]
        _check_tied(llama)
    from_llama = {name: source for name in shapes if (source := _llama_name(name, config.text_config))}
    llama.weights.check(
        {source: shapes[name] for name, source in from_llama.items()},
        "its config.json",
        "weights and configuration are not of one model",
        lambda name: (name == HEAD and config.tie_word_embeddings) or name.endswith("rotary_emb.inv_freq"),
    )
    from_vision: dict[str, str] = {}
    if vision.weights is not None:
        from_vision = {name: name.removeprefix(TRUNK) for name in shapes if name.startswith(TRUNK)}
        vision.weights.check(
            {source: shapes[name] for name, source in from_vision.items()},
            vision.architecture,
            f"a ConvNeXt whose width does not fit {vision.architecture}",
            dropped_of_vision(config.vision_config.num_stages),
        )
    drawn = _draw(model, seed, with_vision=vision.weights is None)
    found: dict[str, _Weight] = {}
    for name, shape in shapes.items():
        for names, files in ((from_llama, llama.weights), (from_vision, vision.weights)):
            if files is not None and name in names:
                found[name] = _stored(files.read, names[name], shape, files.dtypes[names[name]], cast)
                break
        else:
            found[name] = _stored(drawn.__getitem__, name, shape, drawn[name].dtype, cast)
    return found


def _stored(
    read: Callable[[str], torch.Tensor],
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    cast: torch.dtype | None,
) -> _Weight:
    kept = cast if cast is not None and dtype.is_floating_point else dtype
    return _Weight(shape, kept, lambda: read(name).to(kept))


def _llama_name(name: str, text: AgeVlmTextConfig) -> str | None:
    """What LLaMA calls a weight of ours; None for those that it lacks."""
    if name == HEAD:
        return name
    if not name.startswith(TEXT):
        return None
    rest = name.removeprefix(TEXT)
    layer = re.match(r"layers\.(\d+)\.", rest)
    if layer is None:
        return f"model.{rest}"
    own = {index: j for j, index in enumerate(text.self_attention_layers)}
    index = int(layer[1])
    return f"model.layers.{own[index]}.{rest[layer.end() :]}" if index in own else None


def _check_tied(llama: LlamaSource) -> None:
    """A head that is stored although it is tied must be the embeddings: it would be lost."""
    if not llama.stores_head or EMBEDDINGS not in llama.weights.shapes:
        return
    if not torch.equal(llama.weights.read(HEAD), llama.weights.read(EMBEDDINGS)):
        raise CheckpointError(
            f"{llama.where}: its config.json says tie_word_embeddings, but {HEAD} differs from {EMBEDDINGS}; set "
            "tie_word_embeddings to false there if the head is its own"
        )


def _draw(model: AgeVlmForConditionalGeneration, seed: int, *, with_vision: bool) -> dict[str, torch.Tensor]:
    """Initialise in float32 what no source brings: adapter, cross-attention and, if it is to be random, the tower."""
    inner = model.model
    crossing = model.config.text_config.cross_attention_layers
    # The tower last: whether it is drawn or not, the others come out the same.
    parts: list[tuple[str, nn.Module, Any]] = [
        ("model.adapter.", inner.adapter, inner),
        *((f"{TEXT}layers.{i}.", inner.language_model.layers[i], inner.language_model) for i in crossing),
        *([(TRUNK, inner.vision_tower.trunk, inner.vision_tower)] if with_vision else []),
    ]
    drawn: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for prefix, module, owner in parts:
            module.to_empty(device="cpu").to(torch.float32)
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
            module.apply(owner._init_weights)
            for name, tensor in module.state_dict().items():
                if not bool(tensor.isfinite().all()):
                    raise RuntimeError(f"{prefix}{name}: the model's initialisation leaves it undefined")
                drawn[prefix + name] = tensor
    return drawn


@contextmanager
def _appearing(out: Path, needed: int) -> Iterator[Path]:
    """`folder_appears` with errors that name the option. Raises CheckpointError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < needed:
            raise CheckpointError(
                f"--out {out}: the weights take {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free there"
            )
        with folder_appears(out) as folder:
            yield folder
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)
        reason = "no room left on the disk" if full else one_line(error)
        raise CheckpointError(f"--out {out}: cannot be written: {reason}") from error


def _write_weights(weights: dict[str, _Weight], folder: Path) -> None:
    shards: list[list[str]] = [[]]
    size = 0
    for name, weight in weights.items():
        if shards[-1] and size + weight.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += weight.nbytes
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: weights[name].read().contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(w.nbytes for w in weights.values())},
            "weight_map": dict(sorted(places.items())),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _verify(folder: Path, weights: dict[str, _Weight], dtype: torch.dtype) -> None:
    """Load the checkpoint as everybody will, and see that every weight has arrived."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AgeVlmForConditionalGeneration.from_pretrained(folder, dtype="auto")
        AgeVlmProcessor.from_pretrained(folder)
    except (OSError, SafetensorError):
        raise
    except Exception as error:
        raise CheckpointError(f"the checkpoint was written but does not load: {one_line(error)}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    loaded = model.state_dict()
    for name, weight in weights.items():
        if not torch.equal(loaded[name], weight.read().to(dtype)):
            raise CheckpointError(f"the checkpoint was written but {name} loads with other values")
