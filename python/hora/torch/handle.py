"""What an asynchronous operation returns: ask whether it is done, wait for its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import torch

from hora import _core
from hora.errors import HoraError, UsageError
from hora.ops import NameRing

__all__ = ["Handle", "poll", "synchronize", "wait_all"]


class Handle:
    """One operation under way; keeps its tensors alive until it is done.

    Any thread may call. ``wait`` may be called again, and gives the same tensor (or error).
    """

    __slots__ = ("__weakref__", "_core", "_finish", "_lock", "_result", "_ring", "_slot")

    def __init__(
        self,
        core: _core.Handle,
        result: torch.Tensor | None,
        finish: Callable[[], torch.Tensor] | None = None,
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

    def wait(self, timeout: float | None = None) -> torch.Tensor | None:
        """Blocks until the operation is done; returns its result (None for a barrier).

        Raises the operation's error, or ``WaitTimeoutError`` after ``timeout`` seconds; the
        operation then goes on, and may be waited for again.
        """
        if timeout is not None and not _is_duration(timeout):
            raise UsageError(
                f"timeout={timeout!r} is not a number of seconds, 0 or more (None waits until done)"
            )
        try:
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
        return self._result

    def __repr__(self) -> str:
        return f"<Handle '{self.name}' {'done' if self.done() else 'under way'}>"


def _is_duration(seconds: object) -> bool:
    return hasattr(seconds, "__float__") and float(seconds) >= 0  # false for NaN


def _checked(handle: Handle) -> Handle:
    if not isinstance(handle, Handle):
        raise UsageError(
            f"a Handle is needed, as the operations that end in _async return, not "
            f"{type(handle).__name__}"
        )
    return handle


def poll(handle: Handle) -> bool:
    """Whether ``synchronize(handle)`` would not block."""
    return _checked(handle).done()


def synchronize(handle: Handle) -> torch.Tensor | None:
    """Waits for an asynchronous operation; returns its result, or raises its error."""
    return _checked(handle).wait()


def wait_all(handles: Iterable[Handle]) -> None:
    """Waits for every handle, and only then raises the first error, if there was one."""
    first: HoraError | None = None
    for handle in handles:
        try:
            handle.wait()
        except HoraError as error:
            first = first or error
    if first is not None:
        raise first
