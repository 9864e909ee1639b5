"""The outer of the launcher's two processes: it watches the inner one and cleans up after it.

The guardian is the process the user sees and signals. It holds one end of a pipe (the lifeline):
when the guardian is killed, even by SIGKILL, the inner process reads end of file and ends the job.
When the inner process is killed, the kernel ends the ranks (parent-death signal), and the guardian,
being the next subreaper up, adopts and ends what they leave behind.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection

from hora.launch.process_tree import become_subreaper, descendants, kill_descendants
from hora.launch.signals import launcher_signals

_CLEANUP_DEADLINE_S = 10.0
_EXIT_SOFTWARE = 70  # sysexits.h: an error in the launcher itself


def guarded(work: Callable[[int], int]) -> int:
    """Runs ``work(lifeline_fd)`` in a child and returns its exit code, or 128 + n for a signal.

    SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed on. The child is in a session of its
    own, so that a terminal's Ctrl-C reaches it once, through here.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _open_standard_descriptors()
    spare = frozenset(descendants(os.getpid()))  # `sleep 9 & exec horarun …`: not ours to end
    become_subreaper()
    watched = launcher_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    lifeline_read, lifeline_write = os.pipe()
    inner = os.fork()
    if inner == 0:
        os.close(lifeline_write)
        _run_inner(work, lifeline_read)
    os.close(lifeline_read)
    return _watch(inner, watched, spare)


def _run_inner(work: Callable[[int], int], lifeline: int) -> None:
    code = _EXIT_SOFTWARE
    try:
        os.setsid()
        become_subreaper()
        code = work(lifeline)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _watch(inner: int, watched: Collection[signal.Signals], spare: Collection[int]) -> int:
    while True:
        signum = signal.sigwait(watched)
        if signum != signal.SIGCHLD:
            os.kill(inner, signum)  # a zombie at worst: only the wait below frees the number
            continue
        pid, status = os.waitpid(inner, os.WNOHANG)
        if pid == inner:
            break
    code = os.waitstatus_to_exitcode(status)
    if code >= 0 and code != _EXIT_SOFTWARE:
        return code
    if code < 0:
        name = signal.Signals(-code).name
        print(f"hora: the launcher was ended by {name}; ending its ranks", file=sys.stderr)
    left = kill_descendants(spare, _CLEANUP_DEADLINE_S)
    if left:
        print(f"hora: could not end processes {left}", file=sys.stderr)
    return 128 - code if code < 0 else code


def _open_standard_descriptors() -> None:
    """Gives 0, 1 and 2 to /dev/null where they are closed, lest a pipe of ours get the number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)
