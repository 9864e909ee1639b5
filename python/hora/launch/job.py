"""One job from its first rank to its last descendant: an event loop around a few decisions."""

from __future__ import annotations

import os
import resource
import selectors
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hora.launch.bootstrap_pipe import JobIdentity
from hora.launch.environment import job_environment, reserve_port
from hora.launch.escalation import Escalation, Step
from hora.launch.fates import (
    count_oom_kills,
    describe_failure,
    shell_code,
    signal_name,
    summarise,
)
from hora.launch.output import OutputStyle, RankOutputs
from hora.launch.process_tree import descendants, reap_children, signal_processes
from hora.launch.rank_process import RankProcess
from hora.launch.signals import PASSED_ON, SignalPipe
from hora.launch.terminal import STDERR, Terminal

EXIT_CANNOT_START = 126
EXIT_OUTPUT_CLOSED = 128 + signal.SIGPIPE
_KILL_DEADLINE_S = 10.0


@dataclass(frozen=True)
class JobSpec:
    """What to run: ``settings`` are environment variables that the options stand for.

    ``notes`` are said before the ranks start.
    """

    size: int
    command: Sequence[str]
    settings: Mapping[str, str] = field(default_factory=dict)
    style: OutputStyle = field(default_factory=OutputStyle)
    grace_s: float = 5.0
    verbose: bool = False
    notes: Sequence[str] = ()
    horovod: bool = False  # also say each rank's place in HOROVOD_* variables


