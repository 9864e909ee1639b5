"""The pipes that the ranks of this host write to, read without blocking as long as wanted."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from functools import partial

from hora.launch.terminal import STDERR, STDOUT

BACKLOG_LIMIT_BYTES = 1 << 20  # what waits to be written elsewhere while no more is read
_READ_BYTES = 64 << 10


class OutputPipes:
    """Owns the read ends. ``data(rank, fd, bytes)`` and ``end(rank, fd)`` get what comes out."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        data: Callable[[int, int, bytes], None],
        end: Callable[[int, int], None],
    ) -> None:
        self._selector = selector
        self._data = data
        self._end = end
        self._open: dict[tuple[int, int], int] = {}  # (rank, fd) → pipe
        self.is_reading = True

    def add(self, rank: int, stdout: int, stderr: int) -> None:
        """Takes over both pipes of a rank."""
        for fd, pipe in ((STDOUT, stdout), (STDERR, stderr)):
            os.set_blocking(pipe, False)
            self._open[rank, fd] = pipe
            if self.is_reading:
                self._register(rank, fd)

    def listen(self, want: bool) -> None:
        """Starts or stops reading; full pipes hold their writers back."""
        if want == self.is_reading:
            return
        self.is_reading = want
        for (rank, fd), pipe in self._open.items():
            if want:
                self._register(rank, fd)
            else:
                self._selector.unregister(pipe)

    def catch_up(self, rank: int) -> None:
        """Reads what an ended rank has left (one read takes all that a pipe can hold)."""
        for fd in (STDOUT, STDERR):
            if (rank, fd) in self._open:
                self._read(rank, fd)

    def finish(self) -> None:
        """Reads what is left and closes; called when no process holds the other ends."""
        for rank, fd in list(self._open):
            while self._read(rank, fd):
                pass
            if (rank, fd) in self._open:
                self._close(rank, fd)

    def _register(self, rank: int, fd: int) -> None:
        action = partial(self._read, rank, fd)
        self._selector.register(self._open[rank, fd], selectors.EVENT_READ, action)

    def _read(self, rank: int, fd: int) -> bool:
        """Returns whether there may be more."""
        pipe = self._open.get((rank, fd))
        if pipe is None:  # closed since it was selected
            return False
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._data(rank, fd, data)
        else:
            self._close(rank, fd)
        return bool(data)

    def _close(self, rank: int, fd: int) -> None:
        pipe = self._open.pop((rank, fd))
        if self.is_reading:
            self._selector.unregister(pipe)
        os.close(pipe)
        self._end(rank, fd)
