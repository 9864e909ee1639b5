"""What carries the words between ranks that agree where to meet: torchrun's store, files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hora.errors import UsageError


class ToldError(UsageError):
    """What another rank has said to all: nobody needs to hear it from this one."""


@dataclass(frozen=True)
class HostEntry:
    """What the first rank of each host says of it."""

    rank: int
    size: int
    name: str


class Board(Protocol):
    """Where the ranks of one job leave words.

    Each wait ends with HoraError at its deadline, and with ToldError when somebody leaves a
    problem.
    """

    def add_host(self, entry: HostEntry) -> None:
        """Called by the first rank of each host, when there are several."""

    def hosts(self, size: int) -> list[HostEntry]:
        """Called by rank 0: waits until the hosts have ``size`` ranks together."""

    def publish(self, words: str) -> None:
        """Called by rank 0."""

    def read(self) -> str:
        """Called by the other ranks: waits for what rank 0 publishes."""

    def leave_problem(self, text: str) -> None:
        """Says to all why one rank will never come."""

    def problem(self) -> str:
        """What somebody has left in this way, "" when nobody has. Never waits; any thread."""

    def clear(self) -> None:
        """All have met: what was left here may go."""
