"""Gradients of ResNet-50 into one buffer and out again, with one ``copy_`` of PyTorch per tensor.

    python benchmarks/gpu/pack.py

hora's own way, one launch for all, is measured by pack_bench (tests/gpu), against what the device
copies at all. Bytes count as read and as written. Prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics

import torch
from resnet import resnet50

ROUNDS, CALLS, WARMUP = 11, 20, 2


def main() -> None:
    parameters = [p.detach().cuda() for p in resnet50().parameters()]
    flat = torch.empty(sum(p.numel() for p in parameters), device="cuda")
    places = [
        place.view(p.shape)
        for place, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)
    ]

    def there_and_back() -> None:
        for place, parameter in zip(places, parameters, strict=True):
            place.copy_(parameter)
        for place, parameter in zip(places, parameters, strict=True):
            parameter.copy_(place)

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times_us = []
    for turn in range(-WARMUP, ROUNDS):
        begin.record()
        for _ in range(CALLS):
            there_and_back()
        end.record()
        end.synchronize()
        if turn >= 0:
            times_us.append(begin.elapsed_time(end) * 1e3 / CALLS)
    time_us, nbytes = statistics.median(times_us), 4 * flat.numel() * flat.element_size()
    print(json.dumps({
        "way": "one copy_ per tensor", "tensors": len(parameters), "bytes": nbytes,
        "us": round(time_us, 1), "GB/s": round(nbytes / time_us / 1e3, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
