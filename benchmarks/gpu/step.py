"""A training step of ResNet-50 with DistributedOptimizer at 1 rank, by turns with plain PyTorch.

    HORA_NCCL_ALONE=1 horarun -np 1 --gpu-backend nccl python benchmarks/gpu/step.py

With HORA_NCCL_ALONE=1 gradients are packed, averaged by NCCL and unpacked, as on several ranks but
for what goes between them; without it a single rank does none of that.

Two networks that start alike, in bfloat16 autocast and channels_last, on the same images; one turn
is some steps of one, then of the other, so that a GPU that grows warm is warm for both. Every
second pair of turns begins with the other one. Prints one line of JSON: medians in µs per step, and
the ratio of each pair, and what the figure contains.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import hora.torch as hvd
import torch
import ways
from resnet import resnet50
from torch import nn


class Training:
    """One network with its optimizer; ``seconds_per_step`` waits for the GPU in the end."""

    def __init__(self, model: nn.Module, optimizer: Any, batch: int) -> None:
        self._model, self._optimizer = model, optimizer
        generator = torch.Generator("cuda").manual_seed(7)
        images = torch.randn(batch, 3, 224, 224, device="cuda", generator=generator)
        self._images = images.to(memory_format=torch.channels_last)
        self._labels = torch.randint(1000, (batch,), device="cuda", generator=generator)

    def seconds_per_step(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self._optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = nn.functional.cross_entropy(self._model(self._images), self._labels)
            loss.backward()
            self._optimizer.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / steps


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=24, help="pairs of turns (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of one turn (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="(%(default)s)")
    args = parser.parse_args()
    hvd.init()
    hvd.set_device(0)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = resnet50().cuda().to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    distributed = hvd.DistributedOptimizer(sgd(twin), twin.named_parameters())
    both = {
        "plain": Training(model, sgd(model), args.batch),
        "hora": Training(twin, distributed, args.batch),
    }
    times: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(-2, args.turns):
        for name in sorted(both, reverse=turn % 2 == 0):
            seconds = both[name].seconds_per_step(args.steps)
            if turn >= 0:
                times[name].append(seconds)
    ratios = [own / plain for own, plain in zip(times["hora"], times["plain"], strict=True)]
    print(json.dumps({
        "nccl_called": ways.is_nccl_called(),
        "model": "resnet50", "batch": args.batch, "turns": args.turns, "steps": args.steps,
        **{f"{name}_us": round(statistics.median(taken) * 1e6, 1) for name, taken in times.items()},
        "ratio": round(statistics.median(ratios), 5),
        "ratios": [round(ratio, 5) for ratio in ratios],
    }))  # fmt: skip
    hvd.shutdown()


if __name__ == "__main__":
    main()
