"""``torch.ops.hora``: operators that ``torch.compile`` can put into a graph.

The kernels are C++ (``csrc/hora/torch_ops``). Here is what a compiler needs besides: the schemas,
how results look when nothing runs, and the gradients, which are those of the functions in
``hora.torch``.
Shapes and gradients follow from an operator's arguments alone, never from this process's rank, so
what a compiler keeps of one process's graph is right for every process with the same graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hora import _core
from hora.errors import UsageError
from hora.ops import ReduceOp

__all__ = ["missing"]

_LIBRARY = Path(_core.__file__).with_name("_torch_ops.so")
_LINEAR = (ReduceOp.AVERAGE, ReduceOp.SUM)
_TERMS = "str name, int op, float prescale, float postscale, int process_set"
_SCHEMAS = (
    f"allreduce(Tensor input, {_TERMS}) -> Tensor",
    f"grouped_allreduce(Tensor[] inputs, {_TERMS}) -> Tensor[]",
    "broadcast(Tensor input, int root_rank, str name, int process_set) -> Tensor",
    "broadcast_gradient(Tensor gradient, int root_rank, str name, int process_set) -> Tensor",
    "allgather(Tensor input, SymInt rows, int size, str name, int process_set) -> Tensor",
    f"reducescatter(Tensor input, SymInt rows, int size, {_TERMS}) -> Tensor",
    "alltoall(Tensor input, Tensor splits, SymInt rows, bool fill, str name, int process_set) "
    "-> (Tensor, Tensor)",
)


def _load() -> str | None:
    """Loads the library once; returns why it cannot be, or None."""
    if not _LIBRARY.exists():
        return "not built: PyTorch 2.10 or newer was not found when hora was installed"
    try:
        torch.ops.load_library(str(_LIBRARY))  # type: ignore[no-untyped-call]
        connect = ctypes.CDLL(str(_LIBRARY)).hora_connect_torch_ops
    except (OSError, AttributeError) as error:
        return f"{_LIBRARY} cannot be loaded into PyTorch {torch.__version__}: {_reason(error)}"
    connect.restype, connect.argtypes = ctypes.c_bool, [ctypes.c_void_p]
    if not connect(_core.torch_ops_api()):
        return f"{_LIBRARY} is from another build; install hora again"
    return None


def _reason(error: Exception) -> str:
    """What the loader says, and what is to be done about it."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
        return f"it needs PyTorch 2.10 or newer ({error})"
    return f"{error}; install hora again, beside this PyTorch"


def _name_of_gradient(name: str) -> str:
    return f"{name}.grad" if name else ""


def _require_linear(kind: str, name: str, op: int) -> None:
    if op not in _LINEAR:
        what = f"{kind} '{name}'" if name else kind
        raise UsageError(
            f"{what} with op={ReduceOp(op).name.title()} has no gradient; pass tensor.detach() if "
            "none is needed"
        )


# --- how results look ---


