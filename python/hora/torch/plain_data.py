"""Nested plain data with tensors in it, as JSON plus a list of tensors; no pickle.

Takes None, bool, int, float, str, tensors, and lists, tuples and dicts of these (keys: no tensors).
Types survive: tuples stay tuples, dict keys stay ints, floats keep every bit.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from hora.errors import UsageError
from hora.torch.tensors import MOVABLE, check_tensor

__all__ = ["TensorSpec", "decode", "encode", "fill"]

_SCALARS = (bool, int, float, str, type(None))


class TensorSpec:
    """Where a tensor goes in decoded data: ``index`` in the list, and what to allocate."""

    def __init__(
        self, index: int, dtype: torch.dtype, shape: tuple[int, ...], on_gpu: bool
    ) -> None:
        self.index = index
        self.dtype = dtype
        self.shape = shape
        self.on_gpu = on_gpu  # where the original is

    def allocate(self) -> torch.Tensor:
        """An uninitialised tensor of this dtype and shape, on the CPU."""
        return torch.empty(self.shape, dtype=self.dtype, device="cpu")


def encode(data: Any, where: str) -> tuple[bytes, list[torch.Tensor]]:
    """Returns the JSON text and the tensors that it refers to, in order.

    Raises ``UsageError`` naming the place (``where['state'][0]…``) and type of what is not plain.
    """
    tensors: list[torch.Tensor] = []
    return json.dumps(_encode(data, where, tensors)).encode(), tensors


def decode(text: bytes) -> tuple[Any, list[TensorSpec]]:
    """Returns the data with a ``TensorSpec`` in place of each tensor, and these in order."""
    specs: list[TensorSpec] = []
    return _decode(json.loads(text), specs), specs


def fill(data: Any, tensors: list[torch.Tensor]) -> Any:
    """Replaces every ``TensorSpec`` in decoded data by its tensor, which came on the CPU.

    One that was on a GPU goes to this rank's current one, if there is any.
    """
    if isinstance(data, TensorSpec):
        tensor = tensors[data.index]
        return tensor.to("cuda") if data.on_gpu and torch.cuda.is_available() else tensor
    if isinstance(data, dict):
        return {key: fill(value, tensors) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(fill(value, tensors) for value in data)
    return data


def _encode(data: Any, where: str, tensors: list[torch.Tensor]) -> Any:
    # Everything but a scalar becomes {"<tag>": …}, so nothing in the data can pass for a tag.
    if isinstance(data, torch.Tensor):
        check_tensor(data, where, MOVABLE)
        tensors.append(data)
        dtype = str(data.dtype).removeprefix("torch.")
        return {"tensor": [dtype, list(data.shape), data.is_cuda]}
    if isinstance(data, dict):
        for key in data:
            if type(key) not in _SCALARS:
                raise UsageError(f"{where} has a key of type {type(key).__name__}: {key!r}")
        return {
            "dict": [
                [key, _encode(value, f"{where}[{key!r}]", tensors)] for key, value in data.items()
            ]
        }
    if isinstance(data, (list, tuple)):
        items = [_encode(value, f"{where}[{index}]", tensors) for index, value in enumerate(data)]
        return {"tuple" if isinstance(data, tuple) else "list": items}
    if isinstance(data, _SCALARS):
        return data
    raise UsageError(
        f"{where} is of type {type(data).__name__}, which is neither plain nor a tensor"
    )


def _decode(node: Any, specs: list[TensorSpec]) -> Any:
    if not isinstance(node, dict):
        return node
    ((tag, content),) = node.items()
    if tag == "tensor":
        dtype = getattr(torch, content[0])
        specs.append(TensorSpec(len(specs), dtype, tuple(content[1]), content[2]))
        return specs[-1]
    if tag == "dict":
        return {key: _decode(value, specs) for key, value in content}
    items = [_decode(value, specs) for value in content]
    return tuple(items) if tag == "tuple" else items
