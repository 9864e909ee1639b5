"""One rank's values for all; what is common to operations is in ``hora.torch.operations``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.compiler import is_dynamo_compiling

from hora import _core
from hora.process_sets import ProcessSet, global_process_set, id_of
from hora.torch.autograd import Gradient, differentiable, needs_grad
from hora.torch.handle import Handle
from hora.torch.kinds import BROADCAST, Terms
from hora.torch.operations import allreduce
from hora.torch.submission import mark_changed, run_plain, start_in_place, start_out_of_place

__all__ = ["broadcast", "broadcast_", "broadcast_async", "broadcast_async_"]


def broadcast_(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> torch.Tensor:
    """Replaces the tensor's values, on every rank of the set, by those of ``root_rank``.

    ``root_rank`` is a global rank, also within a set. Returns the tensor.
    """
    if is_dynamo_compiling():
        with torch.no_grad():
            return tensor.copy_(broadcast(tensor, root_rank, name, process_set))
    terms = Terms(root_rank=root_rank, process_set=id_of(process_set), priority=priority)
    if run_plain(BROADCAST, name, tensor, tensor, *terms):
        mark_changed(tensor)
        return tensor
    return start_in_place(BROADCAST, name, tensor, terms, blocking=True).wait()


def broadcast(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> torch.Tensor:
    """Returns the tensor of ``root_rank``, a global rank; shapes and dtypes must agree.

    Differentiable: the root gets the mean of all ranks' gradients, the others zeros.
    """
    if is_dynamo_compiling():
        from hora.torch import compiled

        return compiled.broadcast(tensor, root_rank, name, process_set)
    terms = Terms(root_rank=root_rank, process_set=id_of(process_set), priority=priority)
    if not needs_grad(tensor):
        return start_out_of_place(BROADCAST, name, tensor, terms, blocking=True).wait()

    def forward() -> tuple[list[torch.Tensor], Gradient]:
        handle = start_out_of_place(BROADCAST, name, tensor, terms, blocking=True)
        name_of_gradient = f"{handle.name}.grad"
        is_root = _core.topology().rank == root_rank

        def gradient(gradients: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            mean = allreduce(
                gradients[0], name=name_of_gradient, process_set=process_set, priority=priority
            )
            # Not zeros_like(), which would keep this rank out of a second derivative.
            everywhere = torch.tensor(True, device=mean.device)
            return [mean if is_root else mean.masked_fill(everywhere, 0)]

        return [handle.wait()], gradient

    return differentiable(forward, [tensor])[0]


def broadcast_async_(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle:
    """Starts ``broadcast_``."""
    terms = Terms(root_rank=root_rank, process_set=id_of(process_set), priority=priority)
    return start_in_place(BROADCAST, name, tensor, terms)


def broadcast_async(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle:
    """Starts ``broadcast``; the handle's result is the new tensor, detached."""
    terms = Terms(root_rank=root_rank, process_set=id_of(process_set), priority=priority)
    return start_out_of_place(BROADCAST, name, tensor, terms)
