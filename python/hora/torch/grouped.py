"""Operations on lists of tensors: all of them are done together, or none.

The tensors of a group may differ in shape and dtype, but lists agree in both on all ranks. A group
is one operation with one name and one handle, is negotiated as one, and may be larger than the
fusion threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.compiler import is_dynamo_compiling

from hora.ops import ReduceOp
from hora.process_sets import ProcessSet, global_process_set, id_of, place_in
from hora.torch.autograd import Gradient, differentiable, is_linear, needs_grad, no_gradient
from hora.torch.compression import Compression, Compressor
from hora.torch.handle import Handle
from hora.torch.kinds import ALLGATHER, ALLREDUCE, Terms, reduction_terms
from hora.torch.submission import (
    Gathering,
    as_group,
    start_gathering,
    start_group_in_place,
    start_group_out_of_place,
    start_group_scatter,
)

__all__ = [
    "grouped_allgather",
    "grouped_allgather_async",
    "grouped_allreduce",
    "grouped_allreduce_",
    "grouped_allreduce_async",
    "grouped_allreduce_async_",
    "grouped_reducescatter",
    "grouped_reducescatter_async",
]

_Tensors = Sequence[torch.Tensor]


def grouped_allreduce(  # noqa: PLR0917 - Horovod's signature
    tensors: _Tensors,
    average: bool | None = None,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> list[torch.Tensor]:
    """``allreduce`` of a list; returns the new tensors in its order."""
    if is_dynamo_compiling():
        from hora.torch import compiled

        return compiled.grouped_allreduce(
            tensors, average, name, compression, op, prescale_factor, postscale_factor, process_set
        )
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    pairs = [compression.compress(t) for t in as_group(tensors, "grouped_allreduce")]
    reduced = _reduced(name, [small for small, _ in pairs], terms, process_set)
    return [
        compression.decompress(tensor, context)
        for tensor, (_, context) in zip(reduced, pairs, strict=True)
    ]


def grouped_allreduce_async(  # noqa: PLR0917 - Horovod's signature
    tensors: _Tensors,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle[list[torch.Tensor]]:
    """Starts ``grouped_allreduce``; the handle's result is the list of new, detached tensors."""
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    group = as_group(tensors, "grouped_allreduce")
    return start_group_out_of_place(ALLREDUCE, name, group, terms)


