"""Worker over hora's Python interface, or over torch.distributed's gloo. See worker.h.

    torch_worker.py {hora,gloo} FOLDER

Orders beyond those of the native workers:
    burst ELEMENTS,… MODE SAMPLES   named tensors submitted asynchronously, then waited for
    facts                           answers "facts PID RSS INIT_SECONDS"
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], object]
IN_PLACE = ("allreduce", "broadcast")


class UnsupportedError(Exception):
    """This library has no such thing."""


class Hora:
    """By name, negotiated, blocking. Mode ``zero``: tensors in symmetric memory."""

    def __init__(self, folder: Path) -> None:
        import hora.torch as hvd

        begin = time.perf_counter()
        hvd.init()
        self.init_s = time.perf_counter() - begin
        self.hvd: Any = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self._memory: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def empty(self, count: int, dtype: torch.dtype, mode: str) -> torch.Tensor:
        """Memory for one operand; symmetric memory is kept for the next order of this size."""
        if mode == "default":
            return torch.empty(count, dtype=dtype)
        if mode != "zero" or not hasattr(self.hvd, "symmetric_empty"):
            raise UnsupportedError(f"mode {mode}")
        if (count, dtype) not in self._memory:
            self._memory.clear()
            self._memory[count, dtype] = self.hvd.symmetric_empty(count, dtype=dtype)
        return self._memory[count, dtype]

    def barrier(self) -> None:
        self.hvd.barrier()

    def call(self, op: str, source: torch.Tensor, target: torch.Tensor) -> Call:
        hvd, name = self.hvd, f"bench.{op}.{source.numel()}.{source.dtype}"
        return {
            "allreduce": lambda: hvd.allreduce_(target, name=name, op=hvd.Sum),
            "broadcast": lambda: hvd.broadcast_(target, 0, name=name),
            "allgather": lambda: hvd.allgather(source, name=name),
            "reducescatter": lambda: hvd.reducescatter(source, name=name, op=hvd.Sum),
            "alltoall": lambda: hvd.alltoall(source, name=name),
        }[op]

    def burst(self, tensors: list[torch.Tensor]) -> None:
        """One named operation per tensor, as gradient hooks submit them."""
        hvd = self.hvd
        names = self._names(len(tensors))
        pairs = zip(tensors, names, strict=True)
        handles = [hvd.allreduce_async_(tensor, name=name, op=hvd.Sum) for tensor, name in pairs]
        for handle in handles:
            hvd.synchronize(handle)

    @functools.cache  # noqa: B019 — there is one object per process
    def _names(self, count: int) -> list[str]:
        return [f"burst.{count}.{i}" for i in range(count)]

    def finish(self) -> None:
        self.hvd.shutdown()


class Gloo:
    """torch.distributed. A burst is one flat bucket, or with mode ``each`` a call per tensor."""

    def __init__(self, folder: Path) -> None:
        import torch.distributed as dist

        begin = time.perf_counter()
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        self.init_s = time.perf_counter() - begin
        self.dist: Any = dist
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def empty(self, count: int, dtype: torch.dtype, mode: str) -> torch.Tensor:
        if mode not in ("default", "each"):
            raise UnsupportedError(f"mode {mode}")
        return torch.empty(count, dtype=dtype)

    def barrier(self) -> None:
        self.dist.barrier()

    def call(self, op: str, source: torch.Tensor, target: torch.Tensor) -> Call:
        dist = self.dist
        return {
            "allreduce": lambda: dist.all_reduce(target),
            "broadcast": lambda: dist.broadcast(target, 0),
            "allgather": lambda: dist.all_gather_into_tensor(target, source),
            "reducescatter": lambda: dist.reduce_scatter_tensor(target, source),
            "alltoall": lambda: dist.all_to_all_single(target, source),
        }[op]

    def burst(self, tensors: list[torch.Tensor]) -> None:
        for work in [self.dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()

    def finish(self) -> None:
        self.dist.destroy_process_group()


Library = Hora | Gloo


def value_at(rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """What ``rank`` brings: worker.h's ValueAt."""
    return (torch.arange(count) % 7 + rank + 1).to(dtype)


