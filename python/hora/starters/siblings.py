"""The ranks that the same process of a launcher started on this host, whatever they are told.

A rank whose variables lead it to another job, store or folder has no way to those who wait for it,
but it has their parent: slurmstepd, a daemon of mpirun, torchrun. Notes named after that process
lie in a folder of this host.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from hora.errors import UsageError
from hora.starters.ancestors import ancestors
from hora.starters.file_board import FOLDER, FileBoard, this_machine, when_started

# Each process of such a name has the ranks of one job, or of one step, below it.
_DAEMONS = ("slurmstepd", "orted", "prted", "mpirun", "mpiexec", "orterun", "prterun", "hydra_")


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
        words = f"{this_machine()}/{parent}/{when_started(parent)}/{start}"
        name = f"siblings-{hashlib.sha256(words.encode()).hexdigest()[:32]}"
        with contextlib.suppress(UsageError, OSError):
            self._board = FileBoard(name, {FOLDER: f"/tmp/hora-{os.geteuid()}"}, 0)

    @classmethod
    def of_daemon(cls) -> Siblings:
        """Those below the nearest process of srun or mpirun."""
        found = (one.pid for one in ancestors() if one.name.startswith(_DAEMONS))
        return cls(next(found, 0))

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
