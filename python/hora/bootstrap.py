"""How a rank finds out who it is: its rank, the world size and where its peers meet.

What is tried, in this order:

1. ``HORA_BOOTSTRAP_FD``: ``horarun`` left one JSON document in an inherited pipe;
2. torchrun's variables (``RANK``, ``WORLD_SIZE``, …), with the rest agreed on through its store;
3. the variables of mpirun (Open MPI's, then MPICH's) and of srun, with the rest agreed on in files;
4. none of them: a single process, size 1.

The answer is remembered for the life of the process, so init → shutdown → init works although the
pipe can be read only once. Whoever uses ``Bootstrap.listen_fd`` must therefore ``dup`` it before
closing. Torch is imported only in case 2, and only with more than one rank.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping

from hora.errors import UsageError
from hora.launch.secret_file import VARIABLE as SECRET_FILE
from hora.starters import mpi, pipe, slurm, torchrun
from hora.starters.file_board import FOLDER, FileBoard
from hora.starters.meeting import Kept, meet
from hora.starters.pipe import DOCUMENT_VERSION
from hora.starters.place import (
    MAX_SIZE,
    Bootstrap,
    Position,
    alone,
    open_listener,
    tell_peers,
)
from hora.starters.siblings import Siblings

__all__ = [
    "DOCUMENT_VERSION", "MAX_SIZE", "Bootstrap", "cannot_join", "detect", "have_met",
    "open_listener", "problem_of_another",
]  # fmt: skip

_JOB_ID = "HORA_JOB_ID"
_SOURCES = (
    pipe.VARIABLE, pipe.LAUNCHER, _JOB_ID, FOLDER, SECRET_FILE,
    *torchrun.SOURCES, *mpi.SOURCES, *slurm.SOURCES,
)  # fmt: skip
_POSITIONS: dict[str, Callable[[Mapping[str, str]], Position]] = {
    "openmpi": mpi.open_mpi_position,
    "mpich": mpi.mpich_position,
    "slurm": slurm.slurm_position,
}
_PIPE_LIMIT_S = 1.0
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

_remembered: dict[tuple[object, ...], tuple[Bootstrap, Kept | None]] = {}
_lock = threading.Lock()


def detect(environ: Mapping[str, str] = os.environ, *, timeout: float) -> Bootstrap:
    """Returns this process's place in the job; waits at most ``timeout`` seconds for its peers.

    Raises UsageError when a variable has no sensible value (named with its value and the allowed
    range) and HoraError when the launcher or rank 0 does not answer in time. Peers that can be
    reached then hear why this process does not come.
    """
    with _lock:
        # The process id is part of the key: a forked child is not the rank its parent is.
        identity = (os.getpid(), *(environ.get(name) for name in _SOURCES))
        if identity not in _remembered:
            _remembered[identity] = _detect(environ, timeout)
        return _remembered[identity][0]


def have_met() -> None:
    """Says that all ranks are there: files through which they found each other may go."""
    with _lock:
        for _, kept in _remembered.values():
            if kept:
                kept.have_met()


def cannot_join(problem: str, place: Bootstrap | None = None) -> None:
    """Tells the other ranks, as far as they can be reached, why this process does not join them.

    ``place`` is what ``detect`` returned, if it did. Blocks for a few seconds at most; raises
    nothing.
    """
    environ = os.environ
    text = f"a process on {socket.gethostname()} cannot join: {problem}"
    with contextlib.suppress(OSError, RuntimeError, ImportError):
        if place is None and pipe.VARIABLE in environ:
            place = detect(environ, timeout=_PIPE_LIMIT_S)
        if place is not None:
            text = f"rank {place.rank} on {socket.gethostname()} cannot join: {problem}"
            for found, kept in list(_remembered.values()):
                if found is place and kept:
                    kept.leave_problem(text)
            tell_peers(place, place.rank, text)
        elif torchrun.is_torchrun(environ):
            torchrun.leave_problem(environ, text)
        else:
            _leave_note(environ, text)


def problem_of_another() -> str:
    """Why some rank does not join, as it has left it where all agreed; "" when none has.

    For those whose rank 0 has heard it and ended, before it could tell them. Raises nothing.
    """
    with _lock:
        for _, kept in _remembered.values():
            with contextlib.suppress(OSError, RuntimeError):
                if kept and (problem := kept.problem()):
                    return problem
    return ""


def _detect(environ: Mapping[str, str], timeout: float) -> tuple[Bootstrap, Kept | None]:
    """Returns the bootstrap and what has to stay alive with it (the store that rank 0 hosts)."""
    if pipe.VARIABLE in environ:
        return pipe.from_pipe(environ[pipe.VARIABLE], timeout), None
    if not torchrun.is_below_torchrun(environ):
        pipe.check_given(environ, torchrun.PLACE)
    if torchrun.is_torchrun(environ):
        return torchrun.from_torchrun(environ, timeout)
    try:
        launcher = _scheduler(environ)
        if launcher is None:
            return alone("none"), None
        position = _POSITIONS[launcher](environ)
        if position.size == 1:
            return alone(launcher), None
        job = _job_name(launcher, environ)
        siblings = Siblings.of_daemon()
        board = FileBoard(job, environ, timeout, siblings.problem)
        if launcher == "slurm" and _JOB_ID not in environ:  # in a step, there is no other job
            siblings.check(f"job {job} in {environ.get(FOLDER, 'the home directory')}")
    except UsageError as error:
        _leave_note(environ, f"a process on {socket.gethostname()} cannot join: {error}")
        raise
    return _through_files(position, board, siblings, environ)


def _scheduler(environ: Mapping[str, str]) -> str | None:
    """Which launcher without a pipe or store started this process."""
    if mpi.is_open_mpi(environ):
        return "openmpi"
    if mpi.is_mpich(environ):
        return "mpich"
    return "slurm" if slurm.is_step(environ) else None


def _through_files(
    position: Position, board: FileBoard, siblings: Siblings, environ: Mapping[str, str]
) -> tuple[Bootstrap, Kept]:
    try:
        return meet(position, board, siblings, environ)
    except BaseException:
        # Rank 0's file says why; it must be there until the others have read it, at exit at last.
        if position.rank != 0:
            board.clear()
            siblings.clear()
        raise


def _leave_note(environ: Mapping[str, str], text: str) -> None:
    """Wherever the others may look; where it cannot be left, they are not told."""
    Siblings.of_daemon().leave_problem(text)
    for told in (environ, slurm.by_second_names(environ), mpi.by_second_names(environ)):
        found = dict(told)
        if not _is_job_id(found.get(_JOB_ID)):  # the others may have none, but what launchers say
            del found[_JOB_ID]
        with contextlib.suppress(OSError, RuntimeError):
            board = FileBoard(_job_name(_likely_launcher(found), found), found, 0)
            if not board.problem():
                board.leave_problem(text)
            board.clear()


def _likely_launcher(environ: Mapping[str, str]) -> str:
    """As ``_scheduler``, whatever is missing or garbage. Raises UsageError for none."""
    if mpi.is_open_mpi(environ):
        return "openmpi"
    if mpi.is_mpich(environ):
        return "mpich"
    if slurm.is_perhaps_step(environ):
        return "slurm"
    raise UsageError("neither mpirun nor srun has started this process")


def _is_job_id(word: str | None) -> bool:
    return word is None or (0 < len(word) <= 64 and not set(word) - _WORD)


def _job_name(launcher: str, environ: Mapping[str, str]) -> str:
    given = environ.get(_JOB_ID)
    if given is not None:
        if not _is_job_id(given):
            raise UsageError(f"{_JOB_ID}={given!r} is not 1 to 64 letters, digits, - and _")
        return f"{launcher}-{given}"
    if launcher == "openmpi":
        return mpi.open_mpi_job(environ)
    if launcher == "mpich":
        return mpi.mpich_job()
    return slurm.slurm_job(environ)
