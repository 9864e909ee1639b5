"""Which tensors the engine takes, and how any other dense one is made fit for it."""

from __future__ import annotations

import torch
from torch.nn.parameter import is_lazy

from hora.errors import UsageError

__all__ = [
    "MOVABLE",
    "NUMBERS",
    "REDUCIBLE",
    "check_tensor",
    "dense",
    "is_direct",
    "is_plain",
    "may_overlap",
]


def _dtypes(*names: str) -> frozenset[torch.dtype]:
    """Those of the names that this version of PyTorch has."""
    found = (getattr(torch, name, None) for name in names)
    return frozenset(dtype for dtype in found if isinstance(dtype, torch.dtype))


NUMBERS = _dtypes(
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "bfloat16", "float32", "float64",
)  # fmt: skip
EIGHT_BIT_FLOATS = _dtypes(
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"
)  # fmt: skip
# Some of these by some operators only: booleans have no average, complex numbers no order.
REDUCIBLE = NUMBERS | EIGHT_BIT_FLOATS | _dtypes("bool", "complex64", "complex128")
MOVABLE = REDUCIBLE | _dtypes("float8_e8m0fnu", "complex32")

_PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})


def is_plain(tensor: torch.Tensor, dtypes: frozenset[torch.dtype]) -> bool:
    """Whether the engine can read and write the memory of a tensor that is not complex as it is."""
    # x.conj().imag is a view whose memory holds the negated values, and is_neg() says so.
    try:
        return (
            type(tensor) in _PLAIN_TYPES
            and tensor.dtype in dtypes
            and tensor.is_contiguous()
            and (tensor.is_cpu or tensor.is_cuda)
            and not tensor.is_neg()
        )
    except RuntimeError:
        return False  # sparse layouts have no is_contiguous()


def is_direct(tensor: torch.Tensor, dtypes: frozenset[torch.dtype]) -> bool:
    """``is_plain`` for all dtypes."""
    return is_plain(tensor, dtypes) and not tensor.is_conj()


def check_tensor(tensor: object, what: str, dtypes: frozenset[torch.dtype]) -> None:
    """Raises ``UsageError`` naming what is supported; ``what`` says which call and tensor it is."""
    if not isinstance(tensor, torch.Tensor):
        raise UsageError(f"{what}: a torch.Tensor is needed, not {type(tensor).__name__}")
    if is_lazy(tensor):
        raise UsageError(f"{what}: a lazy parameter has no memory yet; run one forward pass first")
    if tensor.is_quantized:
        raise UsageError(f"{what}: quantised tensors are not supported; pass tensor.int_repr()")
    if tensor.layout is not torch.strided:
        raise UsageError(
            f"{what}: tensors of layout {tensor.layout} are not supported; pass tensor.to_dense()"
        )
    if not (tensor.is_cpu or tensor.is_cuda):
        raise UsageError(
            f"{what}: tensors on {tensor.device} are not supported, only those of the CPU and of "
            "CUDA; pass tensor.cpu()"
        )
    if tensor.dtype not in dtypes:
        names = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise UsageError(f"{what}: {tensor.dtype} is not supported; use one of {', '.join(names)}")


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in row-major memory, detached; the tensor's own memory if it is so."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def may_overlap(tensor: torch.Tensor) -> bool:
    """Whether two elements could share memory, as in an expanded tensor.

    Exact for everything that slicing, transposing and expanding make; some views from
    ``as_strided`` that interleave without meeting are taken for overlapping.
    """
    reach = 0  # the farthest element, counted from the first
    axes = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, dim in sorted(axes) if tensor.numel() else ():
        if dim == 1:
            continue
        if stride <= reach:
            return True
        reach += stride * (dim - 1)
    return False
