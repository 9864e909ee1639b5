"""What an asynchronous operation returns: ask whether it is done, wait for its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, cast

import torch
from typing_extensions import TypeVar

from hora import _core
from hora.errors import HoraError, UsageError
from hora.ops import NameRing
from hora.torch.profiling import profiled

__all__ = ["Handle", "PreparedHandle", "poll", "synchronize", "wait_all"]

T = TypeVar("T", default=torch.Tensor)
U = TypeVar("U")


class Handle(_core.Handle, Generic[T]):
    """One operation under way; keeps its tensors alive until it is done.

    Its result is a tensor, of a grouped operation a list of tensors, of an alltoall a pair. Any
    thread may call. ``wait`` may be called again, and gives the same result (or error). Calling the
    handle is the same as ``wait()``.

    Tensors on a GPU are worked on in the order of streams, as by any function of PyTorch. The
    operation comes after what the current stream had got when it was submitted. ``wait`` blocks the
    host until the ranks agree and the work is on its way, not until the GPU has done it; what the
    current stream gets from then on comes after the operation. So results can be used at once, on
    the stream where ``wait`` was called; another stream waits for that one, or calls ``wait``, too.
    The tensors may be dropped at any time: their memory is not given out before the GPU is past it.
    """

    # What every operation needs is in C++, for a handle must cost less than a small operation.
    __slots__ = ()

    if TYPE_CHECKING:
        name: str
        """The name under which ranks meet for this operation."""

        def done(self) -> bool:
            """Whether ``wait`` would not block, and a GPU is through with the work, too."""

        poll = done

        def wait(self, timeout: float | None = None) -> T:
            """Blocks until the operation is done; returns its result.

            On a GPU: until it is on its way there, before what the current stream gets next.

            Raises the operation's error, or ``WaitTimeoutError`` after ``timeout`` seconds; the
            operation then goes on, and may be waited for again.
            """

        def __call__(self) -> T:
            """The same as ``wait()``."""

    def then(self, make: Callable[[T], U]) -> Handle[U]:
        """Another handle on this operation, with the result that ``make`` makes of this one's."""
        return PreparedHandle(self, None, lambda: make(self.wait()))

    def __repr__(self) -> str:
        return f"<Handle '{self.name}' {'done' if self.done() else 'under way'}>"


class PreparedHandle(Handle[T]):
    """A handle whose result is made when the operation is done, or whose name is out of a ring."""

    __slots__ = ("_finish", "_finished", "_lock", "_ring", "_slot", "_submitted")

    def __new__(  # noqa: D102 - the class says it
        cls,
        submitted: _core.Handle,
        result: T | None,
        finish: Callable[[], T] | None = None,
        ring: NameRing | None = None,
        slot: int = -1,
    ) -> PreparedHandle[T]:
        return super().__new__(cls, submitted, result)

    def __init__(
        self,
        submitted: _core.Handle,
        result: T | None,
        finish: Callable[[], T] | None = None,
        ring: NameRing | None = None,
        slot: int = -1,
    ) -> None:
        self._submitted = submitted
        self._finish = finish  # makes the result from what the engine delivered; runs once
        self._finished: T | None = None
        self._lock = None if finish is None else threading.Lock()
        self._ring = ring
        self._slot = slot
        if ring is not None:
            ring.occupy(slot, submitted)

    def wait(self, timeout: float | None = None) -> T:
        """As for every handle."""
        try:
            with profiled("wait", self.name):
                result = super().wait(timeout)
        finally:
            if self._ring is not None and self.completed():
                self._ring.vacate(self._slot, self._submitted)
                self._ring = None
        if self._lock is None:
            return result
        with self._lock:
            if self._finish is not None:
                self._finished = self._finish()
                self._finish = None
        return cast(T, self._finished)


def _checked(handle: Handle[T]) -> Handle[T]:
    if not isinstance(handle, Handle):
        raise UsageError(
            f"a Handle is needed, as the operations that end in _async return, not "
            f"{type(handle).__name__}"
        )
    return handle


def poll(handle: Handle[Any]) -> bool:
    """Whether ``synchronize(handle)`` would not block, and a GPU is through with the work, too."""
    return _checked(handle).done()


def synchronize(handle: Handle[T]) -> T:
    """Waits for an asynchronous operation; returns its result, or raises its error.

    On a GPU the current stream waits, and not the host: see ``Handle``.
    """
    return handle.wait() if isinstance(handle, Handle) else _checked(handle).wait()


def wait_all(handles: Iterable[Handle[Any]]) -> None:
    """Waits for every handle, and only then raises the first error, if there was one."""
    first: HoraError | None = None
    for handle in handles:
        try:
            handle.wait()
        except HoraError as error:
            first = first or error
    if first is not None:
        raise first
