"""Reducing sparse (COO) tensors, such as the gradients of an embedding.

The ranks' entries are gathered, not the zeros between them, and entries at the same place are
added. One grouped allgather carries indices, values and shape: all of them travel, or none.
"""

from __future__ import annotations

import torch

from hora.errors import MismatchError, UsageError
from hora.ops import ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.handle import Handle
from hora.torch.kinds import ALLGATHER, Terms, reduction_terms
from hora.torch.submission import Gathering, start_gathering

__all__ = ["is_sparse", "sparse_allreduce_async", "start_sparse", "start_sparse_in_place"]


def sparse_allreduce_async(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    name: str | None = None,
    op: int | None = None,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Handle:
    """Starts the reduction of a sparse COO tensor, whose shape and dtype agree on all ranks.

    ``op`` is Average (default) or Sum. How many entries each rank has may differ. The result is a
    coalesced sparse tensor; ``synchronize(handle)`` and, as in Horovod, ``handle()`` return it.
    """
    if not is_sparse(tensor):
        raise UsageError("sparse_allreduce_async takes a sparse COO tensor; use allreduce_async")
    terms = reduction_terms(op, None, prescale_factor, postscale_factor, process_set)
    return start_sparse(name, tensor, terms, process_set)


def is_sparse(tensor: object) -> bool:
    """Whether this is a tensor of layout COO."""
    return isinstance(tensor, torch.Tensor) and tensor.layout is torch.sparse_coo


def start_sparse(
    name: str | None, tensor: torch.Tensor, terms: Terms, process_set: ProcessSet
) -> Handle:
    """Starts the allgather; the handle's result is a new, coalesced tensor."""
    what = "sparse allreduce" if name is None else f"sparse allreduce '{name}'"
    if terms.reduce_op not in (ReduceOp.AVERAGE, ReduceOp.SUM):
        op = ReduceOp(terms.reduce_op).name.title()
        raise UsageError(f"{what}: op={op} needs a dense tensor; pass tensor.to_dense()")
    tensor = tensor.detach()
    shape = torch.tensor([tensor.shape], dtype=torch.int64, device=tensor.device)
    parts = [tensor._indices().t(), _scaled(tensor._values(), terms.prescale), shape]
    handle = start_gathering(ALLGATHER, name, parts, Terms(process_set=terms.process_set))
    return handle.then(lambda gathered: _assembled(what, tensor, gathered, terms, process_set))


def start_sparse_in_place(
    name: str | None, tensor: torch.Tensor, terms: Terms, process_set: ProcessSet
) -> Handle:
    """Starts the reduction; when it is done, the tensor holds the result."""

    def write_back(result: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return tensor.copy_(result)

    return start_sparse(name, tensor, terms, process_set).then(write_back)


def _assembled(
    what: str,
    tensor: torch.Tensor,
    parts: list[Gathering],
    terms: Terms,
    process_set: ProcessSet,
) -> torch.Tensor:
    indices, values, shapes = (part.tensor for part in parts)
    if bool((shapes != shapes[0]).any()):
        each = ", ".join(
            f"rank {rank} has {shape}"
            for rank, shape in zip(process_set.ranks, shapes.tolist(), strict=True)
        )
        raise MismatchError(f"{what}: the shapes differ: {each}")
    # Checked, because the indices came from elsewhere.
    total = torch.sparse_coo_tensor(
        indices.t(), values, tensor.shape, check_invariants=True
    ).coalesce()
    summed = total.values()
    if terms.reduce_op == ReduceOp.AVERAGE:
        size = len(parts[0].rows)
        integral = not (summed.is_floating_point() or summed.is_complex())
        summed = torch.div(summed, size, rounding_mode="trunc" if integral else None)
    return torch.sparse_coo_tensor(
        total.indices(),
        _scaled(summed, terms.postscale),
        tensor.shape,
        check_invariants=False,
        is_coalesced=True,
    )


def _scaled(values: torch.Tensor, factor: float) -> torch.Tensor:
    return values if factor == 1.0 else (values * factor).to(values.dtype)
