"""The C++ engine of this process. Users see it through ``hora.torch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from typing_extensions import Self

_H = TypeVar("_H", bound="Handle")

# OpKind
ALLREDUCE: int
ALLGATHER: int
BROADCAST: int
BARRIER: int
ALLTOALL: int
REDUCESCATTER: int
JOIN: int

# ReduceOp, with Horovod's numbers
AVERAGE: int
SUM: int
ADASUM: int
MIN: int
MAX: int
PRODUCT: int

__version__: str

class Handle:
    """One submitted operation; completes exactly once.

    ``Handle(other, result)`` is the same operation, with another result; so is an object of a
    derived class.
    """

    name: str
    def __new__(cls, other: Handle, result: Any = None) -> Self: ...
    def done(self) -> bool:
        """Whether wait() would not block, and a GPU is past the operation, too."""
    def poll(self) -> bool: ...
    def completed(self) -> bool:
        """Whether wait() would not block."""
    def __call__(self) -> Any: ...
    def wait(self, timeout: float | None = None) -> Any:
        """Blocks (working on the engine's behalf) until completed; raises the operation's error.

        What the current stream of a GPU gets from then on comes after the operation.

        Returns the result: None, or the output of ``try_submit``.

        ``timeout`` in seconds raises ``WaitTimeoutError`` and leaves the operation running.
        Ctrl-C is honoured. May be called again after completion.
        """
    def gathered(self) -> list[Gathered]:
        """The results of a finished allgather or alltoall, one per tensor."""
    def last_joined(self) -> int:
        """The global rank that joined last, of a finished join."""

class Gathered:
    """Bytes of all ranks in rank order, owned by C++ until the last tensor over them is gone."""

    first_dims: list[int]  # rows from every rank of the set; of an alltoall, the received splits
    nbytes: int
    memory: Any  # on a GPU: the tensor that the allocator of set_device_calls gave; else None
    def __dlpack__(self, **kwargs: Any) -> Any:
        """A one-dimensional uint8 tensor; view it as the dtype that was gathered."""
    def __dlpack_device__(self) -> tuple[int, int]: ...

class SymmetricMemory:
    """This rank's slice of memory that all ranks of a set see; lives as long as tensors over it."""

    nbytes: int
    def __dlpack__(self, **kwargs: Any) -> Any:
        """A one-dimensional uint8 tensor over the slice."""
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

def init(
    topology: Topology,
    rendezvous: str,
    key: bytes,
    listen_fd: int,
    store: str = "",
    job_id: str = "",
    interfaces: list[str] = ...,
) -> None:
    """Starts the engine; blocks until all ranks are there (HORA_START_TIMEOUT_SECONDS).

    On one host they meet at ``rendezvous``, where ``listen_fd`` is -1 on every rank but 0; on
    several hosts at the ``store`` ("ip:port"). A failure leaves the process as before: try again.
    """

class StoreServer:
    """Where the ranks of several hosts meet. Listens on ``address`` ("ip:port", 0: any port)."""

    def __init__(self, address: str, job_id: str, key: bytes) -> None: ...
    @property
    def address(self) -> str: ...
    def close(self) -> None:
        """Whoever waits in the store is told that it is gone."""

def settings_problem() -> str:
    """What ``init`` would say of this process's HORA_ variables; "" when they are sound."""

def tell_peers(
    store: str, rendezvous: str, job_id: str, key: bytes, rank: int, problem: str
) -> None:
    """For a rank that will not join (or -1): those who wait at this place fail with ``problem``.

    Blocks for a second or two; tells nobody, silently, where nobody can be reached.
    """

def choose_address(wanted: list[str], towards: str) -> str:
    """The address of this host ("ip:0") on the first of these interfaces and networks that is up.

    Without any, the one from which the kernel speaks to ``towards`` ("ip:port").
    """

def network_interfaces() -> list[tuple[str, str, int, bool]]:
    """Name, address, length of the network's prefix, and whether it is up."""

def describe_plugin(name: str, directory: str) -> str:
    """Opens the plugin "gloo" or "mpi" of this folder: its library's version, in words.

    The library stays open, and a process can open one MPI only (HORA_MPI). Raises ResourceError
    that says what to install.
    """

def shutdown() -> None:
    """Leaves the group; open handles get ``ShutDownError``. Does nothing when not initialised."""

def abort(message: str) -> None:
    """Ends the group for all ranks with ``PeerFailedError(message)``: this rank is failing."""

def is_initialized() -> bool: ...
def topology() -> Topology:
    """Raises ``NotInitializedError``."""

def choose_device(index: int) -> None:
    """The rank works on this GPU from now on; ``submit`` chooses that of its tensors as well.

    Raises ``UsageError`` when it works on another one already or there is none of that number, and
    ``ResourceError`` that says what GPUs need and is missing.
    """

def chosen_device() -> int | None:
    """The GPU that this rank works on; None as long as nobody has chosen."""

def set_device_calls(
    current_stream: Callable[[int], int],
    allocate: Callable[[int, int, int], Any],
    record: Callable[[Any], None],
    empty_cache: Callable[[int], None] | None = None,
) -> None:
    """What the engine needs of PyTorch on GPUs.

    ``current_stream(device)`` is asked where a tensor's class has no DLPack C exchange API.
    ``allocate(device, nbytes, stream)`` makes memory for a result, a tensor of uint8 in the order
    of the stream; it is called on the engine's threads. ``record(tensor)`` says that the current
    stream, another one than at the submission, uses an operand as well. ``empty_cache(device)``
    is called on the engine's threads where memory is short: it gives back what was freed and kept.
    """

def add_process_set(ranks: list[int]) -> int:
    """Makes a process set of ascending global ranks; returns its id, the same on every rank.

    Collective over all ranks, which have made sure that they pass the same ranks; blocks until
    every member can be spoken to. Ids grow and are not used again.
    """

def remove_process_set(process_set: int) -> None:
    """Collective over all ranks; members finish first what they have pending in the set."""

def process_sets() -> dict[int, list[int]]:
    """Global ranks of every set that exists, by id, those without this rank included."""

def symmetric_memory(process_set: int, nbytes: int, what: str) -> SymmetricMemory | None:
    """Memory that all ranks of the set see, zeros; None for no bytes, or with one rank.

    Collective over the set, with the same arguments; ``what`` describes them to people. An error is
    the same on every rank, and the group goes on.
    """

def flush(process_set: int = 0) -> None:
    """Says that nothing more will be submitted for now; what has been need not wait for company."""

def submit(
    kind: int,
    name: str,
    input: Any | list[Any] | None,
    output: Any | list[Any] | None,
    reduce_op: int = ...,
    root_rank: int = -1,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: int = 0,
    splits: list[int] | None = None,
    priority: int = 0,
) -> Handle:
    """Submits dense contiguous tensors; they are kept alive until the operation is done.

    They are all of the CPU or all of one GPU, where the operation comes after what the current
    stream has got so far; there, they are kept alive until the device is past it.

    ``output`` may be ``input``. allgather and alltoall take none (see ``Handle.gathered``), nor do
    barrier and join. Lists of tensors make a grouped allreduce, allgather or reducescatter: one
    operation, one handle. ``root_rank`` is a global rank. ``splits``: alltoall's rows for each rank
    of the set, in its order. A reducescatter's output has the rows that this rank receives: the
    first (rows % size) ranks get one more than the others. Raises ``UsageError`` for what cannot
    work, ``NotInitializedError``.
    """

def run(
    kind: int,
    name: str,
    input: Any | list[Any] | None,
    output: Any | list[Any] | None,
    reduce_op: int = ...,
    root_rank: int = -1,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: int = 0,
    splits: list[int] | None = None,
    priority: int = 0,
) -> Handle:
    """``submit`` and ``wait`` in one call: the shortest way through."""

def metrics() -> dict[str, int]:
    """Counters since init: submitted, submitted_bytes, agreed, completed, failed, batches, …."""

def pending() -> list[tuple[int, str, str, float]]:
    """Operations of this rank that are not done: process set, kind, name, age in seconds."""

def tuning() -> dict[str, int]:
    """In force now: fusion_threshold_bytes, chunk_bytes, small_allreduce_bytes, urgent_bytes."""

def set_log_level(level: str) -> None:
    """One of trace, debug, info, warning, error, off; from now on, on this rank."""

def start_timeline(path: str, mark_cycles: bool = False) -> None:
    """Writes a Chrome trace of this rank's operations to ``path`` until ``stop_timeline``."""

def stop_timeline() -> None:
    """Completes the file; raises ``UsageError`` when none is being written."""

def torch_ops_api() -> int:
    """Where the table of functions is that ``hora/_torch_ops.so`` calls; valid for ever."""

def forget_compiled_names(process_set: int | None = None) -> None:
    """Numbers the unnamed operations of compiled graphs from 0 again, in one process set or all."""

def start_usual(
    kind: int,
    name: str | None,
    input: Any,
    output: Any,
    op: int | None,
    root_rank: int,
    prescale: float,
    postscale: float,
    process_set: Any,
    priority: int,
    /,
) -> Any:
    """The usual submission, of which ``output`` is the result: returns its handle.

    Usual are a name, a plain input, an ``op`` of the enumeration (None: the average) that is not
    Adasum, the set of all ranks, and no profiler. Otherwise, returns None with nothing done. See
    ``set_usual``.
    """

def run_usual(
    kind: int,
    name: str | None,
    input: Any,
    output: Any,
    op: int | None,
    root_rank: int,
    prescale: float,
    postscale: float,
    process_set: Any,
    priority: int,
    /,
) -> bool:
    """``start_usual`` for a caller that waits: whether the operation has been done."""

def set_usual(
    handle_class: type[Handle],
    operators: type[int],
    global_set: object,
    profiling: Callable[[], bool],
    bump: Callable[[tuple[Any]], None],
) -> None:
    """What ``start_usual`` takes and returns; ``bump`` is told of tensors that have changed."""

def try_run(
    kind: int,
    name: str,
    input: Any,
    output: Any,
    reduce_op: int = ...,
    root_rank: int = -1,
    prescale: float = 1.0,
    postscale: float = 1.0,
    process_set: int = 0,
    splits: list[int] | None = None,
    priority: int = 0,
) -> bool:
    """``run`` for one plain tensor; False, with nothing done, when the input is not plain."""

def is_plain(tensor: Any) -> bool:
    """Whether the engine can work on it as it is: numbers in dense row-major memory.

    Subclasses of tensors are not plain, nor are views that negate.
    """

def set_plain_types(*types: type) -> None:
    """Which classes have plain tensors: torch.Tensor and torch.nn.Parameter."""

class GradientCollector:
    """The gradients of one optimizer on their way to the engine, with no Python in between.

    Counts backward passes by its hooks, and submits gradients that are dense and floating, of the
    CPU or a GPU: each by its hook when ``early``, else all by ``submit``. Of others it tells by
    ``on_ready(index)`` (when ``early``) and by leaving them out of ``submit``. A gradient beyond
    ``passes`` goes to ``on_overrun(index)``, which raises; one that cannot be copied into the
    parameter's view to ``on_foreign(index)``.
    """

    early: bool
    reduced: bool  # no gradient has come since the caller set it
    accumulates_only: bool  # passes are not counted
    has_pending: bool  # a gradient has come that has not been forgotten
    def __init__(
        self,
        reduce_op: int,
        prescale: float,
        postscale: float,
        process_set: int,
        passes: int,
        on_ready: Callable[[int], None],
        on_overrun: Callable[[int], None],
        on_foreign: Callable[[int], None],
    ) -> None: ...
    def add(self, parameter: Any, direct: bool) -> None:
        """``direct``: its gradient may be submitted here, by itself and as it is."""
    def hook(self, index: int) -> Callable[[Any], None]:
        """For ``register_post_accumulate_grad_hook``."""
    def set_key(self, index: int, key: str) -> None: ...
    def set_direct(self, index: int, direct: bool) -> None: ...
    def set_view(self, index: int, view: Any) -> None:
        """From now on gradients of this parameter are moved into ``view``."""
    def set_passes(self, passes: int) -> None: ...
    def submit(self) -> int:
        """Submits what has come; returns how many are under way, those taken included."""
    def wait(self) -> None:
        """Blocks until all that was submitted here is completed; Ctrl-C is honoured.

        What the current stream of a GPU gets from then on comes after it.
        """
    def troubles(self) -> list[tuple[int, bool, Exception | None]]:
        """Where something is amiss: index, whether nobody changed the gradient, the error."""
    def gradients(self) -> list[Any]:
        """Those that were reduced here."""
    def take(self, index: int) -> None:
        """Says that the caller is reducing this one."""
    def is_under_way(self, index: int) -> bool: ...
    def passes_left(self, index: int) -> int: ...
    def forget(self) -> None:
        """All gradients may be computed anew."""
    def start_over(self) -> None:
        """Those may that are not under way."""
