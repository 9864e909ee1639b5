"""The ranks that the same process of a launcher started on this host, whatever they are told.

A rank whose variables lead it to another job, store or folder has no way to those who wait for it,
but it has their parent: slurmstepd, a daemon of mpirun, torchrun. Notes named after that process
lie in a folder of this host. Where it may have started other jobs as well, there are none: a rank
that waits for long is better than a healthy job that hears of somebody else's trouble.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence

from hora.errors import UsageError
from hora.starters.ancestors import ancestors
from hora.starters.file_board import FOLDER, FileBoard, this_machine, when_started

_ROOT = "/tmp"  # of this host alone, unlike home directories
# Each process of such a name has the ranks of one job, or of one step, below it.
_DAEMONS = (
    "slurmstepd", "orted", "mpirun", "mpiexec", "mpirun.openmpi", "mpiexec.openmpi", "orterun",
    "prterun",
)  # fmt: skip
_PROXIES = "hydra_"
_OF_SEVERAL_JOBS = ("prte", "prted")  # may stay from job to job
_TORCHRUN = ("torchrun", "torch.distributed.run", "torch.distributed.launch")


class Siblings:
    """What those ranks leave for each other.

    ``parent`` is the process id of the launcher's process, 0 for none: then there are no siblings.
    Where the folder cannot be used, nobody is told, and nothing is raised. Any thread.
    """

    def __init__(self, parent: int, start: str = "0") -> None:
        """``start`` tells apart the times that one launcher started its ranks."""
        self._board: FileBoard | None = None
        if parent <= 1:
            return
        with contextlib.suppress(UsageError, OSError):
            words = f"{this_machine()}/{parent}/{when_started(parent)}/{start}"
            name = f"siblings-{hashlib.sha256(words.encode()).hexdigest()[:32]}"
            self._board = FileBoard(name, {FOLDER: f"{_ROOT}/hora-{os.geteuid()}"}, 0)

    @classmethod
    def of_daemon(cls) -> Siblings:
        """Those below the nearest process of srun or mpirun."""
        for one in ancestors():
            if one.name in _OF_SEVERAL_JOBS:
                break
            if one.name in _DAEMONS or one.name.startswith(_PROXIES):
                return cls(one.pid)
        return cls(0)

    @classmethod
    def of_torchrun(cls, start: str) -> Siblings:
        """Its children; not those of others that call torch's ``elastic_launch``, again and again.

        ``start`` as for the constructor.
        """
        parent = next(ancestors(), None)
        return cls(parent.pid if parent and _is_torchrun(parent.words) else 0, start)

    def check(self, ours: str) -> None:
        """Raises UsageError when another of them, who still waits, said something else here."""
        theirs = ours
        with contextlib.suppress(UsageError, OSError):
            theirs = self._board.first_words(ours) if self._board else ours
        if theirs != ours:
            raise UsageError(
                f"this rank was told {ours}; but another rank of this host, which the same process "
                f"started, was told {theirs}: all must be told the same"
            )

    def leave_problem(self, text: str) -> None:
        """As of a ``Board``."""
        with contextlib.suppress(UsageError, OSError):
            if self._board:
                self._board.leave_problem(text)

    def problem(self) -> str:
        """As of a ``Board``."""
        with contextlib.suppress(UsageError, OSError):
            if self._board:
                return self._board.problem()
        return ""

    def clear(self) -> None:
        """As of a ``Board``."""
        if self._board:
            self._board.clear()


def _is_torchrun(words: Sequence[str]) -> bool:
    """Whether this command line is torchrun's, run by its name or as Python's script or module."""
    for number, word in enumerate(words):
        if os.path.basename(word) == _TORCHRUN[0]:
            return True
        if word == "-m":
            return any(module in _TORCHRUN for module in words[number + 1 : number + 2])
        if number and not word.startswith("-"):
            return False  # another script
    return False
