"""One rank as an operating-system process: how it starts, where signals go, how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial

from hora.launch.bootstrap_pipe import JobIdentity, open_bootstrap_pipe
from hora.launch.environment import rank_environment
from hora.launch.placement import Place
from hora.launch.process_tree import die_with_parent


class RankProcess:
    """A started rank, leader of its own session and process group.

    The launcher reaps all children in one place, so that nothing here waits; ``exit_code`` follows
    ``subprocess``: None while running, negative for a signal.
    """

    is_lost = False
    oom_kills: int | None = None  # the launcher counts them itself

    def __init__(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        self.rank = rank
        self.pid = process.pid
        self.exit_code: int | None = None
        self.sent: signal.Signals | None = None  # the last signal the launcher sent to end it
        self._process = process

    @classmethod
    def start(
        cls,
        place: Place,
        command: Sequence[str],
        job_env: Mapping[str, str],
        identity: JobIdentity,
        *,
        reads_input: bool,
    ) -> RankProcess:
        """Starts the rank; rank 0 inherits the listening socket. Raises OSError.

        ``reads_input``: it inherits stdin; else it reads nothing.
        """
        bootstrap = open_bootstrap_pipe(identity, place)
        listen_fd = identity.listen_fd(place.rank)
        try:
            process = subprocess.Popen(
                command,
                env=rank_environment(job_env, place, bootstrap),
                stdin=None if reads_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(bootstrap,) if listen_fd is None else (bootstrap, listen_fd),
                start_new_session=True,
                # Safe: the launcher has one thread.
                preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509
            )
        finally:
            os.close(bootstrap)
        return cls(place.rank, process)

    def take_pipes(self) -> tuple[int, int]:
        """Hands over the read ends of (stdout, stderr) to the caller, who closes them."""
        assert self._process.stdout and self._process.stderr
        pipes = os.dup(self._process.stdout.fileno()), os.dup(self._process.stderr.fileno())
        self._process.stdout.close()
        self._process.stderr.close()
        return pipes

    def ended(self, wait_status: int) -> None:
        """Notes what waitpid said."""
        self.exit_code = os.waitstatus_to_exitcode(wait_status)
        self._process.returncode = self.exit_code

    @property
    def is_running(self) -> bool:
        """Whether it has not been reaped yet, so that its process id is still its own."""
        return self.exit_code is None

    @property
    def where(self) -> str:
        """For people."""
        return f"pid {self.pid}"

    def signal_group(self, signum: int) -> None:
        """Signals the rank and the children that stayed in its process group."""
        if self.is_running:
            try:
                os.killpg(self.pid, signum)
            except ProcessLookupError:
                pass  # it ended and waits to be reaped
