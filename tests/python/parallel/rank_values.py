"""What each rank brings to a test; every rank can compute what any other one brings."""

from __future__ import annotations

import torch

INTEGERS = [
    torch.uint8, torch.int8, torch.uint16, torch.int16,
    torch.uint32, torch.int32, torch.uint64, torch.int64,
]  # fmt: skip
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
REDUCIBLE = [*INTEGERS, *FLOATS, torch.bool]
MOVABLE = [
    *REDUCIBLE, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def device_type() -> str:
    """Where the tests' tensors are: "cpu", or what --device says."""
    return torch.get_default_device().type


def seeded(seed: int) -> torch.Generator:
    """Of the same numbers on every rank."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def values_of(rank: int, shape, dtype=torch.float32, low=0, high=5) -> torch.Tensor:
    """Small whole numbers, exact in every dtype, so that sums have one right answer."""
    numbers = torch.randint(low, high, tuple(shape), generator=seeded(1000 + rank))
    return numbers.to(torch.float32).to(dtype) if dtype.itemsize == 1 else numbers.to(dtype)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """For comparing dtypes that have no arithmetic, and for comparing bits."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(as_bytes(left), as_bytes(right))
    )


def reduced(tensors: list[torch.Tensor], op: str) -> torch.Tensor:
    """The right answer, by way of float64 (int64 for what does not fit)."""
    dtype = tensors[0].dtype
    stacked = torch.stack([t.to(torch.float64) for t in tensors])
    if dtype is torch.bool:
        both = {
            "Sum": stacked.amax,
            "Max": stacked.amax,
            "Min": stacked.amin,
            "Product": stacked.amin,
        }
        return both[op](dim=0).to(dtype)
    total = {
        "Sum": lambda: stacked.sum(0),
        "Average": lambda: stacked.sum(0) / len(tensors),
        "Min": lambda: stacked.amin(0),
        "Max": lambda: stacked.amax(0),
        "Product": lambda: stacked.prod(0),
    }[op]()
    return total.trunc().to(dtype) if not dtype.is_floating_point else total.to(dtype)
