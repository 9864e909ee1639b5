"""Allreduce of GPU tensors through the host's memory, by turns with torch.distributed's gloo.

    horarun -np 2 --gpu-backend staged python benchmarks/gpu/staged.py

The ranks may share a GPU. One call at a time, until its result is there. Rank 0 prints one line of
JSON per size and library: the median of the rounds, in µs, and how many results were wrong.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import hora.torch as hvd
import torch
import torch.distributed as dist

SIZES = tuple(1 << power for power in range(20, 27))
ROUNDS, WARMUP = 15, 3


def by_hora(tensor: torch.Tensor) -> None:
    hvd.allreduce_(tensor, op=hvd.Sum, name="staged")


def by_gloo(tensor: torch.Tensor) -> None:
    dist.all_reduce(tensor)


LIBRARIES: dict[str, Callable[[torch.Tensor], None]] = {"hora": by_hora, "gloo": by_gloo}


def main() -> None:
    hvd.init()
    hvd.set_device(hvd.local_rank() % torch.cuda.device_count())
    dist.init_process_group("gloo", rank=hvd.rank(), world_size=hvd.size())
    for nbytes in SIZES:
        tensor = torch.empty(nbytes // 4, device="cuda")
        times: dict[str, list[float]] = {name: [] for name in LIBRARIES}
        wrong = dict.fromkeys(LIBRARIES, 0)
        for turn in range(-WARMUP, ROUNDS):
            for name, call in LIBRARIES.items():
                tensor.fill_(hvd.rank() + 1)
                torch.cuda.synchronize()
                hvd.barrier()
                begin = time.perf_counter()
                call(tensor)
                torch.cuda.synchronize()
                if turn >= 0:
                    times[name].append(time.perf_counter() - begin)
                total = hvd.size() * (hvd.size() + 1) // 2
                wrong[name] += int((tensor != total).sum())
        for name, taken in times.items():
            if hvd.rank() == 0:
                print(json.dumps({
                    "peer": name, "ranks": hvd.size(), "bytes": nbytes,
                    "time_us": round(statistics.median(taken) * 1e6, 1),
                    "GB/s": round(nbytes / statistics.median(taken) / 1e9, 2), "wrong": wrong[name],
                }), flush=True)  # fmt: skip
    dist.destroy_process_group()
    hvd.shutdown()


if __name__ == "__main__":
    main()
