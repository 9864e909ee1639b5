"""Collective operations on tensors, with Horovod's names and arguments.

Every rank calls the same operation with the same ``name``; ranks may submit names in any order.
Operations without a name meet in the order in which each rank submits them, per kind. Tensors are
dense CPU tensors of any strides. Results are detached from autograd.

Suffixes: ``_`` writes the result into the tensor it was given (under no_grad, also for leaves that
require grad), ``_async`` returns a ``Handle`` at once; leave the tensor alone until it is done.

All raise ``MismatchError`` on every rank when ranks disagree (shape, dtype, kind, op, root),
``StallError`` when a rank never comes, ``PeerFailedError`` when one dies, and ``UsageError``, which
is a ``ValueError`` too, for a call that cannot work.
"""

from __future__ import annotations

import torch

from hora import _core
from hora.errors import UsageError
from hora.ops import NameRing, ReduceOp
from hora.torch.handle import Handle
from hora.torch.submission import (
    ALLREDUCE,
    BROADCAST,
    Terms,
    mark_changed,
    refusal,
    start_allgather,
    start_in_place,
    start_out_of_place,
)
from hora.torch.tensors import MOVABLE, NUMBERS, is_direct, is_plain

__all__ = [
    "Average",
    "Max",
    "Min",
    "Product",
    "Sum",
    "allgather",
    "allgather_async",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_async",
    "broadcast_async_",
    "chosen_op",
]

Average = ReduceOp.AVERAGE
Sum = ReduceOp.SUM
Min = ReduceOp.MIN
Max = ReduceOp.MAX
Product = ReduceOp.PRODUCT

# The blocking calls are the latency that users see: what they need is at hand, without attribute
# chains, and a tensor that needs no preparation goes straight to the engine.
_run = _core.run
_ALLREDUCE = _core.ALLREDUCE
_BROADCAST = _core.BROADCAST
_AVERAGE = int(ReduceOp.AVERAGE)
_SUM = int(ReduceOp.SUM)
_NUMBER_OF = {op: int(op) for op in ReduceOp}
_claim_allreduce = ALLREDUCE.ring.claim
_allreduce_names = ALLREDUCE.ring.names
_claim_broadcast = BROADCAST.ring.claim
_broadcast_names = BROADCAST.ring.names
_barriers = NameRing("barrier")


def chosen_op(op: int | None, average: bool | None) -> int:
    """The number of the reduction that the two arguments ask for; Average when they are None."""
    if op is None:
        return _AVERAGE if average is None or average else _SUM
    if average is not None:
        raise UsageError("give op or average, not both; average=False means op=Sum")
    try:
        return _NUMBER_OF[op]  # type: ignore[index]
    except (KeyError, TypeError):  # what cannot be hashed is no op either
        raise UsageError(f"op={op!r} is none of Average, Sum, Min, Max and Product") from None


def allreduce_(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> torch.Tensor:
    """Replaces the tensor's values, on every rank, by their reduction over all ranks; returns it.

    ``op`` is Average (default), Sum, Min, Max or Product; ``average=False`` is Horovod's old word
    for Sum. Values are multiplied by ``prescale_factor`` before and by ``postscale_factor`` after
    it.
    """
    op = _AVERAGE if op is None and average is None else chosen_op(op, average)
    if not is_plain(tensor, NUMBERS):
        terms = Terms(op, -1, prescale_factor, postscale_factor)
        start_in_place(ALLREDUCE, name, tensor, terms).wait()
        return tensor
    key = _allreduce_names[_claim_allreduce()] if name is None else name
    try:
        _run(_ALLREDUCE, key, tensor, tensor, op, -1, prescale_factor, postscale_factor)
    except (TypeError, UsageError) as error:
        terms = Terms(op, -1, prescale_factor, postscale_factor)
        raise refusal(error, ALLREDUCE, name, key, terms) from None
    mark_changed(tensor)
    return tensor


def allreduce(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> torch.Tensor:
    """Returns the reduction over all ranks as a new tensor of the same shape and dtype.

    The arguments are those of ``allreduce_``.
    """
    op = _AVERAGE if op is None and average is None else chosen_op(op, average)
    if not is_plain(tensor, NUMBERS):
        terms = Terms(op, -1, prescale_factor, postscale_factor)
        return _result(start_out_of_place(ALLREDUCE, name, tensor, terms))
    output = torch.empty_like(tensor)
    key = _allreduce_names[_claim_allreduce()] if name is None else name
    try:
        _run(_ALLREDUCE, key, tensor, output, op, -1, prescale_factor, postscale_factor)
    except (TypeError, UsageError) as error:
        terms = Terms(op, -1, prescale_factor, postscale_factor)
        raise refusal(error, ALLREDUCE, name, key, terms) from None
    return output


def allreduce_async_(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Handle:
    """Starts ``allreduce_``."""
    terms = Terms(chosen_op(op, average), -1, prescale_factor, postscale_factor)
    return start_in_place(ALLREDUCE, name, tensor, terms)


def allreduce_async(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Handle:
    """Starts ``allreduce``; the handle's result is the new tensor."""
    terms = Terms(chosen_op(op, average), -1, prescale_factor, postscale_factor)
    return start_out_of_place(ALLREDUCE, name, tensor, terms)


def allgather(tensor: torch.Tensor, name: str | None = None) -> torch.Tensor:
    """Returns all ranks' tensors joined along the first dimension, in rank order, on every rank.

    The first dimension may differ between ranks (and be 0), the others must agree. A 0-dim tensor
    counts as shape [1], so that the result has shape [size].
    """
    return _result(start_allgather(name, tensor))


def allgather_async(tensor: torch.Tensor, name: str | None = None) -> Handle:
    """Starts ``allgather``; the handle's result is the joined tensor."""
    return start_allgather(name, tensor)


def broadcast_(tensor: torch.Tensor, root_rank: int, name: str | None = None) -> torch.Tensor:
    """Replaces the tensor's values, on every rank, by those of ``root_rank``; returns it."""
    if not is_direct(tensor, MOVABLE):
        start_in_place(BROADCAST, name, tensor, Terms(root_rank=root_rank)).wait()
        return tensor
    key = _broadcast_names[_claim_broadcast()] if name is None else name
    try:
        _run(_BROADCAST, key, tensor, tensor, _SUM, root_rank)
    except (TypeError, UsageError) as error:
        raise refusal(error, BROADCAST, name, key, Terms(root_rank=root_rank)) from None
    mark_changed(tensor)
    return tensor


def broadcast(tensor: torch.Tensor, root_rank: int, name: str | None = None) -> torch.Tensor:
    """Returns the tensor of ``root_rank``; shapes and dtypes must agree."""
    return _result(start_out_of_place(BROADCAST, name, tensor, Terms(root_rank=root_rank)))


def broadcast_async_(tensor: torch.Tensor, root_rank: int, name: str | None = None) -> Handle:
    """Starts ``broadcast_``."""
    return start_in_place(BROADCAST, name, tensor, Terms(root_rank=root_rank))


def broadcast_async(tensor: torch.Tensor, root_rank: int, name: str | None = None) -> Handle:
    """Starts ``broadcast``; the handle's result is the new tensor."""
    return start_out_of_place(BROADCAST, name, tensor, Terms(root_rank=root_rank))


def barrier() -> None:
    """Returns once every rank has called it."""
    _run(_core.BARRIER, _barriers.names[_barriers.claim()], None, None)


def _result(handle: Handle) -> torch.Tensor:
    result = handle.wait()
    assert result is not None  # only a barrier has none, and it has no handle
    return result
