"""The C++ engine of this process. Users see it through ``hora.torch``."""

from __future__ import annotations

from typing import Any

# OpKind
ALLREDUCE: int
ALLGATHER: int
BROADCAST: int
BARRIER: int

# ReduceOp, with Horovod's numbers
AVERAGE: int
SUM: int
MIN: int
MAX: int
PRODUCT: int

__version__: str

class Handle:
    """One submitted operation; completes exactly once."""

    name: str
    def done(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> None:
        """Blocks (working on the engine's behalf) until done; raises the operation's error.

        ``timeout`` in seconds raises ``WaitTimeoutError`` and leaves the operation running.
        Ctrl-C is honoured. May be called again after completion.
        """
    def gathered(self) -> Gathered:
        """The result of a finished allgather; once."""

class Gathered:
    """Bytes of all ranks in rank order, owned by C++ until the last tensor over them is gone."""

    first_dims: list[int]  # rows of every rank
    nbytes: int
    def __dlpack__(self, **kwargs: Any) -> Any:
        """A one-dimensional uint8 tensor; view it as the dtype that was gathered."""
    def __dlpack_device__(self) -> tuple[int, int]: ...

class Topology:
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    def __init__(
        self,
        rank: int,
        size: int,
        local_rank: int,
        local_size: int,
        cross_rank: int,
        cross_size: int,
    ) -> None: ...

def init(topology: Topology, rendezvous: str, key: bytes, listen_fd: int) -> None:
    """Starts the engine; blocks until all ranks are there (HORA_START_TIMEOUT_SECONDS).

    ``listen_fd`` is -1 on every rank but 0. A failure leaves the process as before: try again.
    """

def shutdown() -> None:
    """Leaves the group; open handles get ``ShutDownError``. Does nothing when not initialised."""

def abort(message: str) -> None:
    """Ends the group for all ranks with ``PeerFailedError(message)``: this rank is failing."""

def is_initialized() -> bool: ...
def topology() -> Topology:
    """Raises ``NotInitializedError``."""

def submit(
    kind: int,
    name: str,
    input: Any | None,
    output: Any | None,
    reduce_op: int = ...,
    root_rank: int = -1,
    prescale: float = 1.0,
    postscale: float = 1.0,
) -> Handle:
    """Submits dense contiguous CPU tensors; they are kept alive until the operation is done.

    ``output`` may be ``input``. allgather takes none (see ``Handle.gathered``), nor does barrier.
    Raises ``UsageError`` for what cannot work, ``NotInitializedError``.
    """

def run(
    kind: int,
    name: str,
    input: Any | None,
    output: Any | None,
    reduce_op: int = ...,
    root_rank: int = -1,
    prescale: float = 1.0,
    postscale: float = 1.0,
) -> Handle:
    """``submit`` and ``wait`` in one call: the shortest way through."""

def metrics() -> dict[str, int]:
    """Counters since init: submitted, submitted_bytes, agreed, completed, failed, batches, …."""
