"""The ranks that this launcher starts itself: all of a job, or those of one of several nodes."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterable
from typing import Any

from hora.errors import HoraError
from hora.launch.bootstrap_pipe import JobIdentity, draw_key
from hora.launch.crew import CrewEvents
from hora.launch.environment import (
    Surroundings,
    job_environment,
    reserve_port,
    terminal_variables,
)
from hora.launch.job_spec import JobSpec, OneOfSeveralNodes
from hora.launch.local_ranks import LocalRanks
from hora.launch.output import RankOutputs
from hora.launch.rank_process import RankProcess
from hora.launch.secret_file import read_secret
from hora.launch.store import (
    LOOPBACK,
    endpoint,
    host_store,
    interfaces_of,
    needs_store,
    resolve,
)
from hora.launch.terminal import Terminal


class OneHostCrew(LocalRanks):
    """A ``Crew``: the ranks are this process's children."""

    def __init__(
        self,
        spec: JobSpec,
        selector: selectors.BaseSelector,
        outputs: RankOutputs,
        screen: Terminal,
        events: CrewEvents,
    ) -> None:
        del selector  # the outputs' pipes are all there is to wait for
        super().__init__()
        self._spec = spec
        self._outputs = outputs
        self._screen = screen
        self._events = events
        self._held: list[Any] = []  # closed at the end
        self._node = spec.where if isinstance(spec.where, OneOfSeveralNodes) else None

    @property
    def expected(self) -> Iterable[int]:
        """This launcher's ranks."""
        return self._spec.placement.ranks_of(self._node.node if self._node else 0)

    def start(self) -> None:
        """Starts them all."""
        spec = self._spec
        try:
            around, identity = self._join_nodes(self._node) if self._node else self._alone()
        except (HoraError, OSError) as error:
            self._events.cannot_start([str(error)])
            return
        inherited = {**terminal_variables(spec.size), **os.environ}
        env = job_environment(inherited, spec.settings, around)
        problem = self.start_ranks(
            spec.placement, around.host, spec.command, env, identity,
            input_rank=0, started=self._started,
        )  # fmt: skip
        if problem:
            self._events.cannot_start([problem])

    def _alone(self) -> tuple[Surroundings, JobIdentity]:
        spec = self._spec
        port = reserve_port()
        self._held.append(port)
        address, number = port.getsockname()[:2]
        around = Surroundings(spec.placement, 0, "localhost", address, number, horovod=spec.horovod)
        if spec.size == 1 or not needs_store({**os.environ, **spec.settings}):
            return around, JobIdentity.on_this_host(spec.size, spec.job_id)
        key = draw_key()
        store = host_store(LOOPBACK, 0, spec.job_id, key, spec.settings)
        self._held.append(store)
        return around, JobIdentity(spec.job_id, key, store=store.address)

    def _join_nodes(self, node: OneOfSeveralNodes) -> tuple[Surroundings, JobIdentity]:
        """Node 0 hosts the store; the ranks' own MASTER_PORT is the next one."""
        spec = self._spec
        secret = read_secret(node.secret_file)
        environ = {**os.environ, **spec.settings}
        if node.node == 0:
            store = host_store(
                node.master_address, node.master_port, secret.job_id, secret.key, spec.settings
            )
            self._held.append(store)
            self._screen.note(f"the store listens on {store.address}")
            address = store.address
        else:
            address = endpoint(resolve(node.master_address), node.master_port)
        around = Surroundings(
            spec.placement, node.node, os.uname().nodename, node.master_address,
            node.master_port + 1, horovod=spec.horovod,
        )  # fmt: skip
        interfaces = interfaces_of(environ)
        identity = JobIdentity(secret.job_id, secret.key, store=address, interfaces=interfaces)
        return around, identity

    def _started(self, process: RankProcess) -> None:
        self._outputs.add(process.rank, process.take_pipes())
        self._events.rank_started(process)

    def seconds_left(self) -> float | None:
        """Nothing here happens at a time."""
        return None

    def tick(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Frees the port and ends the store."""
        super().close()
        for held in self._held:
            held.close()
