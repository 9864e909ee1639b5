"""What a training step costs on several ranks, and what of it is communication.

    python benchmarks/training/train_step.py -np 2 --model digits

By turns, on the same ranks in one run, so that a noisy machine is noisy for all:

    alone     rank 0 trains, the other ranks sleep: the step of one process
    apart     all ranks train, none communicates: they share caches and memory, nothing else
    hora      DistributedOptimizer
    views     DistributedOptimizer(gradient_as_bucket_view=True)
    gloo      DistributedDataParallel on torch.distributed's gloo

Every process computes the same local batch in all of them. Times are the median over turns of rank
0's mean time per step in a turn. ``lockstep`` is made of ``apart``: each step counted with the time
of its slowest rank, which is what ranks that wait for each other pay when communication is free.
``added`` is what a step costs beyond ``alone``, ``beside`` beyond ``apart``, ``beyond`` beyond
``lockstep``; ``ddp``: how many times as long DDP takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import WORKLOADS, Workload

Step = Callable[[], None]
MODES = ("alone", "apart", "hora", "views", "gloo")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-np", "--num-proc", type=int, default=2, help="ranks (%(default)s)")
    parser.add_argument("--model", choices=WORKLOADS, default="digits", help="(%(default)s)")
    parser.add_argument("--modes", default=",".join(MODES), help="those to compare (%(default)s)")
    parser.add_argument("--turns", type=int, default=12, help="of each mode (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="of one turn, roughly (%(default)s)"
    )
    parser.add_argument("--output", type=Path, help="JSONL to append to")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def plain_step(workload: Workload) -> Step:
    return training_step(workload, workload.model, workload.make_optimizer(workload.model))


def training_step(workload: Workload, model: Any, optimizer: torch.optim.Optimizer) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        workload.loss_of(model).backward()
        optimizer.step()

    return step


def hora_step(workload: Workload, **options: Any) -> Step:
    import hora.torch as hvd

    model = workload.model
    optimizer = hvd.DistributedOptimizer(
        workload.make_optimizer(model), model.named_parameters(), **options
    )
    return training_step(workload, model, optimizer)


def gloo_step(workload: Workload) -> Step:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    model = DistributedDataParallel(workload.model, gradient_as_bucket_view=True)
    return training_step(workload, model, workload.make_optimizer(workload.model))


def steps_by_mode(make: Callable[[], Workload], modes: list[str]) -> dict[str, Step]:
    """A model and an optimizer of its own for each mode."""
    makers: dict[str, Callable[[], Step]] = {
        "alone": lambda: plain_step(make()),
        "apart": lambda: plain_step(make()),
        "hora": lambda: hora_step(make()),
        "views": lambda: hora_step(make(), gradient_as_bucket_view=True),
        "gloo": lambda: gloo_step(make()),
    }
    return {mode: makers[mode]() for mode in modes}


def step_times(step: Step, steps: int) -> torch.Tensor:
    """Seconds of each step."""
    marks = [time.perf_counter()]
    for _ in range(steps):
        step()
        marks.append(time.perf_counter())
    return torch.tensor(marks, dtype=torch.float64).diff()


def measure(steps_of: dict[str, Step], turns: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per step of rank 0, for each turn of each mode."""
    import hora.torch as hvd

    count = {}
    for mode, step in steps_of.items():  # warms up, and agrees on the number of steps
        step_times(step, 10)
        longest = hvd.allreduce(step_times(step, 10).mean(), op=hvd.Max).item()
        count[mode] = max(3, int(seconds / longest))
    means: dict[str, list[float]] = {mode: [] for mode in steps_of}
    means["lockstep"] = []
    for _ in range(turns):
        for mode, step in steps_of.items():
            hvd.barrier()
            if mode == "alone" and hvd.rank() != 0:
                continue
            times = step_times(step, count[mode])
            means[mode].append(times.mean().item())
            if mode == "apart":
                means["lockstep"].append(hvd.allreduce(times, op=hvd.Max).mean().item())
    return means


def print_table(workload: Workload, ranks: int, median: dict[str, float]) -> None:
    tensors = len(list(workload.model.parameters()))
    print(f"# {ranks} ranks, {tensors} gradients, {workload.gradient_bytes} bytes")
    print(f"{'mode':>8} {'us/step':>10} {'added':>8} {'beside':>8} {'beyond':>8} {'ddp':>6}")
    for mode, seconds in median.items():
        columns = [f"{mode:>8} {seconds * 1e6:>10.1f}"]
        for base in ("alone", "apart", "lockstep"):
            text = f"{100 * (seconds / median[base] - 1):+.1f}%" if base in median else ""
            columns.append(f"{text:>8}")
        columns.append(f"{median['gloo'] / seconds:>6.2f}" if "gloo" in median else "")
        print(*columns, flush=True)


def records(args: argparse.Namespace, ranks: int, median: dict[str, float]) -> list[str]:
    """One line of JSON for each mode."""
    equal = {"benchmark": "train_step", "model": args.model, "ranks": ranks}
    return [
        json.dumps(equal | {"mode": mode, "time_us": seconds * 1e6}, sort_keys=True)
        for mode, seconds in median.items()
    ]


def work(args: argparse.Namespace) -> None:
    """What every rank runs."""
    import hora.torch as hvd

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    hvd.init()
    steps_of = steps_by_mode(WORKLOADS[args.model], args.modes.split(","))
    means = measure(steps_of, args.turns, args.seconds)
    if hvd.rank() == 0:
        median = {mode: statistics.median(times) for mode, times in means.items() if times}
        print_table(WORKLOADS[args.model](), hvd.size(), median)
        if args.output:
            with args.output.open("a") as out:
                out.writelines(f"{line}\n" for line in records(args, hvd.size(), median))
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
