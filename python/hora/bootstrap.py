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

import os
import threading
from collections.abc import Mapping

from hora.errors import UsageError
from hora.starters import mpi, pipe, slurm, torchrun
from hora.starters.file_board import FOLDER, FileBoard
from hora.starters.meeting import SECRET_FILE, meet
from hora.starters.pipe import DOCUMENT_VERSION
from hora.starters.place import MAX_SIZE, Bootstrap, Position, alone, open_listener

__all__ = ["DOCUMENT_VERSION", "MAX_SIZE", "Bootstrap", "detect", "have_met", "open_listener"]

_JOB_ID = "HORA_JOB_ID"
_SOURCES = (
    pipe.VARIABLE, _JOB_ID, FOLDER, SECRET_FILE, *torchrun.SOURCES, *mpi.SOURCES, *slurm.SOURCES,
)  # fmt: skip
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

_remembered: dict[tuple[object, ...], tuple[Bootstrap, object]] = {}
_boards: list[FileBoard] = []
_lock = threading.Lock()


def detect(environ: Mapping[str, str] = os.environ, *, timeout: float) -> Bootstrap:
    """Returns this process's place in the job; waits at most ``timeout`` seconds for its peers.

    Raises UsageError when a variable has no sensible value (named with its value and the allowed
    range) and HoraError when the launcher or rank 0 does not answer in time.
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
        while _boards:
            _boards.pop().clear()


def _detect(environ: Mapping[str, str], timeout: float) -> tuple[Bootstrap, object]:
    """Returns the bootstrap and what has to stay alive with it (the store that rank 0 hosts)."""
    if pipe.VARIABLE in environ:
        return pipe.from_pipe(environ[pipe.VARIABLE], timeout), None
    if torchrun.is_torchrun(environ):
        return torchrun.from_torchrun(environ, timeout)
    if mpi.is_open_mpi(environ):
        position = mpi.open_mpi_position(environ)
        return _through_files(position, environ, timeout)
    if mpi.is_mpich(environ):
        return _through_files(mpi.mpich_position(environ), environ, timeout)
    if slurm.is_step(environ):
        return _through_files(slurm.slurm_position(environ), environ, timeout)
    return alone("none"), None


def _through_files(
    position: Position, environ: Mapping[str, str], timeout: float
) -> tuple[Bootstrap, object]:
    if position.size == 1:
        return alone(position.launcher), None
    board = FileBoard(_job_name(position, environ), environ, timeout)
    try:
        found = meet(position, board, environ)
    except BaseException:
        # Rank 0's file says why; it must be there until the others have read it, at exit at last.
        if position.rank != 0:
            board.clear()
        raise
    _boards.append(board)
    return found


def _job_name(position: Position, environ: Mapping[str, str]) -> str:
    given = environ.get(_JOB_ID)
    if given is not None:
        if not given or len(given) > 64 or set(given) - _WORD:
            raise UsageError(f"{_JOB_ID}={given!r} is not 1 to 64 letters, digits, - and _")
        return f"{position.launcher}-{given}"
    if position.launcher == "openmpi":
        return mpi.open_mpi_job(environ)
    if position.launcher == "mpich":
        return mpi.mpich_job()
    return slurm.slurm_job(environ)
