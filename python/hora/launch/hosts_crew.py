"""The ranks of several hosts: one agent on each, all checked before any rank starts."""

from __future__ import annotations

import base64
import os
import selectors
import signal
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from hora.launch.agent_host import AgentHost, RemoteRank, Stage
from hora.launch.agent_link import AgentLink
from hora.launch.bootstrap_pipe import draw_key
from hora.launch.crew import CrewEvents, Rank
from hora.launch.job_spec import JobSpec, SeveralHosts
from hora.launch.messages import silence_limit
from hora.launch.output import RankOutputs
from hora.launch.preflight import Preflight
from hora.launch.process_tree import reap_children
from hora.launch.signals import PASSED_ON
from hora.launch.ssh import agent_words, ssh_words
from hora.launch.terminal import STDERR, Terminal

_ENDING_LIMIT_S = 5.0  # between telling agents to kill their ranks and cutting the connections


class HostsCrew:
    """A ``Crew`` that owns the agents and the store. The ranks are numbered host by host.

    All processes are started before the store, which has a thread of its own.
    """

    def __init__(
        self,
        spec: JobSpec,
        selector: selectors.BaseSelector,
        outputs: RankOutputs,
        screen: Terminal,
        events: CrewEvents,
    ) -> None:
        assert isinstance(spec.where, SeveralHosts)
        self._spec = spec
        self._ssh = spec.where.ssh
        self._selector = selector
        self._outputs = outputs
        self._screen = screen
        self._events = events
        self._agents = [
            AgentHost(host, index, spec.placement.ranks_of(index))
            for index, host in enumerate(spec.where.hosts)
        ]
        self._key = draw_key()
        self._silence_limit_s = silence_limit({**os.environ, **spec.settings})
        self._preflight = Preflight(spec, self._agents, self._key, self._silence_limit_s)
        self._has_started = self._is_killing = False
        self._left: list[str] = []

    @property
    def ranks(self) -> Sequence[Rank]:
        """Those that were started."""
        found = [rank for agent in self._agents for rank in agent.ranks.values()]
        return sorted(found, key=lambda rank: rank.rank)

    @property
    def expected(self) -> Iterable[int]:
        """All of the job's."""
        return range(self._spec.size)

    @property
    def is_gone(self) -> bool:
        """Whether no agent is left."""
        return not any(agent.is_running for agent in self._agents)

    @property
    def has_only_leftovers(self) -> bool:
        """Agents see to those."""
        return False

    # --- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the agents; their answers do the rest."""
        for agent in self._agents:
            words = agent_words() if agent.host.is_here else ssh_words(agent.name, self._ssh)
            try:
                agent.link = AgentLink(
                    words, self._selector, partial(self._take, agent), self._silence_limit_s
                )
            except OSError as error:
                agent.fail(f"{words[0]} cannot be started: {error.strerror}")
            agent.wait(self._ssh.hello_limit_s)
        self._show_progress()
        self._go_on()

    def _go_on(self) -> None:
        """Called whenever a host has come further."""
        if self._has_started or self._is_killing:
            return
        self._preflight.go_on()
        self._show_progress()
        if not all(agent.is_settled for agent in self._agents):
            return
        problems = self._preflight.problems()
        if not problems:
            problems = [text for text in [self._preflight.open_store(self._screen.note)] if text]
        if problems:
            self._events.cannot_start(problems)
            self.kill()
            return
        self._has_started = True
        for agent in self._agents:
            agent.stage = Stage.RUNNING
            agent.wait(None)
            agent.send("start", **self._preflight.start_fields(agent))

    def _show_progress(self) -> None:
        """On a terminal: which hosts have yet to answer."""
        waiting = [agent.name for agent in self._agents if not agent.is_settled]
        text = f"hora: waiting for {', '.join(waiting)} …" if waiting else ""
        self._screen.live(STDERR, text.encode())

    # --- what agents say -------------------------------------------------------------------------

    def _take(self, agent: AgentHost, message: dict[str, Any]) -> None:
        """Raises LookupError, TypeError or ValueError for a message without sense."""
        kind = message["kind"]
        if kind in ("hello", "checked"):
            self._preflight.take(agent, message)
            self._go_on()
        elif kind == "rank":
            self._rank_started(agent, int(message["rank"]), int(message["pid"]))
        elif kind == "out":
            rank = agent.ranks[message["rank"]].rank
            self._outputs.feed(rank, int(message["fd"]), base64.b64decode(message["data"]))
        elif kind == "shut":
            self._outputs.close(agent.ranks[message["rank"]].rank, int(message["fd"]))
        elif kind == "exit":
            self._ranks_ended(agent, message["ranks"])
        elif kind == "failed":
            agent.has_failed = True
            self._events.cannot_start([f"{agent.name}: {message['reason']}"])
        elif kind == "end" and self._has_started:
            agent.stage = Stage.ENDED
            if message["left"]:
                self._left.append(f"{agent.name}: {message['left']}")
        elif kind != "alive":
            raise ValueError(kind)

    def _rank_started(self, agent: AgentHost, number: int, pid: int) -> None:
        if number not in agent.expected:
            raise ValueError(number)
        rank = agent.ranks[number] = RemoteRank(number, pid, agent.name)
        try:
            self._outputs.add(number)
        except OSError as error:
            self._events.cannot_start([f"rank {number} could not be started: {error}"])
            return
        self._events.rank_started(rank)

    def _ranks_ended(self, agent: AgentHost, exits: Sequence[Sequence[int]]) -> None:
        ended = []
        for number, code, oom_kills in exits:
            rank = agent.ranks[number]
            rank.exit_code, rank.oom_kills = int(code), int(oom_kills)
            ended.append(rank)
        self._events.ranks_ended(ended)

    # --- events ----------------------------------------------------------------------------------

    def reap(self) -> Sequence[Rank]:
        """Takes note of agents that ended, as expected or not."""
        statuses = dict(reap_children()[0])
        for agent in self._agents:
            if agent.link and agent.link.is_running and agent.link.pid in statuses:
                agent.link.reaped(statuses[agent.link.pid])
                self._agent_ended(agent, agent.link.problem)
        return []

    def _agent_ended(self, agent: AgentHost, problem: str) -> None:
        lost = [rank for rank in agent.ranks.values() if rank.exit_code is None]
        for rank in lost:
            rank.is_lost = True
        is_complete = len(agent.ranks) == len(agent.expected) and not lost
        if self._is_killing or (agent.stage is Stage.ENDED and (is_complete or agent.has_failed)):
            return
        if self._has_started:
            names = ", ".join(str(rank) for rank in agent.expected)
            self._events.host_lost(f"{agent.name} is lost with ranks {names}: {problem}")
        elif not agent.problems:
            agent.fail(problem)
            self._go_on()

    def seconds_left(self) -> float | None:
        """Until the next sign of life is due, or a host's time is over."""
        waits: list[float | None] = []
        for agent in self._agents:
            if agent.link and agent.is_running:
                waits += [agent.seconds_left(), agent.link.seconds_left()]
        return min((wait for wait in waits if wait is not None), default=None)

    def tick(self) -> None:
        """Keeps the connections alive, and ends the wait for hosts that do not answer."""
        for agent in self._agents:
            if agent.link is None or not agent.is_running:
                continue
            agent.link.listen(self._outputs.is_reading or self._is_killing)
            agent.link.tick()
            if agent.seconds_left() == 0:
                agent.wait(None)
                if self._is_killing or self._has_started:
                    agent.link.kill()
                elif not agent.is_settled:
                    agent.fail(self._preflight.why_late(agent))
                    self._go_on()

    def signal(self, signum: int) -> None:
        """Passes it on; before the ranks are there, an ending signal ends the start."""
        if self._has_started:
            for agent in self._agents:
                agent.send("signal", number=signum)
        elif signum not in PASSED_ON:
            self.kill()

    def terminate(self) -> None:
        """Sends SIGTERM to every rank."""
        if not self._has_started:
            self.kill()
        for agent in self._agents:
            agent.mark_sent(signal.SIGTERM)
            agent.send("terminate")

    def kill(self) -> None:
        """Has the agents kill every descendant; those that do not obey are cut off."""
        self._is_killing = True
        self._screen.live(STDERR, b"")
        for agent in self._agents:
            if agent.link is None:
                continue
            if agent.stage >= Stage.RUNNING:
                agent.mark_sent(signal.SIGKILL)
                agent.send("kill")
                agent.wait(_ENDING_LIMIT_S)
            else:
                agent.link.kill()

    def leftovers(self) -> str:
        """What agents could not end, and which of them did not say."""
        silent = [agent.name for agent in self._agents if agent.is_running]
        return "; ".join([*self._left, *(f"no answer from {name}" for name in silent)])

    def close(self) -> None:
        """Cuts what is left of the connections, and ends the store."""
        for agent in self._agents:
            if agent.link:
                agent.link.kill()
        self._preflight.close()
