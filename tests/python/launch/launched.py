"""A running launcher and the processes below it, watched with deadlines instead of sleeps."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import hora

DEADLINE_S = 20.0
PACKAGE_ROOT = Path(hora.__file__).parents[1]


def environment(**changes: str) -> dict[str, str]:
    """The tests' environment without any launcher's variables."""
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("HORA_", "HOROVOD_", "TORCHELASTIC_"))
    }
    return {**kept, "PYTHONPATH": str(PACKAGE_ROOT), **changes}


def default_signals() -> None:
    """A background shell ignores SIGINT for its children; a user's shell does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass
class Launch:
    """A running launcher whose stdout is read line by line."""

    process: subprocess.Popen[bytes]
    lines: list[str] = field(default_factory=list)
    unread: bytes = b""

    def wait_for(self, count: int, marker: str) -> list[str]:
        """Reads until ``count`` lines contain the marker; returns what follows it in each."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            found = [line.split(marker, 1)[1] for line in self.lines if marker in line]
            if len(found) >= count:
                return found
            left = max(0, deadline - time.monotonic())
            ready, _, _ = select.select([self.process.stdout], [], [], left)
            assert ready, f"no {marker!r} in time; so far: {self.lines}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"output ended without {marker!r}: {self.lines}; {self.end()[1]}"
            *whole, self.unread = (self.unread + data).split(b"\n")
            self.lines += [line.decode() for line in whole]

    def rank_pids(self, size: int) -> list[int]:
        """Waits until every rank has printed ``pid <number>``; returns them by rank."""
        self.wait_for(size, "pid ")
        return [int(self.wait_for(1, f"[{rank}] pid ")[0]) for rank in range(size)]

    def end(self) -> tuple[int, str]:
        """Waits for the end; returns (exit code, stderr)."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        self.lines += (self.unread + out).decode().splitlines()
        self.unread = b""
        return self.process.returncode, err.decode()


def wait_until_gone(pids: list[int]) -> None:
    """Fails unless every process has ended before the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    for pid in pids:
        try:
            watch = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([watch], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"process {pid} is still there"
        finally:
            os.close(watch)


def launcher_processes(outer: int) -> list[int]:
    """The guardian and its only child, the process that runs the job."""
    children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    return [outer, *map(int, children)]
