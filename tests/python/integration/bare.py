"""hora without torch, for ranks of tests: they start in a tenth of the time.

    import bare as hvd
    hvd.init()
    hvd.synchronize(hvd.allreduce_async_(hvd.ones(1000), name="x", op=hvd.Sum))

The names are those of ``hora.torch``, the engine is the same; tensors are fp32 memory with no more
than the attributes of torch's that the engine reads. Nothing here is for users.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from types import SimpleNamespace

from hora import _core
from hora.errors import HoraError, NotInitializedError, PeerFailedError
from hora.ops import ReduceOp
from hora.runtime import (
    cross_rank,
    cross_size,
    init,
    is_initialized,
    local_rank,
    local_size,
    rank,
    shutdown,
    size,
)

# The first lines of a program that runs with this module, or with torch: ``hvd`` and ``ones``.
BARE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import bare as hvd
from bare import ones
"""
TORCH = """
import hora.torch as hvd
from torch import ones
"""

__all__ = [
    "BARE", "TORCH", "HoraError", "Max", "NotInitializedError", "PeerFailedError", "Sum", "Tensor",
    "allreduce_", "allreduce_async_", "cross_rank", "cross_size", "full", "init", "is_initialized",
    "local_rank", "local_size", "ones", "rank", "shutdown", "size", "synchronize",
]  # fmt: skip

Max = ReduceOp.MAX
Sum = ReduceOp.SUM


class Tensor:
    """Numbers in a row; as the engine sees it, a contiguous tensor on the CPU."""

    dtype = "torch.float32"
    layout = "torch.strided"
    device = SimpleNamespace(type="cpu", index=None)

    def __init__(self, values: array[float]) -> None:
        self._values = values
        self.shape = [len(values)]

    def __len__(self) -> int:
        return len(self._values)

    def data_ptr(self) -> int:
        """Where the numbers lie; they never move."""
        return self._values.buffer_info()[0]

    def is_contiguous(self) -> bool:
        """Always."""
        return True

    def tolist(self) -> list[float]:
        """The numbers."""
        return self._values.tolist()


def full(count: int, value: float) -> Tensor:
    """So many times this number."""
    return Tensor(array("f", [value]) * count)


def ones(count: int) -> Tensor:
    """So many ones."""
    return full(count, 1.0)


def allreduce_async_(tensor: Tensor, name: str, op: ReduceOp) -> _core.Handle:
    """As of ``hora.torch``. Raises UsageError for what cannot work."""
    return _core.submit(_core.ALLREDUCE, name, tensor, tensor, reduce_op=int(op))


def allreduce_(tensor: Tensor, name: str, op: ReduceOp = Sum) -> Tensor:
    """As of ``hora.torch``, but for the default of ``op``. Raises the operation's error."""
    synchronize(allreduce_async_(tensor, name, op))
    return tensor


def synchronize(handle: _core.Handle) -> None:
    """Blocks until the operation is done; raises its error."""
    handle.wait()
