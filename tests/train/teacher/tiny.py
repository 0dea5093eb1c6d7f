"""Tiny random models of the teacher's families, saved as their real checkpoints are. They know nothing.

Every part is real (Swin, BERT, a WordPiece tokenizer, ViT, processors), and random weights are large enough that image,
phrase and box all move what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = ["cat", "dog", "two", "red", "the", "left", "of"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789',-"
SAM_SIDE, SAM_PATCH, SAM_WIDTH, SAM_CHANNELS, SAM_LAYERS, SAM_WINDOW = 64, 8, 32, 32, 2, 3
"""The encoder sees SAM_SIDE x SAM_SIDE pixels."""


def bert_vocabulary() -> dict[str, int]:
    """Grounding DINO knows [CLS], [SEP], the period and the question mark by BERT's own ids."""
    pieces = [f"[unused{i}]" for i in range(1100)]
    for index, token in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}.items():
        pieces[index] = token
    pieces[1012], pieces[1029] = ".", "?"
    known = [*CHARACTERS, *(f"##{c}" for c in CHARACTERS), *WORDS]
    pieces[200 : 200 + len(known)] = known
    return {piece: index for index, piece in enumerate(pieces)}


def grounding_dino(kind: str = "grounding-dino", text_length: int = 40) -> tuple[Any, Any]:
    """Model and processor; images are scaled to a shorter edge of 64 pixels."""
    from transformers import (
        AutoConfig,
        AutoModelForZeroShotObjectDetection,
        BertTokenizer,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    tokenizer = BertTokenizer(vocab=bert_vocabulary(), do_lower_case=True)
    text = {"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": text_length}
    config = AutoConfig.for_model(
        kind,
        backbone_config=SwinConfig(
            window_size=3,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            image_size=64,
            out_indices=[2, 3, 4],
        ),
        text_config=text,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=24,
        max_text_len=text_length,
    )
    model = AutoModelForZeroShotObjectDetection.from_config(config)
    enliven(model, 0.2)
    # Scores away from 0 and 1, where float32 would tie them.
    nn.init.constant_(model.model.decoder.layer_norm.weight, 0.15)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 107})
    return model.eval(), GroundingDinoProcessor(images, tokenizer)


def enliven(model: nn.Module, std: float) -> None:
    """Random weights where models begin with zeros or with steps too small to see."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("vision_param", "text_param")):
                weight.fill_(0.7)
            elif weight.dim() > 1 or name.endswith("bias"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def original_sam(checkpoint: None = None, layers: int = SAM_LAYERS) -> Any:
    """What segment-anything's registry builds, only smaller."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    grid = SAM_SIDE // SAM_PATCH
    model = Sam(
        image_encoder=ImageEncoderViT(
            img_size=SAM_SIDE,
            patch_size=SAM_PATCH,
            embed_dim=SAM_WIDTH,
            depth=layers,
            num_heads=2,
            out_chans=SAM_CHANNELS,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=SAM_WINDOW,
            global_attn_indexes=(layers - 1,),
        ),
        prompt_encoder=PromptEncoder(SAM_CHANNELS, (grid, grid), (SAM_SIDE, SAM_SIDE), 16),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=SAM_CHANNELS, mlp_dim=32, num_heads=4),
            transformer_dim=SAM_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=32,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    if next(model.parameters()).device.type != "meta":
        enliven(model, 0.25)
        with torch.no_grad():  # logits beyond 1 and -1
            for head in model.mask_decoder.output_hypernetworks_mlps:
                head.layers[-1].weight *= 40
    return model.eval()


def save_original_sam(path: Path) -> Path:
    torch.save(original_sam().state_dict(), path)
    return path


RENAMED = [
    (r"^image_encoder", "vision_encoder"),
    (r"blocks\.", "layers."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"neck\.0", "neck.conv1"),
    (r"neck\.1", "neck.layer_norm1"),
    (r"neck\.2", "neck.conv2"),
    (r"neck\.3", "neck.layer_norm2"),
    (r"\.norm", ".layer_norm"),
    (r"mask_downscaling\.0", "mask_embed.conv1"),
    (r"mask_downscaling\.1", "mask_embed.layer_norm1"),
    (r"mask_downscaling\.3", "mask_embed.conv2"),
    (r"mask_downscaling\.4", "mask_embed.layer_norm2"),
    (r"mask_downscaling\.6", "mask_embed.conv3"),
    (r"output_upscaling\.0", "upscale_conv1"),
    (r"output_upscaling\.1", "upscale_layer_norm"),
    (r"output_upscaling\.3", "upscale_conv2"),
    (r"point_embeddings", "point_embed"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0", r"\1.proj_in"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.1", r"\1.layers.0"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.2", r"\1.proj_out"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
]


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of segment-anything in transformers' names."""
    found = {}
    for name, value in state.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    shared = "shared_embedding.positional_embedding"
    return found | {"shared_image_embedding.positional_embedding": found[f"prompt_encoder.{shared}"]}


def save_hf_sam(folder: Path) -> Path:
    """The weights of `original_sam` as a transformers folder."""
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    sizes = {"image_size": SAM_SIDE, "patch_size": SAM_PATCH}
    config = SamConfig(
        vision_config={
            **sizes,
            "hidden_size": SAM_WIDTH,
            "num_hidden_layers": SAM_LAYERS,
            "num_attention_heads": 2,
            "output_channels": SAM_CHANNELS,
            "num_pos_feats": SAM_CHANNELS // 2,
            "window_size": SAM_WINDOW,
            "global_attn_indexes": [SAM_LAYERS - 1],
        },
        prompt_encoder_config={**sizes, "hidden_size": SAM_CHANNELS},
        mask_decoder_config={
            "hidden_size": SAM_CHANNELS,
            "mlp_dim": 32,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
            "layer_norm_eps": 1e-5,
        },
    )
    model = SamModel(config)
    model.load_state_dict(renamed(original_sam().state_dict()))
    model.save_pretrained(folder)
    side = {"height": SAM_SIDE, "width": SAM_SIDE}
    SamProcessor(SamImageProcessor(size={"longest_edge": SAM_SIDE}, pad_size=side)).save_pretrained(folder)
    return folder
