"""What every operation must give, in NumPy, one rank's operand after the other.

The rules are those of ``csrc/hora/kernels/reduce.h``: operands are combined in rank order, 16-bit
and 8-bit floats in float32 and rounded once, integers exactly before a mean or a scale and wrapping
around otherwise.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["alltoall", "bits", "reduce", "rows_of_rank"]

_NARROW = {
    torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
}  # fmt: skip


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory in row-major order, for comparisons that forgive nothing."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype, device="cpu")
    flat.copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy()


def reduce(
    tensors: list[torch.Tensor], op: str, prescale: float = 1.0, postscale: float = 1.0
) -> torch.Tensor:
    """``tensors`` by rank, all of one shape and dtype, combined."""
    dtype = tensors[0].dtype
    if dtype is torch.bool:
        either = op in ("Sum", "Max")
        combine = np.logical_or if either else np.logical_and
        return torch.from_numpy(np.array(combine.reduce([t.numpy() for t in tensors])))
    if dtype.is_complex:
        real, imaginary = (
            reduce([part(t).clone() for t in tensors], op, prescale, postscale)
            for part in (torch.real, torch.imag)
        )
        return torch.complex(real, imaginary)
    if not dtype.is_floating_point:
        return _reduced_integers(tensors, op, prescale, postscale)
    if len(tensors) == 1 and prescale == postscale == 1.0:
        return tensors[0].clone()
    values = [(t.float() if dtype in _NARROW else t).numpy() for t in tensors]
    return torch.from_numpy(np.asarray(_reduced_floats(values, op, prescale, postscale))).to(dtype)


def _reduced_floats(
    values: list[np.ndarray], op: str, prescale: float, postscale: float
) -> np.ndarray:
    number = values[0].dtype.type
    with np.errstate(all="ignore"):
        operands = [v if prescale == 1.0 else v * number(prescale) for v in values]
        result = operands[0]
        for operand in operands[1:]:
            result = _combined(result, operand, op)
        factor = postscale / (len(values) if op == "Average" else 1)
        return result if factor == 1.0 else result * number(factor)


def _combined(a: np.ndarray, b: np.ndarray, op: str) -> np.ndarray:
    if op in ("Sum", "Average"):
        return a + b
    if op == "Product":
        return a * b
    ordered = np.where(a < b, a, b) if op == "Min" else np.where(a > b, a, b)
    return np.where(np.isnan(a), a, ordered)


def _reduced_integers(
    tensors: list[torch.Tensor], op: str, prescale: float, postscale: float
) -> torch.Tensor:
    arrays = [t.numpy() for t in tensors]
    limits = np.iinfo(arrays[0].dtype)

    def scaled(x: int, factor: float) -> int:
        return x if factor == 1.0 else min(max(int(float(x) * factor), limits.min), limits.max)

    def wrapped(x: int) -> int:
        return (x - limits.min) % (1 << limits.bits) + limits.min

    def result_of(operands: list[int]) -> int:
        operands = [scaled(x, prescale) for x in operands]
        total = operands[0]
        for x in operands[1:]:
            if op in ("Sum", "Average"):
                total += x
            elif op == "Product":
                total = wrapped(total * x)
            else:
                total = min(total, x) if op == "Min" else max(total, x)
        if op == "Average":
            total = abs(total) // len(operands) * (1 if total >= 0 else -1)
        return scaled(total, postscale) if postscale != 1.0 else wrapped(total)

    flat = zip(*(a.reshape(-1).tolist() for a in arrays), strict=True)
    results = np.array([result_of(list(operands)) for operands in flat], dtype=arrays[0].dtype)
    return torch.from_numpy(results.reshape(arrays[0].shape))


def rows_of_rank(rows: int, place: int, size: int) -> slice:
    """What the rank in that place receives of a reducescatter: the first ones get one row more."""
    least, more = divmod(rows, size)
    first = place * least + min(place, more)
    return slice(first, first + least + (place < more))


def alltoall(tensors: list[torch.Tensor], splits: list[list[int]], place: int) -> torch.Tensor:
    """``splits[s][d]`` rows go from place s to place d."""
    parts = []
    for tensor, rows in zip(tensors, splits, strict=True):
        first = sum(rows[:place])
        parts.append(tensor[first : first + rows[place]])
    return torch.cat(parts)
