"""hora and torch.distributed's gloo, interleaved in one run.

    python benchmarks/peers/allreduce.py -np 2 --max-bytes 64M

Both reduce the same tensors in place, by turns, on the same ranks, so that a noisy machine is
noisy for both. The columns are those of nccl-tests (its doc/PERFORMANCE.md): algbw = bytes / time,
busbw = algbw · 2(n-1)/n. Times are medians over all calls of a size; ``#wrong`` counts elements
that differ from the exact sum; ``ratio`` is gloo's median over hora's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
Reduce = Callable[[Any, str], None]


def parse_bytes(text: str) -> int:
    """``64M`` → 67108864."""
    unit = UNITS.get(text[-1:].upper(), 1)
    return int(text[:-1] if unit > 1 else text) * unit


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-np", "--num-proc", type=int, default=2, help="ranks (default 2)")
    parser.add_argument(
        "-b", "--min-bytes", type=parse_bytes, default=4, help="smallest size (default 4)"
    )
    parser.add_argument(
        "-e", "--max-bytes", type=parse_bytes, default=64 << 20, help="largest (default 64M)"
    )
    parser.add_argument(
        "-f", "--step-factor", type=int, default=4, help="between sizes (default 4)"
    )
    parser.add_argument(
        "-d", "--dtype", default="float32", help="float32, bfloat16, float16, int64, …"
    )
    parser.add_argument(
        "-n", "--calls", type=int, default=0, help="calls per size; 0: by size (default)"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="turns that each peer gets (default 10)"
    )
    parser.add_argument(
        "--output", type=Path, default=report.RESULTS / "allreduce.jsonl", help="JSONL to append to"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def sizes(args: argparse.Namespace) -> list[int]:
    result = [args.min_bytes]
    while result[-1] * args.step_factor <= args.max_bytes:
        result.append(result[-1] * args.step_factor)
    return result


def calls_per_round(args: argparse.Namespace, nbytes: int) -> int:
    if args.calls:
        return max(1, args.calls // args.rounds)
    return max(2, min(100, (8 << 20) // max(nbytes, 1)))


def peers() -> dict[str, Reduce]:
    import hora.torch as hvd
    import torch.distributed as dist

    dist.init_process_group("gloo")
    return {
        "hora": lambda tensor, name: hvd.allreduce_(tensor, name=name, op=hvd.Sum),
        "gloo": lambda tensor, name: dist.all_reduce(tensor),
    }


def measure(
    args: argparse.Namespace, reducers: dict[str, Reduce], nbytes: int
) -> list[dict[str, Any]]:
    """One record per peer; every rank takes part, rank 0's clock counts."""
    import hora.torch as hvd
    import torch

    dtype = getattr(torch, args.dtype)
    count = max(1, nbytes // torch.empty((), dtype=dtype).element_size())
    times: dict[str, list[float]] = {peer: [] for peer in reducers}
    wrong = dict.fromkeys(reducers, 0)
    exact = sum(range(1, hvd.size() + 1))
    for turn in range(args.rounds + 1):  # the first turn warms up
        for peer, reduce in reducers.items():
            tensor = torch.empty(count, dtype=dtype)
            for _ in range(calls_per_round(args, nbytes)):
                tensor.fill_(hvd.rank() + 1)
                hvd.barrier()
                start = time.perf_counter()
                reduce(tensor, f"bench.{nbytes}")
                elapsed = time.perf_counter() - start
                if turn > 0:
                    times[peer].append(elapsed)
            wrong[peer] += int((tensor != exact).sum())
    return [
        record(args, peer, count, statistics.median(times[peer])) | {"wrong": wrong[peer]}
        for peer in reducers
    ]


def record(args: argparse.Namespace, peer: str, count: int, seconds: float) -> dict[str, Any]:
    """The columns of one row but ``wrong``."""
    import hora.torch as hvd
    import torch

    nbytes = count * torch.empty((), dtype=getattr(torch, args.dtype)).element_size()
    algbw = nbytes / seconds / 1e9
    return {
        "benchmark": "allreduce",
        "peer": peer,
        "ranks": hvd.size(),
        "bytes": nbytes,
        "count": count,
        "dtype": args.dtype,
        "time_us": seconds * 1e6,
        "algbw_GBps": algbw,
        "busbw_GBps": algbw * 2 * (hvd.size() - 1) / hvd.size(),
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    ratio = rows[1]["time_us"] / rows[0]["time_us"]
    for row in rows:
        shown = f"{ratio:8.1f}" if row["peer"] == "hora" else ""
        what = f"{row['bytes']:>12} {row['count']:>12} {row['dtype']:>9} {row['peer']:>6}"
        speed = f"{row['time_us']:>12.2f} {row['algbw_GBps']:>8.2f} {row['busbw_GBps']:>8.2f}"
        print(what, speed, f"{row['wrong']:>7} {shown}", flush=True)


def work(args: argparse.Namespace) -> None:
    """What every rank runs."""
    import hora.torch as hvd

    hvd.init()
    reducers = peers()
    context = report.context()
    if hvd.rank() == 0:
        print("# " + ", ".join(f"{key} {value}" for key, value in context.items()))
        print(
            f"{'bytes':>12} {'count':>12} {'dtype':>9} {'peer':>6} {'time_us':>12} "
            f"{'algbw':>8} {'busbw':>8} {'#wrong':>7} {'ratio':>8}"
        )
    for nbytes in sizes(args):
        rows = measure(args, reducers, nbytes)
        if hvd.rank() == 0:
            print_rows(rows)
            report.write_jsonl(args.output, [row | context for row in rows])
    hvd.shutdown()


def main() -> int:
    args = parse_arguments()
    if args.worker:
        work(args)
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    launch = [sys.executable, "-m", "hora.launch", "-np", str(args.num_proc), "--no-prefix", "--"]
    return subprocess.call([*launch, sys.executable, *sys.argv, "--worker"])


if __name__ == "__main__":
    sys.exit(main())
