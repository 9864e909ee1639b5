"""Collective operations on tensors, with Horovod's names and arguments; here, the reductions.

Every rank of the process set calls the same operation with the same ``name``; ranks may submit
names in any order. Operations without a name meet in the order in which each rank submits them, per
kind and process set. Tensors are of the CPU or of this rank's GPU (``set_device``), of any strides;
all of one operation are on the same device. What streams see of it, ``Handle`` says.

Suffixes: ``_`` writes the result into the tensor it was given (under no_grad, also for leaves that
require grad), ``_async`` returns a ``Handle`` at once; leave the tensor alone until it is done. The
blocking operations without ``_`` are differentiable (see ``hora.torch.autograd``); results of the
others are detached.

All raise ``MismatchError`` on every rank when ranks disagree (shape, dtype, kind, op, root),
``StallError`` when a rank never comes, ``PeerFailedError`` when one dies, and ``UsageError``, which
is a ``ValueError`` too, for a call that cannot work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.compiler import is_dynamo_compiling

from hora import _core
from hora.ops import ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.autograd import Gradient, differentiable, is_linear, needs_grad, no_gradient
from hora.torch.compression import Compression, Compressor
from hora.torch.handle import Handle
from hora.torch.kinds import ALLREDUCE, Terms, chosen_op, reduction_terms
from hora.torch.sparse import is_sparse, start_sparse, start_sparse_in_place
from hora.torch.submission import (
    mark_changed,
    run_plain,
    start_in_place,
    start_out_of_place,
)

__all__ = [
    "Adasum",
    "Average",
    "Max",
    "Min",
    "Product",
    "Sum",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "chosen_op",
]

Average = ReduceOp.AVERAGE
Sum = ReduceOp.SUM
Adasum = ReduceOp.ADASUM
Min = ReduceOp.MIN
Max = ReduceOp.MAX
Product = ReduceOp.PRODUCT

# These calls are the latency that users see: what they need is at hand, and the usual ones, by name
# and with a tensor that needs no preparation, go straight to the engine.
_is_plain = _core.is_plain
_start_usual = _core.start_usual
_run_usual = _core.run_usual
_KIND = ALLREDUCE.number
_no_compression = Compression.none


def allreduce_(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> torch.Tensor:
    """Replaces the tensor's values by their reduction over the ranks of the set; returns it.

    ``op`` is Average (default), Sum, Min, Max, Product, or Adasum for floating-point tensors.
    Values are multiplied by ``prescale_factor`` before and by ``postscale_factor`` after it; the
    means and scaled values of integers are truncated towards zero. ``average=False`` is Horovod's
    old word for Sum. A sparse (COO) tensor is reduced as by ``sparse_allreduce_async``.

    Operations agreed at the same time run in descending order of ``priority``; one of a positive
    priority also overtakes large ones that are under way. Ranks must give the same. (Within
    ``torch.compile`` it is not looked at.)
    """
    if is_dynamo_compiling():
        with torch.no_grad():
            return tensor.copy_(
                allreduce(
                    tensor,
                    average,
                    name,
                    op=op,
                    prescale_factor=prescale_factor,
                    postscale_factor=postscale_factor,
                    process_set=process_set,
                    priority=priority,
                )
            )
    if average is None and _run_usual(
        _KIND, name, tensor, tensor,
        op, -1, prescale_factor, postscale_factor, process_set, priority,
    ):  # fmt: skip
        return tensor
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    if run_plain(ALLREDUCE, name, tensor, tensor, *terms):
        mark_changed(tensor)
        return tensor
    if is_sparse(tensor):
        return start_sparse_in_place(name, tensor, terms, process_set).wait()
    return start_in_place(ALLREDUCE, name, tensor, terms, blocking=True).wait()


def allreduce(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> torch.Tensor:
    """Returns the reduction over the ranks of the set as a new tensor of this shape and dtype.

    The arguments are those of ``allreduce_``; ``compression`` says in which form values travel.
    Differentiable for Sum and Average: the gradient is reduced in the same way.
    """
    if is_dynamo_compiling():
        from hora.torch import compiled

        return compiled.allreduce(
            tensor, average, name, compression, op, prescale_factor, postscale_factor, process_set
        )
    if (
        average is None
        and compression is _no_compression
        and _is_plain(tensor)
        and not (tensor.requires_grad and torch.is_grad_enabled())
    ):
        output = torch.empty_like(tensor)
        if _run_usual(
            _KIND, name, tensor, output,
            op, -1, prescale_factor, postscale_factor, process_set, priority,
        ):  # fmt: skip
            return output
        terms = reduction_terms(op, None, prescale_factor, postscale_factor, process_set, priority)
        if run_plain(ALLREDUCE, name, tensor, output, *terms):
            return output
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    return _allreduce_of_any_kind(tensor, name, compression, terms, process_set)


def allreduce_async_(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle:
    """Starts ``allreduce_``."""
    if average is None:
        handle: Handle | None = _start_usual(
            _KIND, name, tensor, tensor,
            op, -1, prescale_factor, postscale_factor, process_set, priority,
        )  # fmt: skip
        if handle is not None:
            return handle
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    if is_sparse(tensor):
        return start_sparse_in_place(name, tensor, terms, process_set)
    return start_in_place(ALLREDUCE, name, tensor, terms)


def allreduce_async(  # noqa: PLR0917 - Horovod's signature
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    *,
    priority: int = 0,
) -> Handle:
    """Starts ``allreduce``; the handle's result is the new tensor, detached."""
    if average is None and name is not None and _is_plain(tensor):
        output = torch.empty_like(tensor)
        handle: Handle | None = _start_usual(
            _KIND, name, tensor, output,
            op, -1, prescale_factor, postscale_factor, process_set, priority,
        )  # fmt: skip
        if handle is not None:
            return handle
    terms = reduction_terms(op, average, prescale_factor, postscale_factor, process_set, priority)
    if is_sparse(tensor):
        return start_sparse(name, tensor, terms, process_set)
    return start_out_of_place(ALLREDUCE, name, tensor, terms)


def _allreduce_of_any_kind(
    tensor: torch.Tensor,
    name: str | None,
    compression: type[Compressor],
    terms: Terms,
    process_set: ProcessSet,
) -> torch.Tensor:
    """Compressed, sparse, differentiable, of a process set, or of an unusual layout."""
    if is_sparse(tensor):
        return start_sparse(name, tensor, terms, process_set).wait()
    if compression is not _no_compression:
        small, context = compression.compress(tensor)
        reduced = _allreduce_of_any_kind(small, name, _no_compression, terms, process_set)
        return compression.decompress(reduced, context)
    if not needs_grad(tensor):
        return start_out_of_place(ALLREDUCE, name, tensor, terms, blocking=True).wait()

    def forward() -> tuple[list[torch.Tensor], Gradient]:
        handle = start_out_of_place(ALLREDUCE, name, tensor, terms, blocking=True)
        name_of_gradient = f"{handle.name}.grad"

        def gradient(gradients: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            none = _no_compression
            return [
                _allreduce_of_any_kind(g, name_of_gradient, none, terms, process_set)
                for g in gradients
            ]

        return [handle.wait()], gradient if is_linear(terms) else no_gradient("allreduce", terms)

    return differentiable(forward, [tensor])[0]
