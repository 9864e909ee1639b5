"""Sending 16-bit values in place of 32- or 64-bit ones."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Compression", "Compressor"]


class Compressor:
    """What ``compression=`` takes: subclass it with two static methods, and pass the class."""

    @staticmethod
    def compress(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Returns what to send, and whatever ``decompress`` needs besides the reduced tensor."""
        raise NotImplementedError

    @staticmethod
    def decompress(tensor: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Returns the result in the form in which ``compress`` was given its tensor."""
        raise NotImplementedError


class NoneCompressor(Compressor):
    """Sends tensors as they are."""

    @staticmethod
    def compress(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Returns the tensor."""
        return tensor, None

    @staticmethod
    def decompress(tensor: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Returns the tensor."""
        return tensor


def _narrowed(tensor: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, Any]:
    wide = tensor.is_floating_point() and tensor.dtype.itemsize > dtype.itemsize
    return (tensor.to(dtype), tensor.dtype) if wide else (tensor, None)


class FP16Compressor(Compressor):
    """Sends float32 and float64 as float16: 11 bits of precision, infinite beyond 65504."""

    @staticmethod
    def compress(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Casts down what is wider than 16 bits."""
        return _narrowed(tensor, torch.float16)

    @staticmethod
    def decompress(tensor: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Casts back."""
        return tensor if ctx is None else tensor.to(ctx)


class BF16Compressor(FP16Compressor):
    """Sends float32 and float64 as bfloat16: float32's range, 8 bits of precision."""

    @staticmethod
    def compress(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Casts down what is wider than 16 bits."""
        return _narrowed(tensor, torch.bfloat16)


class Compression:
    """The compressors there are; sums of 16-bit values are accumulated in 32 bits."""

    none = NoneCompressor
    fp16 = FP16Compressor
    bf16 = BF16Compressor
