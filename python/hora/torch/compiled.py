"""What the functions of ``hora.torch`` are inside of ``torch.compile``: operators of a graph.

The arguments are those of the functions of the same names. Where hora was installed without its
PyTorch operators (``hora check`` says so), the eager functions run between two graphs instead, and
``fullgraph=True`` fails with the reason.

In a graph all shapes are known beforehand: every rank brings the same number of rows to
``allgather`` (other numbers raise ``RuntimeError`` when the graph runs), and an ``alltoall`` with
splits, whose result has as many rows as come, needs
``torch._dynamo.config.capture_dynamic_output_shape_ops = True``. A graph is for the process set and
the number of ranks that there were when it was compiled. Ranks must run the same graph: unnamed
operations meet in the order of the graph, apart from those outside of it. Errors of the engine are
``RuntimeError`` with the engine's message.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from hora import _core
from hora.errors import UsageError
from hora.ops import ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.compression import Compression, Compressor
from hora.torch.operators import missing

__all__ = [
    "allgather",
    "allreduce",
    "alltoall",
    "available",
    "broadcast",
    "grouped_allreduce",
    "reducescatter",
]

_AVERAGE, _SUM = int(ReduceOp.AVERAGE), int(ReduceOp.SUM)

_Function = TypeVar("_Function", bound=Callable[..., Any])

available = missing is None  # whether a graph can hold the functions below


def allreduce(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """``hora.torch.allreduce``."""
    small, context = compression.compress(tensor)
    reduced: torch.Tensor = torch.ops.hora.allreduce(
        small,
        name or "",
        _op_of(op, average),
        float(prescale_factor),
        float(postscale_factor),
        _id_of(process_set),
    )
    return compression.decompress(reduced, context)


def grouped_allreduce(  # noqa: PLR0917 - Horovod's signature
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> list[torch.Tensor]:
    """``hora.torch.grouped_allreduce``."""
    pairs = [compression.compress(tensor) for tensor in tensors]
    reduced = torch.ops.hora.grouped_allreduce(
        [small for small, _ in pairs],
        name or "",
        _op_of(op, average),
        float(prescale_factor),
        float(postscale_factor),
        _id_of(process_set),
    )
    return [
        compression.decompress(tensor, context)
        for tensor, (_, context) in zip(reduced, pairs, strict=True)
    ]


def broadcast(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """``hora.torch.broadcast``."""
    result: torch.Tensor = torch.ops.hora.broadcast(
        tensor, root_rank, name or "", _id_of(process_set)
    )
    return result


def allgather(
    tensor: torch.Tensor, name: str | None = None, process_set: ProcessSet = global_process_set
) -> torch.Tensor:
    """``hora.torch.allgather`` of as many rows from every rank."""
    if tensor.dim() == 0:
        tensor = tensor.reshape(1)
    number = _id_of(process_set)
    size = _size_of(number)
    result: torch.Tensor = torch.ops.hora.allgather(
        tensor, tensor.shape[0] * size, size, name or "", number
    )
    return result


def reducescatter(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: int = ReduceOp.AVERAGE,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> torch.Tensor:
    """``hora.torch.reducescatter``."""
    number = _id_of(process_set)
    size = _size_of(number)
    small, context = compression.compress(tensor)
    # The first (rows modulo size) ranks get one more than the others.
    rows = (small.shape[0] + size - 1 - _place_in(number)) // size
    share: torch.Tensor = torch.ops.hora.reducescatter(
        small,
        rows,
        size,
        name or "",
        _op_of(op, None),
        float(prescale_factor),
        float(postscale_factor),
        number,
    )
    return compression.decompress(share, context)


def alltoall(
    tensor: torch.Tensor,
    splits: torch.Tensor | Sequence[int] | None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """``hora.torch.alltoall``: a tensor, or with ``splits`` the tensor and the received splits."""
    number = _id_of(process_set)
    size = _size_of(number)
    if splits is None:
        if tensor.shape[0] % size:
            raise UsageError(f"alltoall: {tensor.shape[0]} rows cannot be split evenly by {size}")
        even = torch.full((size,), tensor.shape[0] // size, dtype=torch.int64, device="cpu")
        return torch.ops.hora.alltoall(tensor, even, tensor.shape[0], False, name or "", number)[0]
    counts = torch.as_tensor(splits, device="cpu")
    return torch.ops.hora.alltoall(tensor, counts, -1, False, name or "", number)


def _op_of(op: int | None, average: bool | None) -> int:
    if op is None:
        return _AVERAGE if average is None or average else _SUM
    if average is not None:
        raise UsageError("give op or average, not both; average=False means op=Sum")
    return int(op)


def _id_of(process_set: ProcessSet) -> int:
    number = process_set.process_set_id
    if number is None:
        raise UsageError("the process set is not registered; call hvd.add_process_set first")
    return number


def _constant(function: _Function) -> _Function:
    """Marks what is the same for the life of a group, and so a constant of its graphs."""
    mark: Callable[[_Function], _Function] = torch.compiler.assume_constant_result
    return mark(function)


@_constant
def _size_of(process_set: int) -> int:
    return _core.topology().size if process_set == 0 else len(_core.process_sets()[process_set])


@_constant
def _place_in(process_set: int) -> int:
    rank = _core.topology().rank
    return rank if process_set == 0 else _core.process_sets()[process_set].index(rank)


def _between_graphs(name: str) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module("hora.torch"), name)(*arguments, **options)

    reason = f"hora has no PyTorch operators: {missing}"
    disable: Callable[..., Callable[..., Any]] = torch.compiler.disable
    return disable(run, reason=reason)


if not available:
    globals().update({name: _between_graphs(name) for name in __all__ if name != "available"})
