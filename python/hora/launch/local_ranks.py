"""The ranks of this host as one thing: started, reaped, signalled and cleaned up after together."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence

from hora.errors import HoraError
from hora.launch.bootstrap_pipe import JobIdentity
from hora.launch.gpu_slices import gpus_of_ranks
from hora.launch.peer_notice import PeerNotice
from hora.launch.placement import Placement
from hora.launch.process_tree import descendants, reap_children, signal_processes
from hora.launch.rank_process import RankProcess


class LocalRanks:
    """Owns the ranks' processes and every descendant. Main thread only; nothing blocks.

    The process must be a subreaper and block or handle SIGCHLD; every child of it counts as a
    descendant of a rank.
    """

    def __init__(self) -> None:
        self.ranks: list[RankProcess] = []
        self._notice: PeerNotice | None = None
        self._children_left = True
        self._killing = False

    def start_ranks(
        self,
        placement: Placement,
        host: int,
        command: Sequence[str],
        env: Mapping[str, str],
        identity: JobIdentity,
        *,
        input_rank: int | None,
        started: Callable[[RankProcess], None],
    ) -> str | None:
        """Starts the ranks of ``host`` in order and says which could not be started, and why."""
        ranks = placement.ranks_of(host)
        self._notice = PeerNotice(identity, placement.size, env)
        _allow_open_files(64 + 6 * len(ranks))
        with identity.closing():
            try:
                gpus = gpus_of_ranks(env, len(ranks))
            except HoraError as error:
                return str(error)
            for rank in ranks:
                place = placement.place(rank)
                own_env = {**env, **gpus[place.local_rank]}
                try:
                    process = RankProcess.start(
                        place, command, own_env, identity, reads_input=rank == input_rank
                    )
                    self.ranks.append(process)
                    started(process)
                except OSError as error:
                    return f"rank {rank} could not be started: {error}"
        return None

    @property
    def is_gone(self) -> bool:
        """Whether no process is left."""
        return not self._children_left

    @property
    def has_only_leftovers(self) -> bool:
        """Whether processes are left, but none of them is a rank."""
        return self._children_left and not any(rank.is_running for rank in self.ranks)

    def reap(self) -> list[RankProcess]:
        """Takes note of the children that ended, and returns the ranks among them.

        The other ranks are told of the first that failed: they may wait for it to meet them.
        """
        ended, self._children_left = reap_children()
        by_pid = {rank.pid: rank for rank in self.ranks if rank.is_running}
        found = []
        for pid, status in ended:
            if rank := by_pid.get(pid):
                rank.ended(status)
                found.append(rank)
        failed = [rank for rank in found if rank.exit_code and not rank.sent]
        if failed and self._notice:
            self._notice.send(failed[0].rank, failed[0].exit_code or 0)
        if self._killing and self._children_left:
            signal_processes(descendants(os.getpid()), signal.SIGKILL)  # forked since the last look
        return found

    def signal(self, signum: int) -> None:
        """Signals every rank and what is in its process group."""
        for rank in self.ranks:
            rank.signal_group(signum)

    def terminate(self) -> None:
        """Sends SIGTERM to every rank, or to what they left behind when all have ended."""
        for rank in self.ranks:
            if rank.is_running:
                rank.sent = signal.SIGTERM
                rank.signal_group(signal.SIGTERM)
        if not any(rank.is_running for rank in self.ranks):
            signal_processes(descendants(os.getpid()), signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL to every descendant, and to those that appear later."""
        self._killing = True
        for rank in self.ranks:
            if rank.is_running:
                rank.sent = signal.SIGKILL
        signal_processes(descendants(os.getpid()), signal.SIGKILL)

    def close(self) -> None:
        """Waits until others have heard of a rank that failed; for seconds at most."""
        if self._notice:
            self._notice.close()

    def leftovers(self) -> str:
        """What could not be ended, in words; "" when nothing is left."""
        return f"could not end processes {descendants(os.getpid())}" if self._children_left else ""


def _allow_open_files(count: int) -> None:
    """Raises the soft limit where it is too low for the ranks' pipes and files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
