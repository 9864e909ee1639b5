"""The networks that the training benchmarks train, and one step's worth of data for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm and beside a short cut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.to_attention = nn.Linear(width, 3 * width)
        self.from_attention = nn.Linear(width, width)
        self.before_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``tokens``: [batch, length, width]; so is the result."""
        batch, length, width = tokens.shape
        mixed = self.to_attention(self.before_attention(tokens))
        by_head = mixed.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = by_head.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens = tokens + self.from_attention(seen.transpose(1, 2).reshape(batch, length, width))
        return tokens + self.feed_forward(self.before_feed_forward(tokens))


class SmallGPT(nn.Module):
    """A decoder-only transformer that predicts the next byte."""

    def __init__(self, layers: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.to_bytes = nn.Linear(width, 256, bias=False)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """``text``: [batch, length] of bytes; the result: [batch, length, 256] logits."""
        return self.to_bytes(self.norm(self.blocks(self.bytes(text) + self.places)))


@dataclass(frozen=True)
class Workload:
    """What one training step computes."""

    model: nn.Module
    loss_of: Callable[[nn.Module], torch.Tensor]
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]

    @property
    def gradient_bytes(self) -> int:
        """What is reduced in each step."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def digits(batch: int = 32) -> Workload:
    """The network of examples/02_mnist_mlp.py: 17 thousand parameters in 6 tensors, SGD."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
        nn.LogSoftmax(dim=1),
    )
    pixels, labels = torch.rand(batch, 64), torch.randint(10, (batch,))
    return Workload(
        model,
        lambda network: functional.nll_loss(network(pixels), labels),
        lambda network: torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9),
    )


def gpt(batch: int = 2) -> Workload:
    """0.9 million parameters in 53 tensors, AdamW; sequences of 64 bytes."""
    torch.manual_seed(0)
    model = SmallGPT(layers=4, width=128, heads=4, length=64)
    text = torch.randint(256, (batch, 65))

    def loss_of(network: nn.Module) -> torch.Tensor:
        return functional.cross_entropy(network(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    return Workload(
        model, loss_of, lambda network: torch.optim.AdamW(network.parameters(), lr=1e-4)
    )


WORKLOADS: dict[str, Callable[[], Workload]] = {"digits": digits, "gpt": gpt}
