"""How long the host is busy with one allreduce of a GPU tensor, at 1 rank over NCCL.

    horarun -np 1 --gpu-backend nccl python benchmarks/gpu/submit.py

From the call to where the work is on the GPU's stream, which is when ``wait`` returns: it makes the
current stream wait, not the host. The GPU is idle at each call, so that no queue is in the way.
Prints one line of JSON per size, medians in µs.
"""

from __future__ import annotations

import json
import statistics
import time

import hora.torch as hvd
import torch

SAMPLES, WARMUP = 2000, 200


def measure(nbytes: int) -> dict[str, float | int]:
    tensor = torch.zeros(nbytes // 4, device="cuda")
    submitted, launched = [], []
    for sample in range(-WARMUP, SAMPLES):
        torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        handle = hvd.allreduce_async_(tensor, name="submit")
        between = time.perf_counter_ns()
        handle.wait()
        end = time.perf_counter_ns()
        if sample >= 0:
            submitted.append(between - begin)
            launched.append(end - begin)
    return {
        "bytes": nbytes,
        "submit_us": round(statistics.median(submitted) / 1e3, 2),
        "launch_us": round(statistics.median(launched) / 1e3, 2),
        "launch_p90_us": round(statistics.quantiles(launched, n=10)[-1] / 1e3, 2),
    }


def main() -> None:
    hvd.init()
    hvd.set_device(0)
    for nbytes in (4, 1 << 20, 64 << 20):
        print(json.dumps(measure(nbytes)), flush=True)
    hvd.shutdown()


if __name__ == "__main__":
    main()
