"""Operations as named ranges in PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from hora import _core

__all__ = ["profiled", "profiling", "run_in_range", "submit_in_range", "try_run_in_range"]

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


_WORDS = {
    _core.ALLREDUCE: "allreduce",
    _core.ALLGATHER: "allgather",
    _core.BROADCAST: "broadcast",
    _core.BARRIER: "barrier",
    _core.ALLTOALL: "alltoall",
    _core.REDUCESCATTER: "reducescatter",
    _core.JOIN: "join",
}


def run_in_range(kind: int, name: str, *arguments: Any) -> _core.Handle:
    """``_core.run`` as the range "hora::allreduce grad.w"."""
    with profiled(_WORDS[kind], name):
        return _core.run(kind, name, *arguments)


def submit_in_range(kind: int, name: str, *arguments: Any) -> _core.Handle:
    """``_core.submit`` as the range "hora::allreduce_async grad.w"; see also ``Handle.wait``."""
    with profiled(f"{_WORDS[kind]}_async", name):
        return _core.submit(kind, name, *arguments)


def try_run_in_range(kind: int, name: str, tensor: torch.Tensor, *arguments: Any) -> bool:
    """``_core.try_run`` as the range "hora::allreduce grad.w", unless there is nothing to do."""
    if not _core.is_plain(tensor):
        return False
    with profiled(_WORDS[kind], name):
        return _core.try_run(kind, name, tensor, *arguments)
