"""A small plain ConvNet of our own, which timm builds by the name `agevlm_convnet` once this module is imported.

Dense 3x3 convolutions with batch norm learn small pictures far faster on a CPU than ConvNeXt's 7x7 depthwise ones; the
checkpoints of the scenes world look through it. It has what the vision tower asks of a timm trunk: `stages`,
`feature_info`, `forward_features`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from timm.layers import LayerNorm2d
from timm.models import register_model
from torch import nn
from torch.utils.checkpoint import checkpoint

NAME = "agevlm_convnet"


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms within normalise as they do otherwise, but leave their running statistics alone."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    counts = [(norm.num_batches_tracked, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, (counter, count) in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            counter.copy_(count)  # type: ignore[union-attr]


class ConvNetBlock(nn.Module):
    """conv - norm - ReLU - conv - norm, plus its input, ReLU. Any spatial size; the channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_1 = _norm(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_2 = _norm(channels)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(images, channels, height, width) -> the same."""
        return self.act(x + self.norm_2(self.conv_2(self.act(self.norm_1(self.conv_1(x))))))


class ConvNetStage(nn.Module):
    """Halves the map, then so many blocks."""

    def __init__(self, channels_in: int, channels: int, depth: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride=2, padding=1, bias=False), _norm(channels), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(ConvNetBlock(channels) for _ in range(depth)))
        self.grad_checkpointing = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(images, channels in, height, width) -> (images, channels, height / 2, width / 2)."""
        x = self.down(x)
        if self.grad_checkpointing:
            # Recomputed, the batch norms must not count the batch a second time.
            contexts = lambda: (nullcontext(), _statistics_kept(self.blocks))  # noqa: E731
            return checkpoint(self.blocks, x, use_reentrant=False, context_fn=contexts)
        return self.blocks(x)


class ConvNet(nn.Module):
    """A stem at stride 2, then stages that each halve the map.

    Args:
        stem: channels at stride 2.
        dims: channels of each stage.
        depths: residual blocks of each stage.
    """

    def __init__(
        self, stem: int = 24, dims: Sequence[int] = (48, 128), depths: Sequence[int] = (1, 3), **kwargs: Any
    ) -> None:
        super().__init__()
        if len(dims) != len(depths):
            raise ValueError(f"dims {list(dims)} and depths {list(depths)} differ in length: one entry a stage")
        unknown = sorted(kwargs.keys() - {"num_classes", "global_pool", "in_chans"})
        if unknown:
            raise TypeError(f"{NAME} takes stem, dims and depths, not {', '.join(unknown)}")
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), _norm(stem), nn.ReLU())
        widths = [stem, *dims]
        self.stages = nn.Sequential(*(ConvNetStage(a, b, d) for a, b, d in zip(widths, dims, depths, strict=False)))
        self.norm = LayerNorm2d(widths[-1])
        self.feature_info = [
            {"num_chs": dim, "reduction": 2 ** (i + 2), "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(images, 3, height, width) -> (images, dims[-1], height / stride, width / stride)."""
        return self.norm(self.stages(self.stem(x)))

    forward = forward_features


@register_model
def agevlm_convnet(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """For timm.create_model. Raises ValueError if pretrained weights are asked for: there are none."""
    if pretrained:
        raise ValueError(f"{NAME} has no pretrained weights")
    kwargs = {key: value for key, value in kwargs.items() if not key.startswith(("pretrained", "cache_dir"))}
    return ConvNet(**kwargs)
