"""Tensors that every rank of a process set can see, so that they are reduced where they lie.

The term is that of NVSHMEM and of PyTorch's ``torch.distributed._symmetric_memory``: memory that
all ranks allocate together, with the same layout, and that each of them has mapped.

    weights = hvd.symmetric_empty(1024, 1024)
    weights.copy_(gradient)
    hvd.allreduce_(weights)  # no copy: the ranks add in each other's memory

An in-place allreduce of such a tensor, or of views of it, costs one reading and one writing of the
memory; any other operation works as on ordinary memory.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch.utils.dlpack import from_dlpack

from hora import _core
from hora.errors import UsageError
from hora.process_sets import ProcessSet, global_process_set, place_in

__all__ = ["symmetric_empty"]


def symmetric_empty(
    *size: int | Sequence[int],
    dtype: torch.dtype | None = None,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """A new contiguous CPU tensor in memory that all ranks of the set see; its elements are zero.

    Collective: every rank of the set calls it with the same size and dtype, in the same order among
    such calls; blocks until all have. ``size`` is that of ``torch.empty``, ``dtype`` by default
    ``torch.get_default_dtype()``. Each rank has elements of its own. ``allreduce_`` and its
    ``grouped_`` and ``_async`` forms reduce without a copy what lies at the same place of such
    tensors on all ranks of the same set; elsewhere the tensor is like any other.

    The memory is freed when the last rank has dropped its tensor and all views. A tensor that
    outlives ``shutdown()`` stays readable and writable, as ordinary memory. So it does in a forked
    process, which shares it with its parent. With one rank it is ordinary memory from the start.

    Raises ``MismatchError`` on every rank when sizes or dtypes differ, ``ResourceError`` on every
    rank when one has no memory left (the group goes on), ``UsageError`` for a set that this rank
    is not in. There is none on a GPU: its tensors are reduced as they are.
    """
    shape = _shape_of(size)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    _, ranks = place_in(process_set)
    number = process_set.process_set_id
    if ranks == 1 or number is None:
        return torch.zeros(shape, dtype=dtype, device="cpu")
    nbytes = math.prod(shape) * dtype.itemsize
    what = f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    memory = _core.symmetric_memory(number, nbytes, what)
    result = torch.empty(shape if memory is None else 0, dtype=dtype, device="cpu")
    if memory is None:
        return result
    # set_() and not view(): the tensor is to be like one that torch.empty() made.
    result.set_(from_dlpack(memory).untyped_storage())
    return result.resize_(shape)  # of the same number of elements: nothing moves


def _shape_of(size: tuple[int | Sequence[int], ...]) -> tuple[int, ...]:
    numbers = size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
    try:
        shape = tuple(operator.index(dim) for dim in numbers)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"a size is made of integers, unlike {size}") from None
    if any(dim < 0 for dim in shape):
        raise UsageError(f"a size has no negative numbers, unlike {list(shape)}")
    return shape
