"""Memory that the gradients of one optimizer share, and that all ranks see."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hora.process_sets import ProcessSet
from hora.torch.gradient_slots import Slot
from hora.torch.symmetric_memory import symmetric_empty

__all__ = ["place_gradients"]

_ALIGNMENT_BYTES = 64  # a cache line: two ranks never write the same one


def place_gradients(
    slots: Sequence[Slot], process_set: ProcessSet
) -> list[tuple[Slot, torch.Tensor]]:
    """A view into symmetric memory for the gradient of each parameter, of its shape and dtype.

    Collective: all ranks of the set call it for the same parameters in the same order. There is one
    allocation for each dtype. The last parameter comes first, because its gradient does, too.
    Raises what ``symmetric_empty`` raises.
    """
    by_dtype: dict[torch.dtype, list[Slot]] = {}
    for slot in reversed(slots):
        by_dtype.setdefault(slot.parameter.dtype, []).append(slot)
    placed: list[tuple[Slot, torch.Tensor]] = []
    for dtype, alike in by_dtype.items():
        offsets = [0]  # in elements
        for slot in alike:
            offsets.append(_aligned(offsets[-1] + slot.parameter.numel(), dtype))
        memory = symmetric_empty(offsets[-1], dtype=dtype, process_set=process_set)
        for slot, offset in zip(alike, offsets, strict=False):  # the last offset is the end
            # Not memory[…]: slices of a tensor share a version, and each gradient needs its own.
            shape = slot.parameter.shape
            own = torch.empty(0, dtype=dtype, device="cpu")
            own.set_(memory.untyped_storage(), offset, (shape.numel(),), (1,))
            placed.append((slot, own.view(shape)))
    return placed


def _aligned(elements: int, dtype: torch.dtype) -> int:
    unit = max(1, _ALIGNMENT_BYTES // dtype.itemsize)
    return -(-elements // unit) * unit
