"""The checks of all hosts before any rank starts: who answers, with what, and whether it fits."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hora
from hora.errors import HoraError
from hora.launch.agent_host import AgentHost, Stage
from hora.launch.environment import forwarded_environment, terminal_variables
from hora.launch.job_spec import JobSpec, SeveralHosts
from hora.launch.ssh import LOGIN_S
from hora.launch.store import (
    StoreHost,
    choose_address,
    endpoint,
    host_store,
    interfaces_of,
    listen_on,
    resolve,
    split_endpoint,
)

_CHECK_LIMIT_S = 5.0


class Preflight:
    """Owns the store.

    Where it will be is settled as soon as one other host has answered. It opens when all checks are
    done; until then a socket that nobody reads keeps its place, so that trying it disturbs nobody.
    """

    def __init__(
        self, spec: JobSpec, agents: Sequence[AgentHost], key: str, silence_limit_s: float
    ) -> None:
        assert isinstance(spec.where, SeveralHosts)
        self._spec = spec
        self._ssh = spec.where.ssh
        self._check_limit_s = max(_CHECK_LIMIT_S, spec.where.ssh.connect_timeout_s)
        self._agents = agents
        self._key = key
        self._silence_limit_s = silence_limit_s
        self._interfaces = interfaces_of({**os.environ, **spec.settings})
        self._env = {**terminal_variables(spec.size), **forwarded_environment(os.environ)}
        self._meeting_point = ""  # the store's address
        self._probe: socket.socket | None = None
        self._store: StoreHost | None = None
        self._store_problem = ""

    def take(self, agent: AgentHost, message: dict[str, Any]) -> None:
        """Takes an agent's hello, or the outcome of its checks."""
        if message["kind"] == "hello":
            if message["hora"] != hora.__version__:
                agent.fail(
                    f"hora {message['hora']} is installed there, but {hora.__version__} here: "
                    f"install the same version on all hosts (there: {message['python']})"
                )
            agent.address = str(message["address"])
            agent.stage = Stage.GREETED
            agent.identity = str(message.get("identity", ""))
            self._refuse_second_name(agent)
            return
        agent.problems += [f"{agent.name}: {problem}" for problem in message["problems"]]
        agent.address, agent.port = str(message["address"]), int(message["port"])
        agent.stage = Stage.CHECKED
        agent.wait(None)

    def _refuse_second_name(self, agent: AgentHost) -> None:
        """Ranks of one host that take themselves for those of two would use its network."""
        same = [one for one in self._agents if one.identity and one.identity == agent.identity]
        if len(same) > 1:
            first, last = same[0], same[-1]
            slots = sum(one.host.slots for one in same)
            last.fail(
                f"this is the same host as {first.name}: name it once, with all that it has room "
                f"for ({first.name}:{slots})"
            )

    def go_on(self) -> None:
        """Asks agents that have answered to check their host, once it is clear where to meet."""
        usable = [agent for agent in self._agents if not agent.problems]
        if self._needs_store and not self._meeting_point and not self._store_problem:
            others = [agent for agent in usable if not agent.host.is_here]
            greeted = next((agent for agent in others if agent.stage >= Stage.GREETED), None)
            if greeted is None and others:
                return
            if greeted:
                self._choose_meeting_point(greeted)
        for agent in usable:
            if agent.stage is Stage.GREETED:
                agent.stage = Stage.CHECKING
                agent.wait(self._check_limit_s)
                agent.send("check", **self._check_fields(agent))

    def problems(self) -> list[str]:
        """All that stands in the way, host by host."""
        found = [problem for agent in self._agents for problem in agent.problems]
        return found + [self._store_problem] * bool(self._store_problem)

    def why_late(self, agent: AgentHost) -> str:
        """Says what did not happen in time."""
        if agent.stage is Stage.CONNECTING:
            ssh = self._ssh
            return (
                f"no answer from hora there within {ssh.hello_limit_s:g} s (--connect-timeout "
                f"{ssh.connect_timeout_s:g}, and {LOGIN_S:g} for the login, the shell and Python)"
            )
        return f"its checks did not end within {self._check_limit_s:g} s"

    def start_fields(self, agent: AgentHost) -> dict[str, Any]:
        """What an agent is told to start its ranks; with the key."""
        master = self._agents[0]
        return {
            "key": self._key,
            "job_id": self._spec.job_id,
            "sizes": self._spec.placement.sizes,
            "index": agent.index,
            "name": agent.host.address,
            "master": [master.address, master.port],
            "horovod": self._spec.horovod,
            "grace_s": self._spec.grace_s,
        }

    def open_store(self, note: Callable[[str], None]) -> str:
        """Called when all is well; returns what stands in the way after all, or ""."""
        if not self._probe:
            return ""
        self._probe.close()
        address, port = split_endpoint(self._meeting_point)
        spec = self._spec
        try:
            self._store = host_store(address, port, spec.job_id, self._key, spec.settings)
        except HoraError as error:
            return f"{socket.gethostname()} (this host): {error}"
        note(f"{len(self._agents)} hosts; the store listens on {self._store.address}")
        return ""

    def close(self) -> None:
        """Ends the store."""
        for held in (self._probe, self._store):
            if held:
                held.close()

    @property
    def _needs_store(self) -> bool:
        return len(self._agents) > 1

    def _choose_meeting_point(self, other: AgentHost) -> None:
        """Listens where the store will be, so that agents can try to get there."""
        try:
            address = choose_address(self._interfaces, other.address or resolve(other.host.address))
            if address.startswith("fe80:"):
                raise HoraError(
                    f"the way to {other.name} is link-local ({address}), an address that other "
                    "hosts cannot be told: name another network with --network-interfaces, or "
                    "start one launcher on each host (--nnodes)"
                )
            self._probe = listen_on(address, len(self._agents))
            self._meeting_point = endpoint(address, self._probe.getsockname()[1])
        except (HoraError, OSError) as error:
            self._store_problem = f"{socket.gethostname()} (this host): {error}"

    def _check_fields(self, agent: AgentHost) -> dict[str, Any]:
        command = list(self._spec.command)
        is_python = command[0] == sys.executable
        if is_python and self._ssh.python and not agent.host.is_here:
            command[0] = self._ssh.python
        is_script = is_python and len(command) > 1 and command[1].endswith(".py")
        return {
            "command": command,
            "files": command[1:2] if is_script else [],
            "folder": os.getcwd(),
            "env": self._env,
            "settings": dict(self._spec.settings),
            "store": self._meeting_point,
            "interfaces": self._interfaces,
            "is_first": agent.index == 0,
            "silence_s": self._silence_limit_s,
        }
