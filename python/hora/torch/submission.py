"""From tensors of any layout to an operation of the engine, and back.

What works on one tensor works on a list: the engine takes a grouped operation as one request under
one name, so its tensors are reduced together or not at all. A list of one is the same operation as
its tensor alone.

``blocking`` says that the caller waits next: the operation is then done before the handle is
returned, by this thread, without waking another one. An error of the operation is raised at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.utils.dlpack import from_dlpack

from hora import _core
from hora.errors import UsageError
from hora.ops import NameRing, ReduceOp
from hora.process_sets import global_process_set
from hora.torch.devices import used_on_current_stream
from hora.torch.handle import Handle, PreparedHandle
from hora.torch.kinds import (
    ALLREDUCE,
    BROADCAST,
    REDUCESCATTER,
    Kind,
    Terms,
    passes,
    refusal,
    title,
)
from hora.torch.profiling import profiling, run_in_range, submit_in_range, try_run_in_range
from hora.torch.tensors import dense, is_direct, may_overlap

__all__ = [
    "ALLREDUCE",
    "BROADCAST",
    "Gathering",
    "Terms",
    "as_group",
    "gathered_tensor",
    "mark_changed",
    "run_plain",
    "start_gathering",
    "start_group_in_place",
    "start_group_out_of_place",
    "start_group_scatter",
    "start_in_place",
    "start_out_of_place",
]

try:  # 0.2 µs; the public function takes 0.3 µs
    _bump_versions: Callable[[tuple[torch.Tensor]], None] = torch._C._increment_version
except AttributeError:
    _bump_versions = torch.autograd.graph.increment_version


def mark_changed(tensor: torch.Tensor) -> None:
    """Lets autograd refuse a saved tensor that is stale: the engine writes behind its back."""
    _bump_versions((tensor,))


_core.set_plain_types(torch.Tensor, torch.nn.Parameter)
_core.set_usual(Handle, ReduceOp, global_process_set, profiling, _bump_versions)
_is_plain = _core.is_plain
_try_run = _core.try_run
_ADASUM = int(ReduceOp.ADASUM)

_Operand = torch.Tensor | list[torch.Tensor]


class Gathering(NamedTuple):
    """One tensor made of rows from all ranks of the set."""

    tensor: torch.Tensor
    rows: list[int]  # how many came from each rank, in the order of the set


def run_plain(  # noqa: PLR0917 - called on a short way
    kind: Kind,
    name: str | None,
    source: torch.Tensor,
    target: torch.Tensor,
    reduce_op: int,
    root_rank: int,
    prescale: float,
    postscale: float,
    process_set: int,
    priority: int,
) -> bool:
    """An operation on one dense tensor, when the caller waits: whether it has been done."""
    if reduce_op == _ADASUM:
        return False
    key = name
    if key is None:
        if not _is_plain(source):
            return False
        ring = kind.rings[process_set] if process_set else kind.ring
        key = ring.names[ring.claim()]
    try:
        run = try_run_in_range if profiling() else _try_run
        return run(
            kind.number, key, source, target,
            reduce_op, root_rank, prescale, postscale, process_set, None, priority,
        )  # fmt: skip
    except (TypeError, UsageError) as error:
        terms = Terms(reduce_op, root_rank, prescale, postscale, process_set, priority)
        raise refusal(error, kind, name, key, terms) from None


def start_in_place(
    kind: Kind, name: str | None, tensor: torch.Tensor, terms: Terms, blocking: bool = False
) -> Handle:
    """Starts an operation whose result replaces the tensor's values, whatever its strides."""
    unconditional = terms.reduce_op != _ADASUM and is_direct(tensor, kind.unconditional)
    if unconditional or passes(kind, name, tensor, terms):
        core, ring, slot = _submit(kind, name, tensor, tensor, terms, blocking=blocking)
        mark_changed(tensor)
        return PreparedHandle(core, tensor, None, ring, slot)
    buffer = _buffer_for(kind, name, tensor)
    core, ring, slot = _submit(kind, name, buffer, buffer, terms, blocking=blocking)

    def write_back() -> torch.Tensor:
        with torch.no_grad():
            tensor.copy_(buffer)
        return tensor

    return PreparedHandle(core, None, write_back, ring, slot)


