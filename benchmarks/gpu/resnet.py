"""ResNet-50, whose 161 tensors of 64 to 2.4 million numbers are what everybody reduces."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, width, stride of the first


def _convolution(channels: int, out: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(out)
    )


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a short cut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.reduce = _convolution(channels, width, 1)
        self.spread = _convolution(width, width, 3, stride)
        self.widen = _convolution(width, out, 1)
        is_same = channels == out and stride == 1
        self.short_cut = nn.Identity() if is_same else _convolution(channels, out, 1, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``images``: [batch, channels, height, width]; four times ``width`` channels result."""
        inner = self.spread(self.reduce(images).relu()).relu()
        return (self.widen(inner) + self.short_cut(images)).relu()


def resnet50(classes: int = 1000) -> nn.Sequential:
    """25.6 million parameters in 161 tensors; [batch, 3, 224, 224] to [batch, classes]."""
    layers: list[tuple[str, nn.Module]] = [
        ("stem", _convolution(3, 64, 7, 2)),
        ("relu", nn.ReLU(inplace=True)),
        ("pool", nn.MaxPool2d(3, 2, padding=1)),
    ]
    channels = 64
    for stage, (blocks, width, stride) in enumerate(_STAGES):
        for block in range(blocks):
            one = Bottleneck(channels, width, stride if block == 0 else 1)
            layers.append((f"stage{stage}_{block}", one))
            channels = 4 * width
    layers += [
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flat", nn.Flatten()),
        ("classes", nn.Linear(channels, classes)),
    ]
    return nn.Sequential(OrderedDict(layers))