def expected(library: Library, op: str, count: int, dtype: torch.dtype) -> torch.Tensor:
    ranks = range(library.size)
    part = count // library.size
    mine = slice(library.rank * part, (library.rank + 1) * part)
    if op == "broadcast":
        return value_at(0, count, dtype)
    if op == "allgather":
        return torch.cat([value_at(rank, part, dtype) for rank in ranks])
    if op == "alltoall":
        return torch.cat([value_at(rank, count, dtype)[mine] for rank in ranks])
    total = sum(value_at(rank, count, torch.float32) for rank in ranks)
    assert isinstance(total, torch.Tensor)
    return (total if op == "allreduce" else total[mine]).to(dtype)


def timed(library: Library, call: Call, samples: int, calls: int) -> list[float]:
    """Microseconds per call of each sample; the first sample warms up and is left out."""
    times = []
    for _ in range(samples + 1):
        library.barrier()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - begin) * 1e6 / calls)
    return times[1:]


def run(library: Library, words: list[str]) -> str:
    op, dtype_name, nbytes, mode, samples, calls, check = words
    dtype: torch.dtype = getattr(torch, dtype_name)
    count = int(nbytes) // dtype.itemsize
    if op not in IN_PLACE:
        count -= count % library.size
    if count == 0:
        raise UnsupportedError("fewer elements than ranks")
    part = count // library.size
    source = library.empty(part if op == "allgather" else count, dtype, mode)
    target = source
    if op not in IN_PLACE:
        target = torch.zeros(part if op == "reducescatter" else count, dtype=dtype)
    call = library.call(op, source, target)
    wrong = 0
    if check == "1":
        source.copy_(value_at(library.rank, source.numel(), dtype))
        result = call()
        found = result if isinstance(result, torch.Tensor) else target
        wrong = int((found != expected(library, op, count, dtype)).sum())
    source.zero_()
    times = timed(library, call, int(samples), int(calls))
    return f"ok {wrong} " + " ".join(f"{time:.3f}" for time in times)


def burst(library: Library, words: list[str]) -> str:
    """``burst ELEMENTS,… MODE SAMPLES``: float32 tensors of these sizes."""
    shape, mode, samples = words
    sizes = [int(elements) for elements in shape.split(",")]
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + (size + 15) // 16 * 16)
    flat = library.empty(offsets[-1], torch.float32, mode)
    pairs = zip(offsets, sizes, strict=False)
    tensors = [flat[offset : offset + size] for offset, size in pairs]
    if isinstance(library, Gloo) and mode == "default":
        tensors = [flat]
    if mode == "default" and isinstance(library, Hora):
        tensors = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.fill_(library.rank + 1)
    library.barrier()
    library.burst(tensors)
    exact = sum(range(1, library.size + 1))
    wrong = sum(int((tensor != exact).sum()) for tensor in tensors)
    for tensor in tensors:
        tensor.zero_()
    times = timed(library, lambda: library.burst(tensors), int(samples), 1)
    return f"ok {wrong} " + " ".join(f"{time:.3f}" for time in times)


def facts(library: Library) -> str:
    """Process id, resident bytes, and how long the library's init took in seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"facts {os.getpid()} {pages * os.sysconf('SC_PAGE_SIZE')} {library.init_s}"


def answer(library: Library, line: str) -> str:
    verb, *words = line.split()
    try:
        if verb == "run":
            return run(library, words)
        if verb == "burst":
            return burst(library, words)
        return facts(library)
    except UnsupportedError as error:
        return f"unsupported {error}"
    except Exception as error:  # the driver decides what a failure means
        return "error " + " ".join(str(error).split())


def main() -> int:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    library: Library = Hora(folder) if kind == "hora" else Gloo(folder)
    with (
        (folder / f"in.{library.rank}").open() as orders,
        (folder / f"out.{library.rank}").open("w", buffering=1) as answers,
    ):
        answers.write(f"ready {library.size}\n")
        for line in orders:
            if line.startswith("quit"):
                break
            answers.write(answer(library, line) + "\n")
    library.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
