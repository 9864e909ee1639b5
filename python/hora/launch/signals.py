"""Signals as events: each one that arrives becomes a byte that a selector can wait for."""

from __future__ import annotations

import os
import signal
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)


def launcher_signals() -> set[signal.Signals]:
    """What a launcher acts on; what nohup or a background shell ignored stays ignored."""
    wanted = {*ENDING, *PASSED_ON}
    return {s for s in wanted if signal.getsignal(s) is not signal.SIG_IGN} | {signal.SIGCHLD}


class SignalPipe:
    """Owns the process's wakeup descriptor; main thread only; ``read`` never blocks."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        watched = launcher_signals()
        for signum in watched:
            signal.signal(signum, _nothing)
        # The guardian forked this process with them blocked, so that none was lost until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)

    def fileno(self) -> int:
        """For ``selectors``."""
        return self._read_end

    def read(self) -> list[int]:
        """The numbers of the signals that arrived since the last call, in order."""
        try:
            return list(os.read(self._read_end, 4096))
        except BlockingIOError:
            return []


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """A handler has to exist for the wakeup descriptor to be written."""
