"""What every rank of ``hora bench`` runs. Rank 0 prints a JSON object per line for its parent.

python -m hora.cli.bench_worker JSON     # the options, as bench.py makes them
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

import hora.torch as hvd
from hora.cli.bench_collectives import (
    Collective,
    GlooLibrary,
    HoraLibrary,
    Library,
    bus_factor,
)

ROUNDS = 5  # in which the libraries take turns

Forms = dict[tuple[str, bool], "Form"]


class Form:
    """One library's call, in place or not, with what it has measured so far."""

    def __init__(self, library: Library, what: Collective, in_place: bool) -> None:
        self._library, self._what, self._in_place = library, what, in_place
        self._source = what.source(library.rank, library.size)
        self._target = what.target(library.size)
        if in_place:
            self._target = library.empty(what.count, what.dtype)
            self._target.copy_(self._source)
        self._call = library.call(what, self._source, self._target, in_place)
        self.times_us: list[float] = []  # one per round
        self.wrong = 0

    @property
    def exists(self) -> bool:
        """Whether the library has such a call."""
        return self._call is not None

    def check(self) -> None:
        """One call on known values."""
        result = self._call() if self._call else None
        found = self._target if result is None else result
        self.wrong = self._what.count_wrong(found, self._library.rank, self._library.size)
        self._source.zero_()
        if self._in_place:
            self._target.zero_()

    def run(self, iterations: int, keep: bool) -> None:
        """Calls back to back, after a barrier."""
        call = self._call or (lambda: None)
        self._library.barrier()
        begin = time.perf_counter()
        for _ in range(iterations):
            call()
        spent = (time.perf_counter() - begin) * 1e6 / max(1, iterations)
        if keep:
            self.times_us.append(spent)

    def figures(self) -> dict[str, float]:
        """Median over rounds of the slowest rank's time, rates in GB/s, wrong elements of all."""
        times = hvd.allreduce(
            torch.tensor(self.times_us, dtype=torch.float64), name="bench.times", op=hvd.Max
        )
        wrong = hvd.allreduce(torch.tensor([self.wrong]), name="bench.wrong", op=hvd.Sum)
        time_us = statistics.median(times.tolist())
        algbw = self._what.nbytes / time_us / 1e3
        return {
            "time_us": time_us,
            "algbw_GBps": algbw,
            "busbw_GBps": algbw * bus_factor(self._what.op, self._library.size),
            "wrong": int(wrong.item()),
        }


def measure(
    libraries: dict[str, Library], what: Collective, iterations: int, warmup: int
) -> dict[str, dict[str, Any]]:
    """For each library its figures ``out_of_place`` and ``in_place``, as far as there are such."""
    forms: Forms = {}
    for name, library in libraries.items():
        for in_place in (False, True):
            if in_place and not what.can_be_in_place:
                continue
            form = Form(library, what, in_place)
            if form.exists:
                forms[name, in_place] = form
    for form in forms.values():
        form.check()
        form.run(warmup, keep=False)
    for _ in range(ROUNDS):
        for form in forms.values():
            form.run(iterations, keep=True)
    found: dict[str, dict[str, Any]] = {name: {} for name in libraries}
    for (name, in_place), form in forms.items():
        found[name]["in_place" if in_place else "out_of_place"] = form.figures()
    return found


def work(options: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Everything that the options ask for."""
    libraries: dict[str, Library] = {"hora": HoraLibrary(options["zero_copy"])}
    if options["peers"] == "gloo":
        # Names that torch is about to give up, for others that older versions do not have.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        torch.distributed.init_process_group("gloo")
        libraries["gloo"] = GlooLibrary()
    dtype: torch.dtype = getattr(torch, options["dtype"])
    for op in options["operations"]:
        for nbytes in options["sizes"]:
            count = nbytes // dtype.itemsize
            if op not in ("allreduce", "broadcast"):
                count -= count % hvd.size()
            if count == 0:
                say({"skipped": f"{op} of {nbytes} bytes: fewer elements than ranks"})
                continue
            what = Collective(op, count, dtype, options["op"])
            for name, row in measure(libraries, what, options["iters"], options["warmup"]).items():
                say(_described(what, name, row))
    if "gloo" in libraries:
        torch.distributed.destroy_process_group()


def _described(what: Collective, library: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "library": library,
        "collective": what.op,
        "ranks": hvd.size(),
        "bytes": what.nbytes,
        "count": what.count,
        "dtype": str(what.dtype).removeprefix("torch."),
        "redop": what.reduction if what.reduces else "none",
        "root": 0 if what.op == "broadcast" else -1,
        **row,
    }


def main() -> int:
    """Runs one rank."""
    torch.set_num_threads(1)
    hvd.init()

    def say(record: dict[str, Any]) -> None:
        if hvd.rank() == 0:
            print(json.dumps(record), flush=True)

    work(json.loads(sys.argv[1]), say)
    hvd.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
