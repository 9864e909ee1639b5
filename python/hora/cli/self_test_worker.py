"""What every rank of ``hora test`` runs; it tells its parent with a JSON object per line.

python -m hora.cli.self_test_worker JSON     # {"part": "work" or "death", "seconds": S}
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import hora.torch as hvd
from hora.cli.bench_collectives import bus_factor
from hora.cli.self_test_cases import MOST_BYTES, PARTS, cases, difference, expected, perform

_FOR_CASES = 0.6  # of the time
_TOLD_PER_PART = 3  # wrong results that a rank describes
_STEPS = 20
_SMALL_CALLS = 500
_LARGE_CALLS = 5
_CALLS_BEFORE_DEATH = 50
_DEATH_LIMIT_S = 30.0


def say(**message: Any) -> None:
    """One line to the parent, as a whole."""
    sys.stdout.write(json.dumps({"rank": hvd.rank(), **message}) + "\n")
    sys.stdout.flush()


class Tally:
    """What a part has tried and found wrong on this rank."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._checks = 0
        self._wrong = 0
        self._details: list[str] = []

    def check(self, what: object, problem: str) -> None:
        """Counts; the first few problems are told."""
        self._checks += 1
        if problem:
            self._wrong += 1
            if self._wrong <= _TOLD_PER_PART:
                say(kind="wrong", part=self.part, text=f"{what}: {problem}")

    def note(self, detail: str) -> None:
        """Adds to what is said when all is well; each word once."""
        if detail not in self._details:
            self._details.append(detail)

    def done(self) -> None:
        """Tells the totals."""
        say(kind="part", part=self.part, checks=self._checks, wrong=self._wrong,
            notes=self._details)  # fmt: skip


