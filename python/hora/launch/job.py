"""One job from its first rank to its last descendant: an event loop around a few decisions."""

from __future__ import annotations

import selectors
import shlex
import signal
from collections.abc import Sequence

from hora.launch.crew import Crew, Rank
from hora.launch.escalation import Escalation, Step
from hora.launch.fates import (
    count_oom_kills,
    describe_failure,
    shell_code,
    signal_name,
    summarise,
)
from hora.launch.hosts_crew import HostsCrew
from hora.launch.job_spec import JobSpec, SeveralHosts
from hora.launch.one_host import OneHostCrew
from hora.launch.output import RankOutputs
from hora.launch.signals import PASSED_ON, SignalPipe
from hora.launch.terminal import STDERR, Terminal

EXIT_HOST_LOST = 69  # sysexits.h: a service is unavailable
EXIT_CANNOT_START = 126
EXIT_OUTPUT_CLOSED = 128 + signal.SIGPIPE
_KILL_DEADLINE_S = 10.0
# A process that is killed lets its peers know before its own parent: it closes its files first. On
# a busy machine those who noticed may be gone before it is.
_BLAME_AFTER_S = 0.5


class Job:
    """Owns the crew of ranks and the screen. Main thread of its own process only.

    The first event that ends the job (a failing rank, a lost host, a signal, a closed stdout) fixes
    the exit code; what follows only escalates. ``run`` waits without limit for healthy ranks and
    for a reader that is slow; every other wait has a deadline.
    """

    def __init__(self, spec: JobSpec, lifeline: int) -> None:
        self._spec = spec
        self._selector = selectors.DefaultSelector()
        self._signals = SignalPipe()
        self._screen = Terminal(self._selector, self._output_closed)
        self._outputs = RankOutputs(spec.size, spec.style, self._selector, self._screen)
        several = isinstance(spec.where, SeveralHosts)
        make_crew = HostsCrew if several else OneHostCrew
        self._crew: Crew = make_crew(spec, self._selector, self._outputs, self._screen, self)
        self._escalation = Escalation()
        self._exit_code: int | None = None  # None: nothing has ended the job
        self._failed: list[Rank] = []  # while it is not yet said which of them was the first
        self._first_failure: int | None = None
        self._interrupted = False
        self._killing = False
        self._abandoned = False
        self._oom_kills_before = count_oom_kills()
        self._selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        self._selector.register(lifeline, selectors.EVENT_READ, self._lifeline_cut)
        self._lifeline = lifeline

    def run(self) -> int:
        """Runs the job to its end and returns the launcher's exit code."""
        for note in self._spec.notes:
            self._screen.note(note)
        if self._spec.verbose:
            command = shlex.join(self._spec.command)
            self._screen.note(f"job {self._spec.job_id}: {self._spec.size} × {command}")
        try:
            self._crew.start()
            self._reap()
            self._screen.flush()
            while not self._crew.is_gone and not self._abandoned:
                self._turn()
        finally:
            self._crew.close()
        if self._failed:
            self._blame()  # what else ran is lost with its host
        self._outputs.finish()
        self._report()
        self._escalation.plan(*[(self._spec.grace_s, Step.ABANDON)] * self._interrupted)
        self._screen.flush()
        while self._screen.backlog_bytes and not self._abandoned:
            self._turn()
        return self._exit_code or 0

    def _turn(self) -> None:
        waits = (self._escalation.seconds_left(), self._crew.seconds_left())
        wait_s = min((wait for wait in waits if wait is not None), default=None)
        for key, _ in self._selector.select(wait_s):
            key.data()
        self._crew.tick()
        step = self._escalation.take_due()
        if step is Step.BLAME:
            self._blame()
        elif step is Step.TERMINATE:
            self._crew.terminate()
        elif step is Step.KILL:
            self._kill()
        elif step is Step.ABANDON:
            self._abandoned = True
        self._screen.flush()
        self._outputs.throttle()

    # --- what the crew tells ---------------------------------------------------------------------

    def rank_started(self, rank: Rank) -> None:
        """A rank runs."""
        if self._spec.verbose:
            self._screen.note(f"rank {rank.rank} is {rank.where}")

    def cannot_start(self, reasons: Sequence[str]) -> None:
        """The job cannot run; all that already does is ended."""
        for reason in reasons:
            self._screen.note(reason)
        grace = self._spec.grace_s
        self._end(EXIT_CANNOT_START, (0, Step.TERMINATE), (grace, Step.KILL))

    def host_lost(self, reason: str) -> None:
        """A host and its ranks are out of reach."""
        self._screen.note(reason)
        grace = self._spec.grace_s
        self._end(EXIT_HOST_LOST, (grace, Step.TERMINATE), (grace, Step.KILL))

    def ranks_ended(self, ranks: Sequence[Rank]) -> None:
        """These ended at the same time, each for whatever reason."""
        failed = [rank for rank in ranks if rank.exit_code != 0]
        if failed and self._exit_code is None:
            if not self._failed:
                self._escalation.plan((_BLAME_AFTER_S, Step.BLAME))
            self._failed += sorted(failed, key=lambda rank: rank.rank)
            runs_on = any(rank.exit_code is None for rank in self._crew.ranks)
            if not runs_on or any(map(_was_killed, failed)):
                self._blame()
        if ranks and self._crew.has_only_leftovers:
            self._end_leftovers()

    # --- events ----------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        for signum in self._signals.read():
            if signum == signal.SIGCHLD:
                self._reap()
            elif signum in PASSED_ON:
                self._crew.signal(signum)
            else:
                self._interrupt(signum)

    def _interrupt(self, signum: int) -> None:
        if self._interrupted:
            self._kill()
            self._abandoned = self._crew.is_gone  # nothing left but unread output
            return
        self._interrupted = True
        if self._crew.ranks:
            self._screen.note(
                f"received {signal_name(signum)}: passed on to every rank; "
                f"SIGKILL in {self._spec.grace_s:g} s, or now if you send it again"
            )
        self._crew.signal(signum)
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
        self.ranks_ended(self._crew.reap())

    def _blame(self) -> None:
        """Says who failed first: a signal's victim comes before those who noticed."""
        rank = next(filter(_was_killed, self._failed), self._failed[0])
        self._failed = []
        self._first_failure = rank.rank
        self._outputs.catch_up(rank.rank)  # its own last words come before ours
        oom_kills = rank.oom_kills
        if oom_kills is None:
            oom_kills = count_oom_kills() - self._oom_kills_before
        self._screen.note(describe_failure(rank, oom_kills))
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
        if self._failed:
            self._blame()
        if self._exit_code is None:
            self._exit_code = exit_code
        if not self._killing:
            self._escalation.plan(*steps)

    def _kill(self) -> None:
        self._killing = True
        self._crew.kill()
        self._escalation.plan((_KILL_DEADLINE_S, Step.ABANDON))

    def _report(self) -> None:
        if left := self._crew.leftovers():
            self._screen.note(left)
        if self._exit_code in (None, 0, EXIT_OUTPUT_CLOSED):
            return
        if self._first_failure is not None and self._spec.style.quiet:
            for line in self._outputs.tail(self._first_failure):
                self._screen.line(STDERR, f"[{self._first_failure}]! ".encode() + line)
        if self._crew.ranks:
            self._screen.note(summarise(self._crew.ranks, self._crew.expected))


def _was_killed(rank: Rank) -> bool:
    return rank.exit_code is not None and rank.exit_code < 0
