"""Operations whose results have other shapes than their inputs: rows are gathered or scattered.

``_async`` forms return a ``Handle`` at once, and detached results.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import overload

import torch
from torch.compiler import is_dynamo_compiling

from hora.errors import UsageError
from hora.ops import ReduceOp
from hora.process_sets import ProcessSet, global_process_set, id_of, place_in
from hora.torch.autograd import Gradient, differentiable, needs_grad
from hora.torch.compression import Compression, Compressor
from hora.torch.grouped import (
    grouped_allgather,
    grouped_allgather_async,
    grouped_reducescatter,
    grouped_reducescatter_async,
)
from hora.torch.handle import Handle
from hora.torch.kinds import ALLTOALL, Terms, title
from hora.torch.submission import Gathering, start_gathering
from hora.torch.tensors import MOVABLE, check_tensor

__all__ = [
    "allgather",
    "allgather_async",
    "alltoall",
    "alltoall_async",
    "reducescatter",
    "reducescatter_async",
]

_Splits = torch.Tensor | Sequence[int]
_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


def allgather(
    tensor: torch.Tensor,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> torch.Tensor:
    """Returns the set's tensors joined along the first dimension, in rank order, on every rank.

    The first dimension may differ between ranks (and be 0), the others must agree. A 0-dim tensor
    counts as shape [1], so that the result has shape [size]. Differentiable: the gradient is this
    rank's rows of the mean of all ranks' gradients.
    """
    if is_dynamo_compiling():
        from hora.torch import compiled

        return compiled.allgather(tensor, name, process_set)
    return grouped_allgather([tensor], name, process_set, priority=priority)[0]


def allgather_async(
    tensor: torch.Tensor,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle:
    """Starts ``allgather``; the handle's result is the joined tensor."""
    return grouped_allgather_async([tensor], name, process_set, priority=priority).then(_only)


@overload
def alltoall(
    tensor: torch.Tensor,
    splits: None = None,
    name: str | None = None,
    process_set: ProcessSet = ...,
    *,
    priority: int = ...,
) -> torch.Tensor: ...
@overload
def alltoall(
    tensor: torch.Tensor,
    splits: _Splits,
    name: str | None = None,
    process_set: ProcessSet = ...,
    *,
    priority: int = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...
def alltoall(
    tensor: torch.Tensor,
    splits: _Splits | None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Sends each rank of the set its rows of the tensor; returns the rows received, in rank order.

    ``splits`` (integers, one for each rank of the set) says how many rows, from the first on, go
    to whom; they may differ on every rank and call, and rows beyond their sum stay behind. Without
    them, the rows are split evenly, which must work out. With ``splits`` the result is a pair: the
    rows, and the number of them from each rank (int32, on the device of ``splits``).
    Differentiable: gradients travel back the same way.
    """
    if is_dynamo_compiling():
        from hora.torch import compiled

        result: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = compiled.alltoall(
            tensor, splits, name, process_set
        )
        return result
    if not needs_grad(tensor):
        received, counts = _started(
            tensor, splits, name, process_set, priority, blocking=True
        ).wait()
        return received if splits is None else (received, counts)
    received_splits = torch.empty(0)

    def forward() -> tuple[list[torch.Tensor], Gradient]:
        nonlocal received_splits
        handle = _started(tensor, splits, name, process_set, priority, blocking=True)
        name_of_gradient = f"{handle.name}.grad"
        result, received_splits = handle.wait()
        rows, shape = received_splits.tolist(), tensor.shape

        def gradient(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
            back, _ = alltoall(gradients[0], rows, name_of_gradient, process_set, priority=priority)
            kept = back.new_zeros((shape[0] - back.shape[0], *shape[1:]))
            return [torch.cat([back, kept]) if kept.shape[0] else back]

        return [result], gradient

    (received,) = differentiable(forward, [tensor])
    return received if splits is None else (received, received_splits)


def alltoall_async(
    tensor: torch.Tensor,
    splits: _Splits | None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle[tuple[torch.Tensor, torch.Tensor]]:
    """Starts ``alltoall``; the handle's result is always the pair, as in Horovod."""
    return _started(tensor, splits, name, process_set, priority)


def _started(
    tensor: torch.Tensor,
    splits: _Splits | None,
    name: str | None,
    process_set: ProcessSet,
    priority: int,
    *,
    blocking: bool = False,
) -> Handle[tuple[torch.Tensor, torch.Tensor]]:
    what = title(ALLTOALL, name)
    check_tensor(tensor, what, MOVABLE)
    if tensor.dim() == 0:
        raise UsageError(f"{what}: a 0-dim tensor has no rows to send")
    _, size = place_in(process_set)
    if splits is None and tensor.shape[0] % size:
        raise UsageError(
            f"{what}: {tensor.shape[0]} rows cannot be split evenly among {size} ranks; pass splits"
        )
    counts = None if splits is None else _checked_splits(what, splits, tensor.shape[0], size)
    if counts is not None and sum(counts) < tensor.shape[0]:
        tensor = tensor[: sum(counts)]
    device = splits.device if isinstance(splits, torch.Tensor) else torch.device("cpu")
    terms = Terms(process_set=id_of(process_set), priority=priority)

    def pair(gathered: list[Gathering]) -> tuple[torch.Tensor, torch.Tensor]:
        (one,) = gathered
        return one.tensor, torch.tensor(one.rows, dtype=torch.int32, device=device)

    return start_gathering(ALLTOALL, name, [tensor], terms, counts, blocking=blocking).then(pair)


def reducescatter(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: int = ReduceOp.AVERAGE,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    *,
    priority: int = 0,
) -> torch.Tensor:
    """Reduces the tensor over the ranks of the set; returns this rank's share of the rows.

    The rows of the first dimension are dealt out in rank order, and the first (rows modulo size)
    ranks get one more than the others. ``op`` is Average (default), Sum, Min, Max or Product; the
    factors are those of ``allreduce``. A 0-dim tensor raises ``UsageError``. Differentiable for Sum
    and Average: the gradients of all shares are gathered, and for Sum multiplied by the size.
    """
    if is_dynamo_compiling():
        from hora.torch import compiled

        return compiled.reducescatter(
            tensor, name, compression, op, process_set, prescale_factor, postscale_factor
        )
    return grouped_reducescatter(
        [tensor],
        name,
        compression,
        op,
        process_set,
        prescale_factor,
        postscale_factor,
        priority=priority,
    )[0]


def reducescatter_async(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    name: str | None = None,
    op: int = ReduceOp.AVERAGE,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    *,
    priority: int = 0,
) -> Handle:
    """Starts ``reducescatter``; the handle's result is this rank's share."""
    return grouped_reducescatter_async(
        [tensor], name, op, process_set, prescale_factor, postscale_factor, priority=priority
    ).then(_only)


def _only(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0]


def _checked_splits(what: str, splits: _Splits, rows: int, size: int) -> list[int]:
    try:
        if isinstance(splits, torch.Tensor) and splits.dtype not in _INTEGERS:
            raise TypeError
        values = splits.tolist() if isinstance(splits, torch.Tensor) else splits
        counts = [operator.index(value) for value in values]
    except TypeError:
        raise UsageError(f"{what}: splits must be integers, not {splits!r}") from None
    if len(counts) != size or min(counts) < 0:
        raise UsageError(
            f"{what}: splits must be {size} whole numbers, one for each rank, not {counts}"
        )
    if sum(counts) > rows:
        raise UsageError(
            f"{what}: the splits {counts} add up to more than the {rows} rows there are"
        )
    return counts
