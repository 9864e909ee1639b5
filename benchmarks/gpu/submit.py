"""How long the host is busy with one operation on a GPU tensor, at 1 rank over NCCL.

    HORA_NCCL_ALONE=1 horarun -np 1 --gpu-backend nccl python benchmarks/gpu/submit.py

From the call to where the work is on the GPU's stream, which is when ``wait`` returns: it makes the
current stream wait, not the host. The GPU is idle at each call, so that no queue is in the way.
Prints one line of JSON per operation of ways.py and size, which says what its figure contains:
medians in µs.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import hora.torch as hvd
import torch
import ways

SAMPLES, WARMUP = 1000, 100
SIZES = (4, 1 << 20, 64 << 20)


def measure(way: ways.Way, nbytes: int) -> dict[str, Any]:
    tensor = torch.ones(nbytes // 4, device="cuda")
    submitted, launched = [], []
    for sample in range(-WARMUP, SAMPLES):
        torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        handle = way.start(hvd, tensor)
        between = time.perf_counter_ns()
        handle.wait()
        end = time.perf_counter_ns()
        if sample >= 0:
            submitted.append(between - begin)
            launched.append(end - begin)
    if not torch.equal(tensor.abs(), torch.ones_like(tensor)):
        raise RuntimeError(f"{way.name} of {nbytes} bytes: the tensor has wrong numbers")
    return ways.summary(way, nbytes, submitted, launched)


def main() -> None:
    if not ways.is_nccl_called():
        sys.exit(f"submit: without {ways.ALONE}=1 a single rank calls no NCCL: nothing to measure")
    hvd.init()
    hvd.set_device(0)
    for way in ways.WAYS:
        for nbytes in SIZES:
            print(json.dumps(measure(way, nbytes)), flush=True)
    hvd.shutdown()


if __name__ == "__main__":
    main()
