"""Operations as named ranges in PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["profiled", "profiling"]

# Whether somebody records ranges now. One cheap call: hot paths ask before they call ``profiled``.
profiling: Callable[[], bool] = torch._C._autograd._profiler_enabled

_NO_RANGE: AbstractContextManager[Any] = nullcontext()


def profiled(kind: str, name: str | None) -> AbstractContextManager[Any]:
    """A context whose life is the range "hora::allreduce grad.w" of the profiler, when one runs.

    ``name`` is None for an operation without one: "hora::allreduce".
    """
    if not profiling():
        return _NO_RANGE
    return torch.autograd.profiler.record_function(
        f"hora::{kind}" if name is None else f"hora::{kind} {name}"
    )
