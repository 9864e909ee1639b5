"""The collectives that ``hora test`` tries, on values whose results are known bit by bit.

All values are small whole numbers, so that every dtype holds every sum exactly, in any order; what
is rounded (an average) is rounded once, as hora promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import hora.torch as hvd

__all__ = ["Case", "cases", "difference", "expected", "perform"]

MOST_BYTES = 64 << 20
_DTYPES = (
    torch.float32, torch.bfloat16, torch.int32, torch.float16, torch.float64, torch.uint8,
    torch.int64, torch.bool, torch.int8, torch.complex64, torch.int16,
)  # fmt: skip
_SMALL = (1, 1000, 65_537)  # elements; then bytes
_LARGE = (1 << 20, 8 << 20, MOST_BYTES)
_REDUCTIONS = {"sum": hvd.Sum, "average": hvd.Average, "min": hvd.Min, "max": hvd.Max,
               "product": hvd.Product}  # fmt: skip
_NARROW = (torch.float16, torch.bfloat16)
# Kinds of call: the part of the report, and the reduction.
_KINDS = (
    *(("allreduce", reduction) for reduction in _REDUCTIONS),
    ("grouped allreduce", "sum"),
    ("allgather", ""),
    ("broadcast", ""),
    ("alltoall", ""),
    ("reducescatter", "sum"),
    ("reducescatter", "max"),
)
PARTS = tuple(dict.fromkeys(part for part, _ in _KINDS))


@dataclass(frozen=True)
class Case:
    """One call. ``count``: elements of the larger of what a rank gives and gets, at least."""

    part: str
    reduction: str
    dtype: torch.dtype
    count: int
    seed: int = 0
    is_required: bool = False  # tried however little time there is

    def __str__(self) -> str:
        kind = f"{self.part} {self.reduction}".strip()
        return f"{kind} of {str(self.dtype).removeprefix('torch.')}[{self.count}]"

    def rows(self, size: int) -> int:
        """Elements that a rank gives; an alltoall sends as many to everybody."""
        if self.part == "allgather":
            return max(1, self.count // size)
        return -(-self.count // size) * size if self.part == "alltoall" else self.count

    def source(self, rank: int, size: int) -> torch.Tensor:
        """What ``rank`` gives: [rows]."""
        count = self.rows(size)
        pattern = torch.arange(min(count, 1 << 16), dtype=torch.int64)
        pattern = (pattern * 5 + rank * 3 + self.seed) % 7
        if self.dtype is torch.bool:
            pattern = pattern // 4
        elif self.reduction == "product":
            pattern = torch.where(pattern == 0, 2, 1)
        # A period that no power of two divides, so that shifted blocks are noticed.
        pattern = pattern.to(self.dtype)[: 65_533 if count > 65_533 else count]
        return pattern.repeat(-(-count // len(pattern)))[:count]


def cases(seed: int) -> Iterator[Case]:
    """All, small ones first; of large ones, every kind in every size before the next dtype."""
    for count in _SMALL:
        for dtype in _DTYPES:
            for part, reduction in _KINDS:
                if _exists(reduction, dtype):
                    is_required = seed == 0 and count < 10_000
                    yield Case(part, reduction, dtype, count, seed, is_required)
    for turn in range(len(_DTYPES)):
        for nbytes in _LARGE:
            for index, (part, reduction) in enumerate(_KINDS):
                dtype = _DTYPES[(turn + index) % len(_DTYPES)]
                if _exists(reduction, dtype):
                    yield Case(part, reduction, dtype, nbytes // dtype.itemsize, seed)


def _exists(reduction: str, dtype: torch.dtype) -> bool:
    if reduction == "average":  # of whole numbers it is whole, too: no simple reference
        return dtype.is_floating_point or dtype.is_complex
    return not (dtype.is_complex and reduction in ("min", "max", "product"))


def perform(case: Case, rank: int, size: int) -> torch.Tensor:
    """Calls hora; all ranks. Raises HoraError."""
    source = case.source(rank, size)
    name = f"self_test.{case.part.replace(' ', '_')}.{case.reduction}"
    if case.part == "allgather":
        return hvd.allgather(source, name=name)
    if case.part == "broadcast":
        return hvd.broadcast(source, root_rank=_root(case, size), name=name)
    if case.part == "alltoall":
        return hvd.alltoall(source, name=name)
    op = _REDUCTIONS[case.reduction]
    if case.part == "reducescatter":
        return hvd.reducescatter(source, name=name, op=op)
    if case.part == "grouped allreduce":
        halves = [source[: case.count // 2].clone(), source[case.count // 2 :].clone()]
        return torch.cat(hvd.grouped_allreduce(halves, name=name, op=op))
    return hvd.allreduce(source, name=name, op=op)


def expected(case: Case, rank: int, size: int) -> torch.Tensor:
    """What ``perform`` must return on this rank."""
    if case.part == "allgather":
        return torch.cat([case.source(other, size) for other in range(size)])
    if case.part == "broadcast":
        return case.source(_root(case, size), size)
    if case.part == "alltoall":
        share = case.rows(size) // size
        mine = slice(rank * share, (rank + 1) * share)
        return torch.cat([case.source(other, size)[mine] for other in range(size)])
    total = _reduced(case, size)
    if case.part == "reducescatter":
        share, more = divmod(case.count, size)
        begin = rank * share + min(rank, more)
        return total[begin : begin + share + (rank < more)]
    return total


def _root(case: Case, size: int) -> int:
    return (case.seed + 1) % size


def _reduced(case: Case, size: int) -> torch.Tensor:
    wide = torch.float32 if case.dtype in _NARROW else case.dtype
    total = case.source(0, size).to(wide)
    for rank in range(1, size):
        other = case.source(rank, size).to(wide)
        if case.dtype is torch.bool:
            either = case.reduction in ("sum", "max")
            total = total | other if either else total & other
        elif case.reduction == "min":
            total = torch.minimum(total, other)
        elif case.reduction == "max":
            total = torch.maximum(total, other)
        elif case.reduction == "product":
            total *= other
        else:
            total += other
    if case.reduction == "average":
        # A scalar of the same width: a Python number would multiply a complex one in full.
        real = torch.view_as_real(total) if total.is_complex() else total
        real *= torch.tensor(1 / size, dtype=real.dtype)
    return total.to(case.dtype)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """Where two tensors differ in any bit; "" where they do not."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return (
            f"got {found.dtype} {list(found.shape)} instead of {wanted.dtype} {list(wanted.shape)}"
        )
    if torch.equal(_bits(found), _bits(wanted)):
        return ""
    width = found.dtype.itemsize
    rows = (_bits(found) != _bits(wanted)).reshape(-1, width).any(1).nonzero().flatten()
    first = int(rows[0])
    return (
        f"{len(rows)} of {found.numel()} elements are wrong; element {first} is "
        f"{found[first].item()} instead of {wanted[first].item()}"
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