def _like_the_input(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor.new_empty(tensor.shape)


def _like_the_inputs(tensors: list[torch.Tensor], *_: Any) -> list[torch.Tensor]:
    return [_like_the_input(tensor) for tensor in tensors]


def _with_rows(tensor: torch.Tensor, rows: int | torch.SymInt, *_: Any) -> torch.Tensor:
    return tensor.new_empty((rows, *tensor.shape[1:]))


def _exchanged(
    tensor: torch.Tensor, splits: torch.Tensor, rows: int | torch.SymInt, *_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(rows, int) and rows < 0:
        rows = torch.library.get_ctx().new_dynamic_size()
    return _with_rows(tensor, rows), splits.new_empty(splits.shape, dtype=torch.int32)


# --- gradients ---


def _keep_terms(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.terms = inputs[1:]


def _allreduce_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    name, op, *rest = ctx.terms
    _require_linear("allreduce", name, op)
    reduced = torch.ops.hora.allreduce(gradient, _name_of_gradient(name), op, *rest)
    return (reduced, *[None] * len(ctx.terms))


def _grouped_gradient(ctx: Any, gradients: list[torch.Tensor]) -> tuple[Any, ...]:
    name, op, *rest = ctx.terms
    _require_linear("grouped_allreduce", name, op)
    reduced = torch.ops.hora.grouped_allreduce(gradients, _name_of_gradient(name), op, *rest)
    return (reduced, *[None] * len(ctx.terms))


def _broadcast_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    # One operator, because only the root uses the mean: the others' compilers would drop it.
    root_rank, name, process_set = ctx.terms
    mean = torch.ops.hora.broadcast_gradient(
        gradient, root_rank, _name_of_gradient(name), process_set
    )
    return mean, None, None, None


def _allgather_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensor, _, ctx.size, ctx.name, ctx.process_set = inputs
    ctx.rows = tensor.shape[0]


def _allgather_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    # This rank's rows of the mean: its share of them, since all ranks have brought as many.
    share = torch.ops.hora.reducescatter(
        gradient,
        ctx.rows,
        ctx.size,
        _name_of_gradient(ctx.name),
        int(ReduceOp.AVERAGE),
        1.0,
        1.0,
        ctx.process_set,
    )
    return share, None, None, None, None


def _reducescatter_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensor, _, ctx.size, ctx.name, ctx.op, prescale, postscale, ctx.process_set = inputs
    ctx.rows, ctx.factor = tensor.shape[0], prescale * postscale


def _reducescatter_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    _require_linear("reducescatter", ctx.name, ctx.op)
    # Horovod's rule: an Average hands each row's gradient back whole, a Sum size times that.
    factor = ctx.factor * (ctx.size if ctx.op == ReduceOp.SUM else 1)
    scaled = gradient if factor == 1.0 else gradient * factor
    gathered = torch.ops.hora.allgather(
        scaled, ctx.rows, ctx.size, _name_of_gradient(ctx.name), ctx.process_set
    )
    return (gathered, *[None] * 7)


def _alltoall_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensor, _, _, _, ctx.name, ctx.process_set = inputs
    ctx.rows = tensor.shape[0]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _alltoall_gradient(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[Any, ...]:
    (received,) = ctx.saved_tensors
    back, _ = torch.ops.hora.alltoall(
        gradient, received, ctx.rows, True, _name_of_gradient(ctx.name), ctx.process_set
    )
    return back, None, None, None, None, None


def _define() -> torch.library.Library:
    """The schemas, which exist as long as the returned object does."""
    library = torch.library.Library("hora", "DEF")  # type: ignore[no-untyped-call]
    # Ranks agree on an operation each time it runs, which a CUDA graph cannot repeat: Inductor
    # makes graphs of what is before and after it (mode="reduce-overhead").
    tags = (torch.Tag.cudagraph_unsafe,)
    for schema in _SCHEMAS:
        library.define(schema, tags=tags)  # type: ignore[no-untyped-call]
    return library


def _register() -> None:
    shapes: dict[str, Callable[..., Any]] = {
        "allreduce": _like_the_input,
        "grouped_allreduce": _like_the_inputs,
        "broadcast": _like_the_input,
        "broadcast_gradient": _like_the_input,
        "allgather": _with_rows,
        "reducescatter": _with_rows,
        "alltoall": _exchanged,
    }
    gradients: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "allreduce": (_keep_terms, _allreduce_gradient),
        "grouped_allreduce": (_keep_terms, _grouped_gradient),
        "broadcast": (_keep_terms, _broadcast_gradient),
        "allgather": (_allgather_context, _allgather_gradient),
        "reducescatter": (_reducescatter_context, _reducescatter_gradient),
        "alltoall": (_alltoall_context, _alltoall_gradient),
    }
    for name, shape in shapes.items():
        torch.library.register_fake(f"hora::{name}", shape)
    for name, (context, gradient) in gradients.items():
        torch.library.register_autograd(f"hora::{name}", gradient, setup_context=context)


# Why there are no operators, or None when there are.
missing = _load()
if missing is None:
    _definitions = _define()
    _register()
