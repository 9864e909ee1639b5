"""Rank 0's look at the board while the ranks meet: what somebody leaves there reaches all."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable

from hora.starters.place import Bootstrap, tell_peers

_LOOK_EVERY_S = 0.2
_END_LIMIT_S = 2.0


class ProblemWatch:
    """Owns a thread, until ``close`` or the process's exit.

    It asks ``problem`` ("" for none, any thread) until there is one, and tells the ranks that wait
    at ``place`` to meet. A board that fails is looked at no more.
    """

    def __init__(self, place: Bootstrap, problem: Callable[[], str]) -> None:
        self._place = place
        self._problem = problem
        self._owner = os.getpid()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hora-board", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Nothing in a forked child, which has no such thread."""
        atexit.unregister(self.close)
        self._ended.set()
        if os.getpid() == self._owner:
            self._thread.join(_END_LIMIT_S)

    def _run(self) -> None:
        while True:
            try:
                problem = self._problem()
            except (OSError, RuntimeError):
                return
            if problem:
                tell_peers(self._place, -1, problem)
                return
            if self._ended.wait(_LOOK_EVERY_S):
                return
