"""The life of this process in its group: ``init``, ``shutdown``, what peers learn of a failure.

A process that ends in order says goodbye at exit. One that ends with an uncaught exception tells
the others which, so that their error reads "rank 1 ended with ValueError: …" instead of "rank 1
is gone".
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal

from hora import bootstrap
from hora.errors import HoraError, PeerFailedError, ShutDownError, UsageError
from hora.ops import forget_names, forget_numbers
from hora.settings import marks_cycles, timeline_path

try:
    from hora import _core
except ImportError as error:
    raise ImportError(
        f"hora's C++ engine cannot be loaded ({error}); build it with 'pip install .' in the "
        "source tree, for the Python that runs this script"
    ) from error

# Only now, as they would fail with a worse message.
from hora.process_sets import (
    ProcessSet,
    add_process_sets,
    forget_process_sets,
)

__all__ = [
    "cross_rank",
    "cross_size",
    "init",
    "is_initialized",
    "local_rank",
    "local_size",
    "rank",
    "shutdown",
    "size",
]

_START_TIMEOUT = "HORA_START_TIMEOUT_SECONDS"
_REASON_LIMIT = 300  # characters of an exception's message that peers are told

_lock = threading.Lock()
_watching_exit = False
_failure: str | None = None


def init(
    comm: Iterable[int] | Any = None,
    process_sets: Iterable[ProcessSet] | Literal["dynamic"] | None = None,
) -> None:
    """Joins the group of ranks that the launcher started; blocks until all of them are here.

    Started without a launcher, the group is this process alone. When already initialised, it only
    adds those ``process_sets`` that are not registered. A failure (``HoraError``: ranks missing, a
    bad variable, ranks that disagree, …) leaves the process as before, and ``init`` may be tried
    again. Waits at most ``HORA_START_TIMEOUT_SECONDS`` (default 30).

    Args:
        comm: None, or all ranks (also as an mpi4py communicator). For some of them, make a process
            set.
        process_sets: sets to register at once, the same on all ranks. ``"dynamic"`` is Horovod's
            word for allowing ``add_process_set`` later, which is always allowed here.
    """
    sets = [] if process_sets is None or process_sets == "dynamic" else list(process_sets)
    with _lock:
        is_new = not _core.is_initialized()
        if is_new:
            _join(comm)
        try:
            trace = timeline_path(os.environ, _core.topology().rank) if is_new else None
            if trace is not None:
                _core.start_timeline(str(trace), marks_cycles(os.environ))
            if new_sets := [one for one in sets if getattr(one, "process_set_id", None) is None]:
                add_process_sets(new_sets)
        except BaseException:
            if is_new:
                _leave_group()
            raise


def _join(comm: Iterable[int] | Any) -> None:
    try:
        timeout = _start_timeout()
    except UsageError as error:
        bootstrap.cannot_join(str(error))
        raise
    place = bootstrap.detect(os.environ, timeout=timeout)
    _check_comm(comm, place.size)
    if place.store and (problem := _core.settings_problem()):
        bootstrap.cannot_join(problem, place)  # init raises it
    topology = _core.Topology(
        place.rank,
        place.size,
        place.local_rank,
        place.local_size,
        place.cross_rank,
        place.cross_size,
    )
    listen_fd = -1 if place.listen_fd is None else place.listen_fd
    try:
        _core.init(
            topology,
            place.rendezvous,
            bytes(place.key),
            listen_fd,
            store=place.store,
            job_id=place.job_id,
            interfaces=list(place.interfaces),
        )
    except PeerFailedError as error:
        if problem := bootstrap.problem_of_another():
            raise UsageError(problem) from error
        raise
    bootstrap.have_met()
    forget_names()
    _watch_exit()


def _check_comm(comm: Iterable[int] | Any, size: int) -> None:
    if comm is None:
        return
    if hasattr(comm, "Get_size"):  # an mpi4py communicator
        if comm.Get_size() == size:
            return
        given = f"a communicator of {comm.Get_size()} ranks"
    else:
        ranks = sorted(comm)
        if ranks in ([], list(range(size))):
            return
        given = str(ranks)
    raise UsageError(
        f"comm is {given}, but the group is always made of all {size} ranks that were started: "
        "start fewer, or call init() and make a process set with hvd.add_process_set(ranks)"
    )


def _leave_group() -> None:
    if _core.is_initialized():
        forget_numbers()
    _core.shutdown()
    forget_process_sets()


def shutdown() -> None:
    """Leaves the group; open operations of this rank end with ``ShutDownError``.

    Does nothing when not initialised. Process sets are no longer registered. ``init`` may follow.
    """
    with _lock:
        _leave_group()


def is_initialized() -> bool:
    """Whether this process is a member of a group."""
    return _core.is_initialized()


def rank() -> int:
    """This process's number in the group, 0 … size-1. Raises ``NotInitializedError``."""
    return _core.topology().rank


def size() -> int:
    """How many ranks the group has. Raises ``NotInitializedError``."""
    return _core.topology().size


def local_rank() -> int:
    """This process's number among the ranks of its host. Raises ``NotInitializedError``."""
    return _core.topology().local_rank


def local_size() -> int:
    """How many ranks this host has. Raises ``NotInitializedError``."""
    return _core.topology().local_size


def cross_rank() -> int:
    """This host's number among those that have this local rank. Raises ``NotInitializedError``."""
    return _core.topology().cross_rank


def cross_size() -> int:
    """How many hosts have this local rank. Raises ``NotInitializedError``."""
    return _core.topology().cross_size


# A graph of torch.compile belongs to the group that there was when it was made: these are numbers
# in it. This is what torch.compiler.assume_constant_result sets; calling it would import torch.
for _function in (rank, size, local_rank, local_size, cross_rank, cross_size):
    _function._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _start_timeout() -> float:
    text = os.environ.get(_START_TIMEOUT, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86400:
        raise UsageError(f"{_START_TIMEOUT}={text!r} is not a number of seconds up to 86400")
    return seconds


def _watch_exit() -> None:
    """Registers what happens at exit; once, however often the process joins and leaves."""
    global _watching_exit  # noqa: PLW0603
    if _watching_exit:
        return
    _watching_exit = True
    previous = sys.excepthook

    def remember(
        kind: type[BaseException], value: BaseException, trace: TracebackType | None
    ) -> None:
        # Whatever happens in between, a second Ctrl-C above all, the user sees the first error.
        with contextlib.suppress(BaseException):
            _note_failure(kind, value)
        previous(kind, value, trace)

    sys.excepthook = remember
    atexit.register(_leave, os.getpid())


def _note_failure(kind: type[BaseException], value: BaseException) -> None:
    global _failure  # noqa: PLW0603
    if hasattr(sys, "ps1") or not _core.is_initialized():
        return  # at an interactive prompt an exception does not end the process
    if issubclass(kind, (PeerFailedError, ShutDownError)):
        return  # the others know the cause; this rank is only a consequence
    _failure = f"rank {rank()} ended with {kind.__name__}"  # at least, should str() fail
    text = " ".join(str(value).split())[:_REASON_LIMIT]
    if text:
        _failure += f": {text}"


def _leave(owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return  # a forked child that runs its parent's exit functions
    try:
        if _failure is not None:
            _core.abort(_failure)
        _core.shutdown()
    except HoraError as error:
        print(f"hora: while leaving the group: {error}", file=sys.stderr)
