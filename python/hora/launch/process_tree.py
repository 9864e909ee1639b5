"""Linux's own means against orphans: subreaper, parent-death signal, and a walk over /proc.

A process that calls ``become_subreaper`` adopts every descendant whose parent dies, so that
"no child is left" (ECHILD) means "no descendant is left", whatever sessions or process groups they
made for themselves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections import defaultdict
from collections.abc import Collection

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Loaded now, not between fork and exec, where only async-signal-safe work is wise.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def become_subreaper() -> None:
    """Makes this process the parent of descendants that lose theirs."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int, signum: signal.Signals = signal.SIGKILL) -> None:
    """Called between fork and exec: the kernel sends ``signum`` here when ``parent`` ends."""
    _prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request reached the kernel
        os._exit(128 + signum)


def descendants(root: int, spare: Collection[int] = ()) -> list[int]:
    """Process ids of everything below ``root``, parents first, leaving out ``spare``'s subtrees."""
    children = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    # The command name may hold spaces and brackets; ppid is 2 words after its end.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended meanwhile
            children[parent].append(int(entry))
    found: list[int] = []
    front = [root]
    while front:
        front = [pid for parent in front for pid in children[parent] if pid not in spare]
        found += front
    return found


def signal_processes(pids: Collection[int], signum: int) -> None:
    """Sends ``signum`` to each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            pass


def reap_children() -> tuple[list[tuple[int, int]], bool]:
    """Returns ([(pid, wait status)] of the children that ended, whether any child is left)."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended.append((pid, status))


def kill_descendants(spare: Collection[int], deadline_s: float) -> list[int]:
    """Kills and reaps everything below this process; returns what is left after ``deadline_s``.

    SIGCHLD must be blocked in the caller: each death is a reason to look again, because a process
    may have forked between the look and the kill.
    """
    deadline = time.monotonic() + deadline_s
    while left := descendants(os.getpid(), spare):
        signal_processes(left, signal.SIGKILL)
        reap_children()
        wait_s = deadline - time.monotonic()
        if wait_s <= 0:
            break
        if descendants(os.getpid(), spare):
            signal.sigtimedwait({signal.SIGCHLD}, wait_s)
    return left
