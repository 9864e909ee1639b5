"""The processes above this one, among them the one with which a launcher started it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOST = 16


@dataclass(frozen=True)
class Ancestor:
    """``name`` is the kernel's, of 15 characters; ``words`` the command line."""

    pid: int
    name: str
    words: tuple[str, ...]


def ancestors() -> Iterator[Ancestor]:
    """From the parent upwards, without the first process of all; ends where /proc tells no more."""
    pid = os.getppid()
    for _ in range(_MOST):
        if pid <= 1:
            return
        process = Path("/proc") / str(pid)
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace")
            name = (process / "comm").read_text().rstrip("\n")
            status = (process / "stat").read_text()
        except OSError:
            return
        yield Ancestor(pid, name, tuple(line.split("\0")))
        pid = int(status.rpartition(")")[2].split()[1])