def grouped_allreduce_(  # noqa: PLR0917 - Horovod's signature
    tensors: _Tensors,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> list[torch.Tensor]:
    """``allreduce_`` of a list; returns the same tensors."""
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    group = as_group(tensors, "grouped_allreduce_")
    return start_group_in_place(ALLREDUCE, name, group, terms, blocking=True).wait()


def grouped_allreduce_async_(  # noqa: PLR0917 - Horovod's signature
    tensors: _Tensors,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle[list[torch.Tensor]]:
    """Starts ``grouped_allreduce_``."""
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    group = as_group(tensors, "grouped_allreduce_")
    return start_group_in_place(ALLREDUCE, name, group, terms)


def grouped_allgather(
    tensors: _Tensors,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> list[torch.Tensor]:
    """``allgather`` of a list; returns the joined tensors in its order."""
    group = as_group(tensors, "grouped_allgather")
    if not needs_grad(*group):
        return [
            one.tensor
            for one in _gathered(name, group, process_set, priority, blocking=True).wait()
        ]

    def forward() -> tuple[list[torch.Tensor], Gradient]:
        handle = _gathered(name, group, process_set, priority, blocking=True)
        name_of_gradient = f"{handle.name}.grad"
        gathered = handle.wait()
        place, _ = place_in(process_set)
        slices = [(sum(one.rows[:place]), one.rows[place]) for one in gathered]
        shapes = [tensor.shape for tensor in group]

        def gradient(gradients: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            means = grouped_allreduce(
                gradients, name=name_of_gradient, process_set=process_set, priority=priority
            )
            return [
                mean.narrow(0, start, length).reshape(shape)
                for mean, (start, length), shape in zip(means, slices, shapes, strict=True)
            ]

        return [one.tensor for one in gathered], gradient

    return differentiable(forward, group)


def grouped_allgather_async(
    tensors: _Tensors,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle[list[torch.Tensor]]:
    """Starts ``grouped_allgather``; the handle's result is the list of joined, detached tensors."""
    handle = _gathered(name, as_group(tensors, "grouped_allgather"), process_set, priority)
    return handle.then(lambda gathered: [one.tensor for one in gathered])


def grouped_reducescatter(  # noqa: PLR0917 - Horovod's signature
    tensors: _Tensors,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: int = ReduceOp.AVERAGE,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    *,
    priority: int = 0,
) -> list[torch.Tensor]:
    """``reducescatter`` of a list; returns this rank's share of each, in its order."""
    terms = reduction_terms(op, None, prescale_factor, postscale_factor, process_set, priority)
    pairs = [compression.compress(t) for t in as_group(tensors, "grouped_reducescatter")]
    shares = _scattered(name, [small for small, _ in pairs], terms, process_set)
    return [
        compression.decompress(tensor, context)
        for tensor, (_, context) in zip(shares, pairs, strict=True)
    ]


def grouped_reducescatter_async(  # noqa: PLR0917 - Horovod's signature
    tensors: _Tensors,
    name: str | None = None,
    op: int = ReduceOp.AVERAGE,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    *,
    priority: int = 0,
) -> Handle[list[torch.Tensor]]:
    """Starts ``grouped_reducescatter``; the handle's result is the list of detached shares."""
    terms = reduction_terms(op, None, prescale_factor, postscale_factor, process_set, priority)
    group = as_group(tensors, "grouped_reducescatter")
    return start_group_scatter(name, group, terms, *place_in(process_set))


def _reduced(
    name: str | None, group: list[torch.Tensor], terms: Terms, process_set: ProcessSet
) -> list[torch.Tensor]:
    if not needs_grad(*group):
        return start_group_out_of_place(ALLREDUCE, name, group, terms, blocking=True).wait()

    def forward() -> tuple[list[torch.Tensor], Gradient]:
        handle = start_group_out_of_place(ALLREDUCE, name, group, terms, blocking=True)
        name_of_gradient = f"{handle.name}.grad"

        def gradient(gradients: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            return _reduced(name_of_gradient, gradients, terms, process_set)

        return handle.wait(), gradient if is_linear(terms) else no_gradient("allreduce", terms)

    return differentiable(forward, group)


def _gathered(
    name: str | None,
    group: list[torch.Tensor],
    process_set: ProcessSet,
    priority: int,
    *,
    blocking: bool = False,
) -> Handle[list[Gathering]]:
    terms = Terms(process_set=id_of(process_set), priority=priority)
    return start_gathering(ALLGATHER, name, group, terms, blocking=blocking)


def _scattered(
    name: str | None, group: list[torch.Tensor], terms: Terms, process_set: ProcessSet
) -> list[torch.Tensor]:
    place, size = place_in(process_set)
    if not needs_grad(*group):
        return start_group_scatter(name, group, terms, place, size, blocking=True).wait()

    def forward() -> tuple[list[torch.Tensor], Gradient]:
        handle = start_group_scatter(name, group, terms, place, size, blocking=True)
        name_of_gradient = f"{handle.name}.grad"
        # Horovod's rule: an Average hands each row's gradient back whole, a Sum size times that.
        factor = terms.prescale * terms.postscale
        if terms.reduce_op == ReduceOp.SUM:
            factor *= size

        def gradient(gradients: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            scaled = gradients if factor == 1.0 else [factor * one for one in gradients]
            return grouped_allgather(scaled, name_of_gradient, process_set, priority=terms.priority)

        return handle.wait(), gradient if is_linear(terms) else no_gradient("reducescatter", terms)

    return differentiable(forward, group)
