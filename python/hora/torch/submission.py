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
    slot, name = _named(kind, name)
    ring = None if slot < 0 else kind.ring
    # The usual case first: every gradient of every step comes this way.
    if is_direct(tensor, kind.unconditional) or _passes(kind, name, tensor, terms):
        core = _submit(kind, name, tensor, tensor, terms)
        mark_changed(tensor)
        return Handle(core, tensor, None, ring, slot)
    if may_overlap(tensor):
        raise UsageError(
            f"{kind.word} '{name}': elements of this tensor share memory (shape "
            f"{tuple(tensor.shape)}, strides {tensor.stride()}), so it cannot be written in place; "
            f"use {kind.word} instead of {kind.word}_, or pass tensor.clone()"
        )
    buffer = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    buffer.copy_(tensor.detach())
    core = _submit(kind, name, buffer, buffer, terms)

    def write_back() -> torch.Tensor:
        with torch.no_grad():
            tensor.copy_(buffer)
        return tensor

    return Handle(core, None, write_back, ring, slot)


def start_out_of_place(kind: Kind, name: str | None, tensor: torch.Tensor, terms: Terms) -> Handle:
    """Starts an operation with a new, row-major, detached tensor as its result."""
    slot, name = _named(kind, name)
    source = tensor if _passes(kind, name, tensor, terms) else dense(tensor)
    target = torch.empty_like(source, memory_format=torch.contiguous_format)
    core = _submit(kind, name, source, target, terms)
    return Handle(core, target, None, None if slot < 0 else kind.ring, slot)


def start_allgather(name: str | None, tensor: torch.Tensor) -> Handle:
    """Starts an allgather; a 0-dim tensor counts as one row."""
    slot, name = _named(ALLGATHER, name)
    check_tensor(tensor, f"allgather '{name}'", MOVABLE)
    source = dense(tensor)
    if source.dim() == 0:
        source = source.reshape(1)
    core = _core.submit(_core.ALLGATHER, name, source, None)
    dtype, row = source.dtype, tuple(source.shape[1:])
    return Handle(
        core,
        None,
        lambda: gathered_tensor(core.gathered(), dtype, row),
        None if slot < 0 else ALLGATHER.ring,
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


def _named(kind: Kind, name: str | None) -> tuple[int, str]:
    if name is not None:
        return -1, name
    slot = kind.ring.claim()
    return slot, kind.ring.names[slot]


def _passes(kind: Kind, name: str, tensor: torch.Tensor, terms: Terms) -> bool:
    """Whether the engine can take the tensor as it is; raises ``UsageError`` if in no form."""
    check_tensor(tensor, f"{kind.word} '{name}'", kind.dtypes)
    if kind is ALLREDUCE and tensor.dtype is torch.bool and terms.reduce_op == ReduceOp.AVERAGE:
        raise UsageError(
            f"allreduce '{name}': booleans have no average; use op=Max (any), op=Min (all), or "
            "pass tensor.float()"
        )
    return is_direct(tensor, kind.dtypes)


def _submit(
    kind: Kind, name: str, source: torch.Tensor, target: torch.Tensor, terms: Terms
) -> _core.Handle:
    return _core.submit(
        kind.number,
        name,
        source,
        target,
        terms.reduce_op,
        terms.root_rank,
        terms.prescale,
        terms.postscale,
    )
