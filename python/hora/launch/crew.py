"""What a job asks of its ranks, wherever they run, and what it is told about them."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from typing import Protocol


class Rank(Protocol):
    """One started rank. ``exit_code`` is None while it runs, negative for a signal."""

    rank: int
    exit_code: int | None
    sent: signal.Signals | None  # the last signal the launcher sent to end it
    is_lost: bool  # how it ended will never be known
    oom_kills: int | None  # of its host's kernel since the job began; None: not known

    @property
    def where(self) -> str:
        """For people: its process and, if it is another one, its host."""


class CrewEvents(Protocol):
    """What happens to ranks; the job is told at once."""

    def rank_started(self, rank: Rank) -> None:
        """A rank runs."""

    def ranks_ended(self, ranks: Sequence[Rank]) -> None:
        """These ended at the same time."""

    def cannot_start(self, reasons: Sequence[str]) -> None:
        """The job, or a rank of it, cannot be started."""

    def host_lost(self, reason: str) -> None:
        """A host and its ranks are out of reach."""


class Crew(Protocol):
    """All ranks that one launcher starts. Main thread only; nothing blocks."""

    @property
    def ranks(self) -> Sequence[Rank]:
        """Those that were started, in rank order."""

    @property
    def expected(self) -> Iterable[int]:
        """The ranks that are to be started."""

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing left to wait for."""

    @property
    def has_only_leftovers(self) -> bool:
        """Whether all ranks ended, but not all processes that they started."""

    def start(self) -> None:
        """Starts the ranks, or begins to."""

    def reap(self) -> Sequence[Rank]:
        """Called when a child ended; returns the ranks that this ended."""

    def seconds_left(self) -> float | None:
        """Until ``tick`` has something to do; None: never."""

    def tick(self) -> None:
        """Called once per turn of the job's loop."""

    def signal(self, signum: int) -> None:
        """Signals every rank and what is in its process group."""

    def terminate(self) -> None:
        """Sends SIGTERM to every rank, or to what they left behind."""

    def kill(self) -> None:
        """Sends SIGKILL to every rank and every descendant."""

    def leftovers(self) -> str:
        """What could not be ended, in words; "" when nothing is left."""

    def close(self) -> None:
        """Lets go of what was held for the ranks; called last, also after an error."""
