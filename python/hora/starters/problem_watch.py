"""A look at the board while the ranks meet: what somebody leaves there reaches all."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

from hora.starters.place import Bootstrap, tell_peers

_LOOK_EVERY_S = 0.2
_END_LIMIT_S = 2.0
_LATE_S = 5.0
_LINGER_S = 1.0


class ProblemWatch:
    """Owns a thread, until ``close`` or the process's exit.

    It asks ``problem`` ("" for none, any thread) until there is one, and tells the ranks that wait
    at ``place`` to meet, for some seconds: who comes late must hear it, too, or be turned away, to
    find it where this thread has. For the same reason the way to ``place`` is first taken down by
    ``withdraw``, and a process that hosts it stays for a second: somebody may be on that way.
    A board that fails is looked at no more.
    """

    def __init__(
        self, place: Bootstrap, problem: Callable[[], str], withdraw: Callable[[], None]
    ) -> None:
        self._place = place
        self._problem = problem
        self._withdraw = withdraw
        self._told_at = 0.0
        self._owner = os.getpid()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hora-board", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def close(self) -> None:
        """Nothing in a forked child, which has no such thread."""
        atexit.unregister(self._close_at_exit)
        self._ended.set()
        if os.getpid() == self._owner:
            self._thread.join(_END_LIMIT_S)

    def _close_at_exit(self) -> None:
        if self._told_at and self._place.rank == 0 and os.getpid() == self._owner:
            time.sleep(max(0.0, self._told_at + _LINGER_S - time.monotonic()))
        self.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                problem = self._problem()
            except (OSError, RuntimeError):
                return
            if problem:
                self._tell_all(problem)
                return
            self._ended.wait(_LOOK_EVERY_S)

    def _tell_all(self, problem: str) -> None:
        """Those who wait to meet, and those who come to do so after they have given up."""
        self._told_at = time.monotonic()
        deadline = self._told_at + _LATE_S
        self._withdraw()
        while True:
            tell_peers(self._place, -1, problem)
            if self._ended.wait(_LOOK_EVERY_S) or time.monotonic() >= deadline:
                return
            self._hang_up()

    def _hang_up(self) -> None:
        """On this host, nobody but rank 0 listens, and it listens no more."""
        if self._place.listen_fd is None:
            return
        with (
            contextlib.suppress(OSError),  # nobody is there, or it is closed
            socket.socket(fileno=os.dup(self._place.listen_fd)) as listener,
        ):
            listener.setblocking(False)
            while True:
                listener.accept()[0].close()