def start_out_of_place(
    kind: Kind, name: str | None, tensor: torch.Tensor, terms: Terms, blocking: bool = False
) -> Handle:
    """Starts an operation with a new, row-major, detached tensor as its result."""
    source = tensor if passes(kind, name, tensor, terms) else dense(tensor)
    target = torch.empty_like(source, memory_format=torch.contiguous_format)
    core, ring, slot = _submit(kind, name, source, target, terms, blocking=blocking)
    return PreparedHandle(core, target, None, ring, slot)


def as_group(tensors: Sequence[torch.Tensor], what: str) -> list[torch.Tensor]:
    """A list of what a caller passed as one; ``UsageError`` if it is empty or no list."""
    if isinstance(tensors, torch.Tensor):
        raise UsageError(f"{what} takes a list of tensors; for one tensor, use {what[8:]}")
    try:
        group = list(tensors)
    except TypeError:
        raise UsageError(f"{what} takes a list of tensors, not {type(tensors).__name__}") from None
    if not group:
        raise UsageError(f"{what}: the list of tensors is empty")
    return group


def start_group_in_place(
    kind: Kind, name: str | None, tensors: list[torch.Tensor], terms: Terms, blocking: bool = False
) -> Handle[list[torch.Tensor]]:
    """``start_in_place`` for several tensors; the result is the same list."""
    buffers = [
        tensor if passes(kind, name, tensor, terms, index) else _buffer_for(kind, name, tensor)
        for index, tensor in enumerate(tensors)
    ]
    operand = _operand(buffers)
    core, ring, slot = _submit(kind, name, operand, operand, terms, blocking=blocking)
    copied = [pair for pair in zip(tensors, buffers, strict=True) if pair[0] is not pair[1]]
    for tensor, buffer in zip(tensors, buffers, strict=True):
        if tensor is buffer:
            mark_changed(tensor)

    def write_back() -> list[torch.Tensor]:
        with torch.no_grad():
            for tensor, buffer in copied:
                tensor.copy_(buffer)
        return tensors

    return PreparedHandle(core, tensors, write_back if copied else None, ring, slot)


def start_group_out_of_place(
    kind: Kind, name: str | None, tensors: list[torch.Tensor], terms: Terms, blocking: bool = False
) -> Handle[list[torch.Tensor]]:
    """``start_out_of_place`` for several tensors."""
    sources = _sources(kind, name, tensors, terms)
    targets = [torch.empty_like(s, memory_format=torch.contiguous_format) for s in sources]
    operands = _operand(sources), _operand(targets)
    core, ring, slot = _submit(kind, name, *operands, terms, blocking=blocking)
    return PreparedHandle(core, targets, None, ring, slot)


def start_group_scatter(
    name: str | None,
    tensors: list[torch.Tensor],
    terms: Terms,
    place: int,
    size: int,
    *,
    blocking: bool = False,
) -> Handle[list[torch.Tensor]]:
    """Starts a reducescatter for rank ``place`` of ``size``: it gets its share of the rows.

    The first (rows modulo size) ranks get one row more than the others.
    """
    sources = _sources(REDUCESCATTER, name, tensors, terms)
    targets = []
    for index, source in enumerate(sources):
        if source.dim() == 0:
            where = title(REDUCESCATTER, name, index if len(tensors) > 1 else None)
            raise UsageError(f"{where}: a 0-dim tensor has no rows to scatter; use allreduce")
        share, more = divmod(source.shape[0], size)
        targets.append(source.new_empty((share + (place < more), *source.shape[1:])))
    operands = _operand(sources), _operand(targets)
    core, ring, slot = _submit(REDUCESCATTER, name, *operands, terms, blocking=blocking)
    return PreparedHandle(core, targets, None, ring, slot)


