"""What the launcher knows of one host: its agent, how far that has come, and its ranks."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from hora.launch.agent_link import AgentLink
from hora.launch.hosts import Host


class Stage(IntEnum):
    """How far a host has come."""

    CONNECTING = 0
    GREETED = 1
    CHECKING = 2
    CHECKED = 3
    RUNNING = 4
    ENDED = 5  # its agent has nothing more to do


@dataclass
class RemoteRank:
    """A ``Rank`` that an agent started."""

    rank: int
    pid: int
    host: str
    exit_code: int | None = None
    sent: signal.Signals | None = None
    oom_kills: int | None = 0
    is_lost: bool = False

    @property
    def where(self) -> str:
        """For people."""
        return f"pid {self.pid} on {self.host}"


class AgentHost:
    """One host's state; who changes it is ``HostsCrew``."""

    def __init__(self, host: Host, index: int, ranks: range) -> None:
        self.host = host
        self.index = index
        self.expected = ranks
        self.stage = Stage.CONNECTING
        self.link: AgentLink | None = None
        self.ranks: dict[int, RemoteRank] = {}
        self.problems: list[str] = []
        self.has_failed = False  # to start its ranks
        self.identity = ""  # the same for two names of one host
        self.address = ""  # where ssh reached it, later the one that the job uses there
        self.port = 0  # reserved there for MASTER_PORT
        self._deadline: float | None = None

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.host.name

    @property
    def is_running(self) -> bool:
        """Whether its agent, or the way to it, is there."""
        return self.link is not None and self.link.is_running

    @property
    def is_settled(self) -> bool:
        """Whether its checks have come to an end, good or bad."""
        return self.stage >= Stage.CHECKED or bool(self.problems)

    def send(self, kind: str, **fields: Any) -> None:
        """Says something to the agent if it is there."""
        if self.link and self.link.is_running:
            self.link.send(kind, **fields)

    def fail(self, problem: str) -> None:
        """Notes why this host cannot be used; its agent is ended."""
        self.problems.append(f"{self.name}: {problem}")
        if self.link:
            self.link.kill()

    def wait(self, limit_s: float | None) -> None:
        """Sets or clears the time by which it must have come further."""
        self._deadline = None if limit_s is None else time.monotonic() + limit_s

    def seconds_left(self) -> float | None:
        """Until that time."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def mark_sent(self, signum: signal.Signals) -> None:
        """Remembers that its ranks' end is the launcher's doing."""
        for rank in self.ranks.values():
            if rank.exit_code is None:
                rank.sent = signum
