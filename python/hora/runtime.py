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
from types import TracebackType

from hora import bootstrap
from hora.errors import HoraError, PeerFailedError, ShutDownError, UsageError
from hora.ops import forget_names

try:
    from hora import _core
except ImportError as error:
    raise ImportError(
        f"hora's C++ engine cannot be loaded ({error}); build it with 'pip install .' in the "
        "source tree, for the Python that runs this script"
    ) from error

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


def init() -> None:
    """Joins the group of ranks that the launcher started; blocks until all of them are here.

    Does nothing when already initialised. Started without a launcher, the group is this process
    alone. A failure (``HoraError``: ranks missing, a bad variable, …) leaves the process as before,
    and ``init`` may be tried again. Waits at most ``HORA_START_TIMEOUT_SECONDS`` (default 30).
    """
    with _lock:
        if _core.is_initialized():
            return
        place = bootstrap.detect(os.environ, timeout=_start_timeout())
        topology = _core.Topology(
            place.rank,
            place.size,
            place.local_rank,
            place.local_size,
            place.cross_rank,
            place.cross_size,
        )
        listen_fd = -1 if place.listen_fd is None else place.listen_fd
        _core.init(topology, place.rendezvous, place.key, listen_fd)
        forget_names()
        _watch_exit()


def shutdown() -> None:
    """Leaves the group; open operations of this rank end with ``ShutDownError``.

    Does nothing when not initialised. ``init`` may follow.
    """
    with _lock:
        _core.shutdown()


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
