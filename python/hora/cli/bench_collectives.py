"""What ``hora bench`` measures: five collectives over hora or gloo, on values known beforehand.

A *size* is the larger of what a rank sends and receives, as in nccl-tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = [
    "Collective",
    "GlooLibrary",
    "HoraLibrary",
    "Library",
    "bus_factor",
]

_SAME_MEMORY = ("allreduce", "broadcast")  # have an in-place form

Call = Callable[[], Any]


def bus_factor(op: str, ranks: int) -> float:
    """What turns algbw into busbw, the load of a wire (nccl-tests, doc/PERFORMANCE.md)."""
    if op == "allreduce":
        return 2 * (ranks - 1) / ranks
    return 1.0 if op == "broadcast" else (ranks - 1) / ranks


@dataclass(frozen=True)
class Collective:
    """One operation of one size. Raises ``ValueError`` for words it does not know."""

    op: str
    count: int  # elements of the larger side
    dtype: torch.dtype
    reduction: str = "sum"

    @property
    def nbytes(self) -> int:
        """The size."""
        return self.count * self.dtype.itemsize

    @property
    def reduces(self) -> bool:
        """Whether the reduction matters."""
        return self.op in ("allreduce", "reducescatter")

    @property
    def can_be_in_place(self) -> bool:
        """Whether input and output may be the same tensor."""
        return self.op in _SAME_MEMORY

    def source(self, rank: int, size: int) -> torch.Tensor:
        """What ``rank`` brings: small whole numbers, so that sums are exact."""
        count = self.count // size if self.op == "allgather" else self.count
        return (torch.arange(count) % 7 + rank + 1).to(self.dtype)

    def target(self, size: int) -> torch.Tensor:
        """Room for the result."""
        count = self.count // size if self.op == "reducescatter" else self.count
        return torch.empty(count, dtype=self.dtype)

    def expected(self, rank: int, size: int) -> torch.Tensor:
        """What ``rank`` must get."""
        inputs = [self.source(r, size) for r in range(size)]
        part = self.count // size
        mine = slice(rank * part, (rank + 1) * part)
        if self.op == "broadcast":
            return inputs[0]
        if self.op == "allgather":
            return torch.cat(inputs)
        if self.op == "alltoall":
            return torch.cat([values[mine] for values in inputs])
        total = self._reduced(inputs)
        return total if self.op == "allreduce" else total[mine]

    def _reduced(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        stacked = torch.stack(inputs).to(torch.float64)
        total = {
            "sum": lambda: stacked.sum(0),
            "average": lambda: stacked.mean(0),
            "min": lambda: stacked.amin(0),
            "max": lambda: stacked.amax(0),
            "product": lambda: stacked.prod(0),
        }[self.reduction]()
        return total.to(self.dtype)

    def count_wrong(self, result: torch.Tensor, rank: int, size: int) -> int:
        """Elements that are not what they must be, but for the rounding of an average."""
        expected = self.expected(rank, size)
        if self.reduction in ("sum", "min", "max") or not self.dtype.is_floating_point:
            return int((result != expected).sum())
        tolerance = 4 * torch.finfo(self.dtype).eps
        return int((~torch.isclose(result, expected, rtol=tolerance, atol=0)).sum())


class Library(Protocol):
    """A library under test, as one of its ranks sees it."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Until all ranks are here."""

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory for an operand that is reduced in place."""

    def call(
        self, what: Collective, source: torch.Tensor, target: torch.Tensor, in_place: bool
    ) -> Call | None:
        """One operation; returns its result or fills ``target``. None: there is no such form."""


class HoraLibrary:
    """By name, negotiated, blocking."""

    def __init__(self, zero_copy: bool = False) -> None:
        import hora.torch as hvd

        self.rank, self.size = hvd.rank(), hvd.size()
        self._zero_copy = zero_copy

    def barrier(self) -> None:
        """Until all ranks are here."""
        import hora.torch as hvd

        hvd.barrier()

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """In symmetric memory, if that is wanted."""
        import hora.torch as hvd

        if self._zero_copy:
            return hvd.symmetric_empty(count, dtype=dtype)
        return torch.empty(count, dtype=dtype)

    def call(
        self, what: Collective, source: torch.Tensor, target: torch.Tensor, in_place: bool
    ) -> Call | None:
        """An allreduce and a broadcast have both forms, the others one."""
        import hora.torch as hvd

        reduction = getattr(hvd, what.reduction.capitalize())
        name = f"bench.{what.op}.{what.count}.{what.dtype}.{what.reduction}.{in_place}"
        if in_place:
            calls: dict[str, Call] = {
                "allreduce": lambda: hvd.allreduce_(target, name=name, op=reduction),
                "broadcast": lambda: hvd.broadcast_(target, 0, name=name),
            }
            return calls.get(what.op)
        return {
            "allreduce": lambda: hvd.allreduce(source, name=name, op=reduction),
            "broadcast": lambda: hvd.broadcast(source, 0, name=name),
            "allgather": lambda: hvd.allgather(source, name=name),
            "reducescatter": lambda: hvd.reducescatter(source, name=name, op=reduction),
            "alltoall": lambda: hvd.alltoall(source, name=name),
        }[what.op]


class GlooLibrary:
    """torch.distributed on gloo. Needs an initialised default process group."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def barrier(self) -> None:
        """Until all ranks are here."""
        import torch.distributed as dist

        dist.barrier()

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Ordinary memory."""
        return torch.empty(count, dtype=dtype)

    def call(
        self, what: Collective, source: torch.Tensor, target: torch.Tensor, in_place: bool
    ) -> Call | None:
        """An allreduce and a broadcast are in place only; gloo has no average."""
        import torch.distributed as dist

        if in_place != what.can_be_in_place or (what.reduces and what.reduction == "average"):
            return None
        reduction = getattr(dist.ReduceOp, what.reduction.upper())
        calls: dict[str, Call] = {
            "allreduce": lambda: dist.all_reduce(target, op=reduction),
            "broadcast": lambda: dist.broadcast(target, 0),
            "allgather": lambda: dist.all_gather_into_tensor(target, source),
            "reducescatter": lambda: dist.reduce_scatter_tensor(target, source, op=reduction),
            "alltoall": lambda: dist.all_to_all_single(target, source),
        }
        return calls[what.op]
