"""What ranks that wait to meet are told of one that ended: it will not come."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping

from hora.errors import HoraError
from hora.launch.bootstrap_pipe import JobIdentity
from hora.launch.store import tell_ranks

_LIMIT_S = 3.0
# For ranks that fail alike, such as those who gave up at the same time: each knows more of why.
_PAUSE_S = 1.0


class PeerNotice:
    """Owns a thread, from the first rank that failed on. Main thread only.

    Told at the store, or where rank 0 of this host listens, a second later or at ``close``; who has
    met the others, or cannot be reached, hears nothing of it. What the rank itself has said is
    more, and has come before.
    """

    def __init__(self, identity: JobIdentity, size: int, environ: Mapping[str, str]) -> None:
        self._identity = identity
        self._size = size
        self._environ = environ
        self._thread: threading.Thread | None = None
        self._no_pause = threading.Event()

    def send(self, rank: int, exit_code: int) -> None:
        """Does not block; only the first call does something."""
        if self._thread or self._size == 1:
            return
        how = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
        problem = f"rank {rank} on {os.uname().nodename} ended before all ranks had met ({how})"
        self._thread = threading.Thread(target=self._tell, args=(rank, problem), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits for a store to hear it: its ranks are also on other hosts."""
        self._no_pause.set()
        if self._thread and self._identity.store:
            self._thread.join(_LIMIT_S)

    def _tell(self, rank: int, problem: str) -> None:
        self._no_pause.wait(_PAUSE_S)
        with contextlib.suppress(HoraError, OSError, RuntimeError):
            tell_ranks(self._identity, self._environ, rank, problem)
