"""What an asynchronous operation returns: ask whether it is done, wait for its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, cast

import torch
from typing_extensions import TypeVar

from hora import _core
from hora.errors import HoraError, UsageError
from hora.ops import NameRing
from hora.torch.profiling import profiled, profiling

__all__ = ["Handle", "poll", "synchronize", "wait_all"]

T = TypeVar("T", default=torch.Tensor)
U = TypeVar("U")


class Handle(Generic[T]):
    """One operation under way; keeps its tensors alive until it is done.

    Its result is a tensor, of a grouped operation a list of tensors, of an alltoall a pair. Any
    thread may call. ``wait`` may be called again, and gives the same result (or error). Calling the
    handle is the same as ``wait()``.
    """

    __slots__ = ("__weakref__", "_core", "_finish", "_lock", "_result", "_ring", "_slot")

    def __init__(
        self,
        core: _core.Handle,
        result: T | None,
        finish: Callable[[], T] | None = None,
        ring: NameRing | None = None,
        slot: int = -1,
    ) -> None:
        self._core = core
        self._result = result
        self._finish = finish  # makes the result from what the engine delivered; runs once
        self._lock = None if finish is None else threading.Lock()
        self._ring = ring
        self._slot = slot
        if ring is not None:
            ring.occupy(slot, core)

    @property
    def name(self) -> str:
        """The name under which ranks meet for this operation."""
        return self._core.name

    def done(self) -> bool:
        """Whether ``wait`` would return, or raise, at once."""
        return self._core.done()

    poll = done

    def wait(self, timeout: float | None = None) -> T:
        """Blocks until the operation is done; returns its result.

        Raises the operation's error, or ``WaitTimeoutError`` after ``timeout`` seconds; the
        operation then goes on, and may be waited for again.
        """
        if timeout is not None and not _is_duration(timeout):
            raise UsageError(
                f"timeout={timeout!r} is not a number of seconds, 0 or more (None waits until done)"
            )
        try:
            if profiling():
                with profiled("wait", self._core.name):
                    self._core.wait(timeout)
            else:
                self._core.wait(timeout)
        finally:
            if self._ring is not None and self._core.done():
                self._ring.vacate(self._slot, self._core)
                self._ring = None
        if self._lock is not None:
            with self._lock:
                if self._finish is not None:
                    self._result = self._finish()
                    self._finish = None
        return cast(T, self._result)

    def then(self, make: Callable[[T], U]) -> Handle[U]:
        """Another handle on this operation, with the result that ``make`` makes of this one's."""
        return Handle(self._core, None, lambda: make(self.wait()))

    def __call__(self) -> T:
        """The same as ``wait()``."""
        return self.wait()

    def __repr__(self) -> str:
        return f"<Handle '{self.name}' {'done' if self.done() else 'under way'}>"


def _is_duration(seconds: object) -> bool:
    return hasattr(seconds, "__float__") and float(seconds) >= 0  # false for NaN


def _checked(handle: Handle[T]) -> Handle[T]:
    if not isinstance(handle, Handle):
        raise UsageError(
            f"a Handle is needed, as the operations that end in _async return, not "
            f"{type(handle).__name__}"
        )
    return handle


def poll(handle: Handle[Any]) -> bool:
    """Whether ``synchronize(handle)`` would not block."""
    return _checked(handle).done()


def synchronize(handle: Handle[T]) -> T:
    """Waits for an asynchronous operation; returns its result, or raises its error."""
    return _checked(handle).wait()


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
