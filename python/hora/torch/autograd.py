"""Gradients of the blocking operations.

The gradient of an operation is an operation itself, and every rank must run its backward pass. It
is named after the forward operation with ".grad" at the end, so the ranks' gradients meet in
whatever order autograd computes them. The gradients are Horovod's: that of a Sum is the sum of all
ranks' gradients, as if the losses of all ranks were added; those of allgather and broadcast are
averaged, as if their mean was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hora.errors import UsageError
from hora.ops import ReduceOp
from hora.torch.kinds import Terms

__all__ = ["Gradient", "differentiable", "is_linear", "needs_grad", "no_gradient"]

Gradient = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
_Forward = Callable[[], tuple[Sequence[torch.Tensor], Gradient]]


class _Collective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, forward: _Forward, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results, ctx.gradient = forward()
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # With create_graph=True this runs with autograd on, and is differentiable itself.
        return None, *ctx.gradient(list(gradients))


def needs_grad(*tensors: torch.Tensor) -> bool:
    """Whether autograd records what is done with these tensors."""
    return torch.is_grad_enabled() and any(
        isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors
    )


def differentiable(forward: _Forward, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Runs ``forward`` so that autograd knows the results to come from ``tensors``.

    ``forward`` returns new tensors, and a function from their gradients to those of ``tensors``.
    """
    return list(_Collective.apply(forward, *tensors))  # type: ignore[no-untyped-call]


def is_linear(terms: Terms) -> bool:
    """Whether the reduction has a gradient."""
    return terms.reduce_op in (ReduceOp.AVERAGE, ReduceOp.SUM)


def no_gradient(what: str, terms: Terms) -> Gradient:
    """The gradient of what has none: it says so when the backward pass comes to it."""

    def refuse(_: list[torch.Tensor]) -> list[torch.Tensor]:
        op = ReduceOp(terms.reduce_op).name.title()
        raise UsageError(
            f"{what} with op={op} has no gradient; pass tensor.detach() if none is needed"
        )

    return refuse
