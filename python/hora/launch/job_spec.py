"""What the command line amounts to: the ranks' program, and where they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hora.launch.bootstrap_pipe import draw_id
from hora.launch.hosts import Host
from hora.launch.output import OutputStyle
from hora.launch.placement import Placement
from hora.launch.ssh import SshOptions


@dataclass(frozen=True)
class SeveralHosts:
    """This launcher starts the ranks of all hosts: by ssh, except on its own."""

    hosts: tuple[Host, ...]
    ssh: SshOptions = field(default_factory=SshOptions)


@dataclass(frozen=True)
class OneOfSeveralNodes:
    """One launcher on each host, told apart by ``node``; the store is node 0's.

    ``master_address`` and ``master_port`` are where the store listens; all launchers read the same
    key from ``secret_file``.
    """

    node: int
    master_address: str
    master_port: int
    secret_file: Path


@dataclass(frozen=True)
class JobSpec:
    """What to run: ``settings`` are environment variables that the options stand for.

    ``where`` None: on this host. ``notes`` are said before the ranks start.
    """

    placement: Placement
    command: Sequence[str]
    settings: Mapping[str, str] = field(default_factory=dict)
    style: OutputStyle = field(default_factory=OutputStyle)
    grace_s: float = 5.0
    verbose: bool = False
    notes: Sequence[str] = ()
    horovod: bool = False  # also say each rank's place in HOROVOD_* variables
    where: SeveralHosts | OneOfSeveralNodes | None = None
    job_id: str = field(default_factory=draw_id)

    @property
    def size(self) -> int:
        """The number of ranks of the whole job."""
        return self.placement.size