class Job:
    """Owns the ranks, their pipes and every descendant. Main thread of its own process only.

    The first event that ends the job (a failing rank, a signal, a closed stdout) fixes the exit
    code; what follows only escalates. ``run`` waits without limit for healthy ranks and for a
    reader that is slow; every other wait has a deadline.
    """

    def __init__(self, spec: JobSpec, lifeline: int) -> None:
        self._spec = spec
        self._selector = selectors.DefaultSelector()
        self._signals = SignalPipe()
        self._screen = Terminal(self._selector, self._output_closed)
        self._outputs = RankOutputs(spec.size, spec.style, self._selector, self._screen)
        self._ranks: list[RankProcess] = []
        self._escalation = Escalation()
        self._exit_code: int | None = None  # None: nothing has ended the job
        self._first_failure: int | None = None
        self._interrupted = False
        self._killing = False
        self._abandoned = False
        self._children_left = True
        self._oom_kills_before = count_oom_kills()
        self._selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        self._selector.register(lifeline, selectors.EVENT_READ, self._lifeline_cut)
        self._lifeline = lifeline

    def run(self) -> int:
        """Runs the job to its end and returns the launcher's exit code."""
        with reserve_port() as port:
            self._start_ranks(port.getsockname()[1])
            self._screen.flush()
            while self._children_left and not self._abandoned:
                self._turn()
        self._outputs.finish()
        self._report()
        self._escalation.plan(*[(self._spec.grace_s, Step.ABANDON)] * self._interrupted)
        self._screen.flush()
        while self._screen.backlog_bytes and not self._abandoned:
            self._turn()
        return self._exit_code or 0

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._escalation.seconds_left()):
            key.data()
        step = self._escalation.take_due()
        if step is Step.TERMINATE:
            self._terminate()
        elif step is Step.KILL:
            self._kill()
        elif step is Step.ABANDON:
            self._abandoned = True
        self._screen.flush()
        self._outputs.throttle()

    # --- start -----------------------------------------------------------------------------------

    def _start_ranks(self, master_port: int) -> None:
        spec = self._spec
        _allow_open_files(64 + 6 * spec.size)
        env = job_environment(
            os.environ, spec.settings, spec.size, master_port, horovod=spec.horovod
        )
        identity = JobIdentity.create(spec.size)
        for note in spec.notes:
            self._screen.note(note)
        if spec.verbose:
            self._screen.note(f"job {identity.job_id}: {spec.size} × {shlex.join(spec.command)}")
        with identity.listener:
            for rank in range(spec.size):
                try:
                    process = RankProcess.start(rank, spec.size, spec.command, env, identity)
                    self._ranks.append(process)
                    self._outputs.add(rank, *process.take_pipes())
                except OSError as error:
                    self._screen.note(f"rank {rank} could not be started: {error}")
                    self._end(EXIT_CANNOT_START, (0, Step.TERMINATE), (spec.grace_s, Step.KILL))
                    break
                if spec.verbose:
                    self._screen.note(f"rank {rank} is pid {process.pid}")
        self._reap()

    # --- events ----------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        for signum in self._signals.read():
            if signum == signal.SIGCHLD:
                self._reap()
            elif signum in PASSED_ON:
                self._forward(signum)
            else:
                self._interrupt(signum)

    def _interrupt(self, signum: int) -> None:
        if self._interrupted:
            self._kill()
            self._abandoned = not self._children_left  # nothing left but unread output
            return
        self._interrupted = True
        self._screen.note(
            f"received {signal_name(signum)}: passed on to every rank; "
            f"SIGKILL in {self._spec.grace_s:g} s, or now if you send it again"
        )
        self._forward(signum)
        self._end(128 + signum, (self._spec.grace_s, Step.KILL))

    def _lifeline_cut(self) -> None:
        self._selector.unregister(self._lifeline)
        self._end(128 + signal.SIGKILL)
        self._kill()

    def _output_closed(self) -> None:
        """Nobody reads any more: ends the job without a word, as a pipeline ends its writers."""
        if not self._killing:
            self._end(EXIT_OUTPUT_CLOSED, (0, Step.TERMINATE), (self._spec.grace_s, Step.KILL))

    def _reap(self) -> None:
        ended, self._children_left = reap_children()
        by_pid = {rank.pid: rank for rank in self._ranks if rank.is_running}
        failed = []
        for pid, status in ended:
            if rank := by_pid.get(pid):
                rank.ended(status)
                failed += [rank] * (rank.exit_code != 0)
        if failed and self._exit_code is None:
            # Of those that ended together, a signal's victim comes before those who noticed.
            self._rank_failed(min(failed, key=lambda rank: ((rank.exit_code or 0) > 0, rank.rank)))
        if by_pid and self._children_left and not any(rank.is_running for rank in self._ranks):
            self._end_leftovers()
        if self._killing and self._children_left:
            signal_processes(descendants(os.getpid()), signal.SIGKILL)  # forked since the last look

    def _rank_failed(self, rank: RankProcess) -> None:
        self._first_failure = rank.rank
        self._outputs.catch_up(rank.rank)  # its own last words come before ours
        new_oom_kills = count_oom_kills() - self._oom_kills_before
        self._screen.note(describe_failure(rank, new_oom_kills))
        grace = self._spec.grace_s
        self._end(shell_code(rank.exit_code or 0), (grace, Step.TERMINATE), (grace, Step.KILL))

    def _end_leftovers(self) -> None:
        """All ranks ended, but processes they started did not."""
        if self._exit_code is None:
            grace = self._spec.grace_s  # they may be finishing an upload or cleaning up
            self._escalation.plan((grace, Step.TERMINATE), (grace, Step.KILL))
        elif not self._interrupted and not self._killing:
            self._escalation.plan((0, Step.TERMINATE), (self._spec.grace_s, Step.KILL))

    # --- ending ----------------------------------------------------------------------------------

    def _end(self, exit_code: int, *steps: tuple[float, Step]) -> None:
        if self._exit_code is None:
            self._exit_code = exit_code
        if not self._killing:
            self._escalation.plan(*steps)

    def _forward(self, signum: int) -> None:
        for rank in self._ranks:
            rank.signal_group(signum)

    def _terminate(self) -> None:
        for rank in self._ranks:
            if rank.is_running:
                rank.sent = signal.SIGTERM
                rank.signal_group(signal.SIGTERM)
        if not any(rank.is_running for rank in self._ranks):
            signal_processes(descendants(os.getpid()), signal.SIGTERM)

    def _kill(self) -> None:
        self._killing = True
        for rank in self._ranks:
            if rank.is_running:
                rank.sent = signal.SIGKILL
        signal_processes(descendants(os.getpid()), signal.SIGKILL)
        self._escalation.plan((_KILL_DEADLINE_S, Step.ABANDON))

    def _report(self) -> None:
        if self._children_left:
            self._screen.note(f"could not end processes {descendants(os.getpid())}")
        if self._exit_code in (None, 0, EXIT_OUTPUT_CLOSED):
            return
        if self._first_failure is not None and self._spec.style.quiet:
            for line in self._outputs.tail(self._first_failure):
                self._screen.line(STDERR, f"[{self._first_failure}]! ".encode() + line)
        self._screen.note(summarise(self._ranks, self._spec.size))


def _allow_open_files(count: int) -> None:
    """Raises the soft limit where it is too low for the ranks' pipes and files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
