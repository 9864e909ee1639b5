"""One rank's values for all; what is common to operations is in ``hora.torch.operations``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.compiler import is_dynamo_compiling

from hora import _core
from hora.errors import UsageError
from hora.ops import ReduceOp
from hora.process_sets import ProcessSet, global_process_set, id_of
from hora.torch.autograd import Gradient, differentiable, needs_grad
from hora.torch.handle import Handle
from hora.torch.kinds import BROADCAST, Terms, refusal
from hora.torch.operations import allreduce
from hora.torch.profiling import profiling, run_in_range
from hora.torch.submission import mark_changed, start_in_place, start_out_of_place
from hora.torch.tensors import MOVABLE, is_direct

__all__ = ["broadcast", "broadcast_", "broadcast_async", "broadcast_async_"]

_run = _core.run
_BROADCAST = _core.BROADCAST
_SUM = int(ReduceOp.SUM)
_claim = BROADCAST.ring.claim
_names = BROADCAST.ring.names


def broadcast_(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """Replaces the tensor's values, on every rank of the set, by those of ``root_rank``.

    ``root_rank`` is a global rank, also within a set. Returns the tensor.
    """
    if is_dynamo_compiling():
        with torch.no_grad():
            return tensor.copy_(broadcast(tensor, root_rank, name, process_set))
    if process_set is not global_process_set or not is_direct(tensor, MOVABLE):
        terms = Terms(root_rank=root_rank, process_set=id_of(process_set))
        return start_in_place(BROADCAST, name, tensor, terms, blocking=True).wait()
    key = _names[_claim()] if name is None else name
    try:
        run = run_in_range if profiling() else _run
        run(_BROADCAST, key, tensor, tensor, _SUM, root_rank)
    except (TypeError, UsageError) as error:
        raise refusal(error, BROADCAST, name, key, Terms(root_rank=root_rank)) from None
    mark_changed(tensor)
    return tensor


def broadcast(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """Returns the tensor of ``root_rank``, a global rank; shapes and dtypes must agree.

    Differentiable: the root gets the mean of all ranks' gradients, the others zeros.
    """
    if is_dynamo_compiling():
        from hora.torch import compiled

        return compiled.broadcast(tensor, root_rank, name, process_set)
    terms = Terms(root_rank=root_rank, process_set=id_of(process_set))
    if not needs_grad(tensor):
        return start_out_of_place(BROADCAST, name, tensor, terms, blocking=True).wait()

    def forward() -> tuple[list[torch.Tensor], Gradient]:
        handle = start_out_of_place(BROADCAST, name, tensor, terms, blocking=True)
        name_of_gradient = f"{handle.name}.grad"
        is_root = _core.topology().rank == root_rank

        def gradient(gradients: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            mean = allreduce(gradients[0], name=name_of_gradient, process_set=process_set)
            # Not zeros_like(), which would keep this rank out of a second derivative.
            return [mean if is_root else mean.masked_fill(torch.tensor(True), 0)]

        return [handle.wait()], gradient

    return differentiable(forward, [tensor])[0]


def broadcast_async_(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """Starts ``broadcast_``."""
    terms = Terms(root_rank=root_rank, process_set=id_of(process_set))
    return start_in_place(BROADCAST, name, tensor, terms)


def broadcast_async(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """Starts ``broadcast``; the handle's result is the new tensor, detached."""
    terms = Terms(root_rank=root_rank, process_set=id_of(process_set))
    return start_out_of_place(BROADCAST, name, tensor, terms)
