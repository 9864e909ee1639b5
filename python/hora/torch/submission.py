"""From a tensor of any layout to an operation of the engine, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.dlpack import from_dlpack

from hora import _core
from hora.errors import UsageError
from hora.ops import NameRing, ReduceOp
from hora.torch.handle import Handle
from hora.torch.tensors import (
    MOVABLE,
    NUMBERS,
    REDUCIBLE,
    check_tensor,
    dense,
    is_direct,
    may_overlap,
)

__all__ = [
    "ALLGATHER",
    "ALLREDUCE",
    "BROADCAST",
    "Kind",
    "Terms",
    "gathered_tensor",
    "mark_changed",
    "refusal",
    "start_allgather",
    "start_in_place",
    "start_out_of_place",
]

# In-place operations write behind PyTorch's back; this lets autograd refuse a stale saved tensor.
mark_changed = torch.autograd.graph.increment_version


@dataclass(frozen=True)
class Kind:
    """One kind of operation on tensors."""

    number: int
    word: str
    dtypes: frozenset[torch.dtype]
    unconditional: frozenset[torch.dtype]  # those that it takes whatever its terms are
    ring: NameRing


ALLREDUCE = Kind(_core.ALLREDUCE, "allreduce", REDUCIBLE, NUMBERS, NameRing("allreduce"))
ALLGATHER = Kind(_core.ALLGATHER, "allgather", MOVABLE, MOVABLE, NameRing("allgather"))
BROADCAST = Kind(_core.BROADCAST, "broadcast", MOVABLE, MOVABLE, NameRing("broadcast"))


class Terms(NamedTuple):
    """What ranks must agree on besides dtype and shape."""

    reduce_op: int = ReduceOp.SUM
    root_rank: int = -1
    prescale: float = 1.0
    postscale: float = 1.0


def start_in_place(kind: Kind, name: str | None, tensor: torch.Tensor, terms: Terms) -> Handle:
    """Starts an operation whose result replaces the tensor's values, whatever its strides."""
    # The usual case first: every gradient of every step comes this way.
    if is_direct(tensor, kind.unconditional) or _passes(kind, name, tensor, terms):
        core, ring, slot = _submit(kind, name, tensor, tensor, terms)
        mark_changed(tensor)
        return Handle(core, tensor, None, ring, slot)
    if may_overlap(tensor):
        raise UsageError(
            f"{_title(kind, name)}: elements of this tensor share memory (shape "
            f"{tuple(tensor.shape)}, strides {tensor.stride()}), so it cannot be written in place; "
            f"use {kind.word} instead of {kind.word}_, or pass tensor.clone()"
        )
    buffer = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    buffer.copy_(tensor.detach())
    core, ring, slot = _submit(kind, name, buffer, buffer, terms)

    def write_back() -> torch.Tensor:
        with torch.no_grad():
            tensor.copy_(buffer)
        return tensor

    return Handle(core, None, write_back, ring, slot)


def start_out_of_place(kind: Kind, name: str | None, tensor: torch.Tensor, terms: Terms) -> Handle:
    """Starts an operation with a new, row-major, detached tensor as its result."""
    source = tensor if _passes(kind, name, tensor, terms) else dense(tensor)
    target = torch.empty_like(source, memory_format=torch.contiguous_format)
    core, ring, slot = _submit(kind, name, source, target, terms)
    return Handle(core, target, None, ring, slot)


def start_allgather(name: str | None, tensor: torch.Tensor) -> Handle:
    """Starts an allgather; a 0-dim tensor counts as one row."""
    check_tensor(tensor, _title(ALLGATHER, name), MOVABLE)
    source = dense(tensor)
    if source.dim() == 0:
        source = source.reshape(1)
    core, ring, slot = _submit(ALLGATHER, name, source, None, Terms())
    dtype, row = source.dtype, tuple(source.shape[1:])
    return Handle(
        core,
        None,
        lambda: gathered_tensor(core.gathered(), dtype, row),
        ring,
        slot,
    )


def gathered_tensor(
    gathered: _core.Gathered, dtype: torch.dtype, row: tuple[int, ...]
) -> torch.Tensor:
    """The engine's bytes, without a copy, as a tensor of shape [rows of all ranks, *row]."""
    shape = (sum(gathered.first_dims), *row)
    if gathered.nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    return from_dlpack(gathered).view(dtype).view(shape)


def refusal(
    error: Exception, kind: Kind, name: str | None, submitted: str, terms: Terms
) -> Exception:
    """What to raise when the engine refused an operation, of which the other ranks know nothing.

    An unnamed operation's slot goes back to its ring. A ``TypeError`` of the bindings becomes a
    ``UsageError`` that names the argument; looking only now keeps the usual case free of checks.
    """
    if name is None:
        kind.ring.give_back(kind.ring.names.index(submitted))
    problem = _bad_argument(name, terms) if isinstance(error, TypeError) else None
    return error if problem is None else UsageError(f"{kind.word}: {problem}")


def _bad_argument(name: object, terms: Terms) -> str | None:
    if name is not None and not isinstance(name, str):
        return f"name={name!r} is not a string (None lets operations meet in order)"
    if not hasattr(terms.root_rank, "__index__") or not -1 <= terms.root_rank < 1 << 31:
        return f"root_rank={terms.root_rank!r} is not the number of a rank, from 0 to size() - 1"
    factors = (("prescale_factor", terms.prescale), ("postscale_factor", terms.postscale))
    for argument, factor in factors:
        if not hasattr(factor, "__float__"):
            return f"{argument}={factor!r} is not a number"
    return None


def _title(kind: Kind, name: str | None) -> str:
    return kind.word if name is None else f"{kind.word} '{name}'"


def _passes(kind: Kind, name: str | None, tensor: torch.Tensor, terms: Terms) -> bool:
    """Whether the engine can take the tensor as it is; raises ``UsageError`` if in no form."""
    check_tensor(tensor, _title(kind, name), kind.dtypes)
    if kind is ALLREDUCE and tensor.dtype is torch.bool and terms.reduce_op == ReduceOp.AVERAGE:
        raise UsageError(
            f"{_title(kind, name)}: booleans have no average; use op=Max (any), op=Min (all), or "
            "pass tensor.float()"
        )
    return is_direct(tensor, kind.dtypes)


def _submit(
    kind: Kind, name: str | None, source: torch.Tensor, target: torch.Tensor | None, terms: Terms
) -> tuple[_core.Handle, NameRing | None, int]:
    """Claims a slot for what has no name, once nothing but the engine can refuse it, and submits.

    Returns the handle, and the ring and slot that it occupies (None and -1 for a named operation).
    """
    ring, slot, submitted = None, -1, name
    if submitted is None:
        ring, slot = kind.ring, kind.ring.claim()
        submitted = ring.names[slot]
    try:
        core = _core.submit(
            kind.number,
            submitted,
            source,
            target,
            terms.reduce_op,
            terms.root_rank,
            terms.prescale,
            terms.postscale,
        )
    except (TypeError, UsageError) as error:
        raise refusal(error, kind, name, submitted, terms) from None
    return core, ring, slot