class Clock:
    """The time that rank 0 has used of what was given; other ranks ask it."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.monotonic()
        self._seconds = seconds
        self._last_told = 0.0

    def is_over(self) -> bool:
        """The same answer on all ranks."""
        used = time.monotonic() - self._begin
        flag = torch.tensor([used > self._seconds], dtype=torch.uint8)
        return bool(hvd.broadcast(flag, root_rank=0, name="self_test.clock").item())

    def tell(self, part: str) -> None:
        """Has the progress bar drawn, now and then."""
        now = time.monotonic()
        if hvd.rank() == 0 and now - self._last_told > 0.1:
            self._last_told = now
            say(kind="progress", part=part)


def try_collectives(seconds: float) -> None:
    """Every case, again with other values, until the time is over."""
    rank, size = hvd.rank(), hvd.size()
    tallies = {part: Tally(part) for part in PARTS}
    largest = dict.fromkeys(PARTS, 0)
    dtypes: dict[str, set[torch.dtype]] = {part: set() for part in PARTS}
    clock = Clock(seconds)
    for case in _case_after_case():
        clock.tell(case.part)
        if not case.is_required and clock.is_over():
            break
        found = perform(case, rank, size)
        tallies[case.part].check(case, difference(found, expected(case, rank, size)))
        largest[case.part] = max(largest[case.part], case.count * case.dtype.itemsize)
        dtypes[case.part].add(case.dtype)
    for part, tally in tallies.items():
        tally.note(f"{len(dtypes[part])} dtypes")
        tally.note(f"up to {_amount(largest[part])}")
        tally.done()


def _case_after_case() -> Iterator[Any]:
    seed = 0
    while True:
        yield from cases(seed)
        seed += 1


def try_process_sets() -> None:
    """Ranks with even numbers and those with odd ones, at once, between operations of all."""
    rank, size = hvd.rank(), hvd.size()
    tally = Tally("process sets")
    if size < 3:  # a set of all ranks is the global one
        members = [[one] for one in range(size)] if size == 2 else []
    else:
        members = [list(range(0, size, 2)), list(range(1, size, 2))]
    sets = [hvd.add_process_set(ranks) for ranks in members]
    for step in range(10 if members else 0):
        for ranks, process_set in zip(members, sets, strict=True):
            if rank not in ranks:
                continue
            mine = torch.full((1000 + step,), rank + 1, dtype=torch.int64)
            total = hvd.allreduce(mine, name="self_test.set", op=hvd.Sum, process_set=process_set)
            wanted = torch.full_like(mine, sum(ranks) + len(ranks))
            tally.check(f"allreduce in ranks {ranks}", difference(total, wanted))
            rows = hvd.allgather(mine[:2], name="self_test.set_rows", process_set=process_set)
            wanted = torch.tensor([one + 1 for one in ranks for _ in range(2)])
            tally.check(f"allgather in ranks {ranks}", difference(rows, wanted))
        everybody = hvd.allreduce(torch.ones(3), name="self_test.all", op=hvd.Sum)
        tally.check("allreduce of all ranks", difference(everybody, torch.full((3,), float(size))))
    for process_set in sets:
        hvd.remove_process_set(process_set)
    tally.note(f"{len(members)} sets" if members else "none with one rank")
    tally.done()


def try_join() -> None:
    """Rank r has r + 1 batches; sums and averages are of those that still have some."""
    rank, size = hvd.rank(), hvd.size()
    tally = Tally("join")
    for step in range(rank + 1):
        present = range(step, size)
        mine = torch.full((100,), float(rank + 1))
        total = hvd.allreduce(mine, name="self_test.joined_sum", op=hvd.Sum)
        wanted = torch.full((100,), float(sum(one + 1 for one in present)))
        tally.check(f"sum after {step} ranks joined", difference(total, wanted))
        mean = hvd.allreduce(torch.full((4,), 3.0), name="self_test.joined_mean")
        close = torch.allclose(mean, torch.full((4,), 3.0))  # its divisor may be no power of two
        tally.check(
            f"average after {step} ranks joined", "" if close else f"{mean.tolist()}, not 3"
        )
    last = hvd.join()
    tally.check("the last rank to join", "" if last == size - 1 else f"{last}, not {size - 1}")
    tally.done()


def try_optimizer() -> None:
    """A small network, other data on each rank: the same bits in all parameters afterwards."""
    rank, size = hvd.rank(), hvd.size()
    tally = Tally("optimizer")
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    hvd.broadcast_parameters(model, root_rank=0)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), model.named_parameters()
    )
    losses = []
    for _ in range(_STEPS):
        inputs = torch.randn(16, 32)
        loss = nn.functional.mse_loss(model(inputs), inputs[:, :8])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(hvd.allreduce(loss.detach(), name="self_test.loss").item())
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    everybody = hvd.allgather(flat.reshape(1, -1), name="self_test.parameters")
    for other in range(size):
        tally.check(f"parameters of rank {other}", difference(everybody[other], flat))
    fell = losses[-1] < losses[0]
    tally.check("the loss", "" if fell else f"went from {losses[0]:.4g} to {losses[-1]:.4g}")
    tally.note(f"{_STEPS} steps, {flat.numel()} parameters with the same bits")
    tally.done()


def measure() -> None:
    """Latency and bandwidth as all ranks see them: of each call, the slowest rank's time."""
    small_us = _seconds_per_call(torch.ones(1), _SMALL_CALLS) * 1e6
    say_first("figure", name="allreduce_4B_us", value=small_us)
    large_s = _seconds_per_call(torch.ones(MOST_BYTES // 4), _LARGE_CALLS)
    busbw = MOST_BYTES / large_s / 1e9 * bus_factor("allreduce", hvd.size())
    say_first("figure", name="allreduce_64MiB_ms", value=large_s * 1e3)
    say_first("figure", name="allreduce_64MiB_busbw_GBps", value=busbw)


def say_first(kind: str, **message: Any) -> None:
    """What one rank says for all."""
    if hvd.rank() == 0:
        say(kind=kind, **message)


def _seconds_per_call(tensor: torch.Tensor, calls: int) -> float:
    """The median."""
    name = f"self_test.figure.{tensor.numel()}"
    times = []
    for call in range(calls + calls // 5 + 1):  # the first fifth warms up
        begin = time.perf_counter()
        hvd.allreduce_(tensor, name=name, op=hvd.Max)
        if call > calls // 5:
            times.append(time.perf_counter() - begin)
    spent = torch.tensor([statistics.median(times)], dtype=torch.float64)
    return float(hvd.allreduce(spent, name="self_test.spent", op=hvd.Max).item())


def die_or_see() -> None:
    """The last rank dies by SIGKILL; the others say what they learn of it, and how soon."""
    victim = hvd.size() - 1
    tensor = torch.ones(1000)
    for _ in range(_CALLS_BEFORE_DEATH):
        hvd.allreduce_(tensor, name="self_test.death", op=hvd.Max)
    if hvd.rank() == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    # What it takes from the last call that the dead rank took part in.
    begin = last = time.monotonic()
    try:
        while last - begin < _DEATH_LIMIT_S:
            hvd.allreduce_(tensor, name="self_test.death", op=hvd.Max)
            last = time.monotonic()
    except hvd.PeerFailedError as error:
        say(kind="survivor", victim=victim, seconds=time.monotonic() - last, text=str(error))
        return
    say(kind="survivor", victim=victim, seconds=last - begin, text="")


def _amount(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def _work(seconds: float) -> None:
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("process sets", try_process_sets),
        ("join", try_join),
        ("optimizer", try_optimizer),
        ("speed", measure),
    )
    say(kind="hello", size=hvd.size(), hosts=hvd.cross_size())
    try_collectives(seconds * _FOR_CASES)
    for part, step in steps:
        say_first("progress", part=part)
        step()
    say(kind="bye")


def main() -> int:
    """Runs one rank."""
    told = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    try:
        hvd.init()
        if told["part"] == "death":
            die_or_see()
        else:
            _work(float(told["seconds"]))
        hvd.shutdown()
    except hvd.HoraError as error:
        rank = int(os.environ.get("RANK", "-1"))
        line = {"kind": "error", "rank": rank, "type": type(error).__name__, "text": str(error)}
        print(json.dumps(line), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