def start_gathering(
    kind: Kind,
    name: str | None,
    tensors: list[torch.Tensor],
    terms: Terms,
    splits: list[int] | None = None,
    *,
    blocking: bool = False,
) -> Handle[list[Gathering]]:
    """Starts an allgather or alltoall; a 0-dim tensor counts as one row."""
    sources = [
        source.reshape(1) if source.dim() == 0 else source
        for source in _sources(kind, name, tensors, terms)
    ]
    core, ring, slot = _submit(kind, name, _operand(sources), None, terms, splits, blocking)
    forms = [(source.dtype, tuple(source.shape[1:]), source.device) for source in sources]

    def finish() -> list[Gathering]:
        return [
            Gathering(gathered_tensor(gathered, *form), gathered.first_dims)
            for gathered, form in zip(core.gathered(), forms, strict=True)
        ]

    return PreparedHandle(core, None, finish, ring, slot)


def gathered_tensor(
    gathered: _core.Gathered, dtype: torch.dtype, row: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    """The engine's bytes, without a copy, as a tensor of shape [rows of all ranks, *row]."""
    shape = (sum(gathered.first_dims), *row)
    result = torch.empty(shape if gathered.nbytes == 0 else 0, dtype=dtype, device=device)
    if gathered.nbytes == 0:
        return result
    memory: torch.Tensor | None = gathered.memory
    if memory is None:
        memory = from_dlpack(gathered)
    else:
        used_on_current_stream(memory)  # it was allocated for the engine's
    # set_() and not view(): autograd forbids in-place changes to views that an operation returns.
    result.set_(memory.untyped_storage())
    return result.resize_(shape)  # of the same number of elements: nothing moves


def _sources(
    kind: Kind, name: str | None, tensors: list[torch.Tensor], terms: Terms
) -> list[torch.Tensor]:
    if len(tensors) == 1:
        return [tensors[0] if passes(kind, name, tensors[0], terms) else dense(tensors[0])]
    return [
        tensor if passes(kind, name, tensor, terms, index) else dense(tensor)
        for index, tensor in enumerate(tensors)
    ]


def _operand(tensors: list[torch.Tensor]) -> _Operand:
    return tensors[0] if len(tensors) == 1 else tensors


def _buffer_for(kind: Kind, name: str | None, tensor: torch.Tensor) -> torch.Tensor:
    """A row-major copy to work on in place of a tensor whose memory cannot be used as it is."""
    if may_overlap(tensor):
        raise UsageError(
            f"{title(kind, name)}: elements of this tensor share memory (shape "
            f"{tuple(tensor.shape)}, strides {tensor.stride()}), so it cannot be written in place; "
            f"use {kind.word} instead of {kind.word}_, or pass tensor.clone()"
        )
    buffer = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return buffer.copy_(tensor.detach())


def _submit(  # noqa: PLR0917 - the order of Terms is the engine's, too
    kind: Kind,
    name: str | None,
    source: _Operand,
    target: _Operand | None,
    terms: Terms,
    splits: list[int] | None = None,
    blocking: bool = False,
) -> tuple[_core.Handle, NameRing | None, int]:
    """Claims a slot for what has no name, once nothing but the engine can refuse it, and submits.

    Returns the handle, and the ring and slot that it occupies (None and -1 for a named operation).
    """
    ring, slot, submitted = None, -1, name
    reduce_op, root_rank, prescale, postscale, process_set, priority = terms
    if submitted is None:
        ring = kind.rings[process_set] if process_set else kind.ring
        slot = ring.claim()
        submitted = ring.names[slot]
    try:
        if blocking:
            submit = run_in_range if profiling() else _core.run
        else:
            submit = submit_in_range if profiling() else _core.submit
        core = submit(
            kind.number,
            submitted,
            source,
            target,
            reduce_op,
            root_rank,
            prescale,
            postscale,
            process_set,
            splits,
            priority,
        )
    except (TypeError, UsageError) as error:
        raise refusal(error, kind, name, submitted, terms) from None
    return core, ring, slot
