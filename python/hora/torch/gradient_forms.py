"""The forms in which gradients travel: as they are, compressed, made dense, or as sparse rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hora.errors import UsageError
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.compression import Compression, Compressor
from hora.torch.handle import Handle
from hora.torch.sparse import start_sparse
from hora.torch.submission import ALLREDUCE, Terms, start_in_place

__all__ = ["GradientForms", "Restore"]

# Turns what came back into the gradient; called once, after the operation is done.
Restore = Callable[[], torch.Tensor]


class GradientForms:
    """Knows how the gradients of one optimizer are to travel. Immutable; any thread may call.

    Sparse gradients are gathered, never compressed: each rank sends the rows that it has, and adds
    up those of all ranks, in the same order everywhere. Average and Sum only.
    """

    def __init__(
        self,
        terms: Terms,
        compression: type[Compressor] = Compression.none,
        sparse_as_dense: bool = False,
        process_set: ProcessSet = global_process_set,
    ) -> None:
        for method in ("compress", "decompress"):
            if not callable(getattr(compression, method, None)):
                raise UsageError(
                    f"compression={compression!r} has no method {method}; use Compression.none, "
                    "Compression.fp16, Compression.bf16 or a subclass of Compressor"
                )
        self._terms = terms
        self._compression = None if compression is Compression.none else compression
        self._sparse_as_dense = sparse_as_dense
        self._process_set = process_set

    @property
    def are_plain(self) -> bool:
        """Whether a dense gradient is reduced as it is."""
        return self._compression is None

    def goes_as_rows(self, gradient: torch.Tensor) -> bool:
        """Whether the gradient is gathered as sparse rows, which is no allreduce."""
        return gradient.is_sparse and not self._sparse_as_dense

    def start(self, name: str, gradient: torch.Tensor) -> tuple[Handle[Any], Restore | None]:
        """Starts the reduction of a gradient by itself, which leaves ``Restore`` to be done."""
        if self.goes_as_rows(gradient):
            # Entries for the same row are added up first, so that fewer travel.
            handle = start_sparse(name, gradient.coalesce(), self._terms, self._process_set)
            return handle, handle.wait
        payload, restore = self.pack(gradient)
        return start_in_place(ALLREDUCE, name, payload, self._terms), restore

    def pack(self, gradient: torch.Tensor) -> tuple[torch.Tensor, Restore | None]:
        """What an allreduce in place is to work on; no ``Restore`` if that is the gradient."""
        payload, context = gradient.to_dense() if gradient.is_sparse else gradient, None
        if self._compression is not None:
            payload, context = self._compression.compress(payload)
        if payload is gradient:
            return payload, None

        def restore() -> torch.Tensor:
            result = payload
            if self._compression is not None:
                result = self._compression.decompress(payload, context)
            if gradient.is_sparse:  # an optimizer for sparse gradients takes no others
                sparse: torch.Tensor = result.to_sparse(gradient.sparse_dim())
                return sparse
            with torch.no_grad():
                return gradient.copy_(result)

        return payload, restore
