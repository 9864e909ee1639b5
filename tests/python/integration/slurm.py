"""A Slurm of its own on this machine: one controller and the nodes n1, n2, all of them this host.

    with Slurm(tmp_path) as slurm:
        code, out, err = slurm.run("srun", "-N", "2", "-n", "4", "hostname")

Everything lies in one folder and listens on free ports; the daemons are ended by process id.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

_TOOLS = ("munged", "slurmctld", "slurmd", "srun", "scontrol")
_READY_LIMIT_S = 30.0
_POLL_S = 0.1


def why_impossible() -> str:
    """What is missing on this machine; "" when Slurm can be started."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = [tool for tool in _TOOLS if not _find(tool)]
    if missing:
        return f"{', '.join(missing)} missing (apt-get install slurmctld slurmd slurm-client munge)"
    return ""


class Slurm:
    """Owns the daemons and their files; see the module's text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "slurm"
        self._stack = ExitStack()

    def __enter__(self) -> Slurm:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """With which Slurm's own commands find this one."""
        return {"SLURM_CONF": str(self._folder / "slurm.conf")}

    def run(
        self, *words: str, limit_s: float = 90, env: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Runs a command to its end: (exit code, stdout, stderr)."""
        done = subprocess.run(
            words,
            env={**os.environ, **self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def _start(self) -> None:
        folder = self._folder
        folder.mkdir(mode=0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self._write_configuration()
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={folder}/munge.sock", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        self._wait_for("munge's socket", (folder / "munge.sock").exists)
        self._daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node)
        self._wait_for("two idle nodes", self._is_idle)

    def _write_configuration(self) -> None:
        folder, host = self._folder, socket.gethostname().partition(".")[0]
        ports = _free_ports(4)
        cpus = os.cpu_count() or 1
        (folder / "slurm.conf").write_text(
            f"ClusterName=hora\nSlurmctldHost={host}(127.0.0.1)\n"
            f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge.sock\n"
            f"SlurmUser=root\nSlurmdUser=root\nSlurmctldPort={ports[0]}\nSlurmdPort={ports[1]}\n"
            f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool.%n\n"
            f"SlurmctldPidFile={folder}/ctld.pid\nSlurmdPidFile={folder}/d.%n.pid\n"
            f"SlurmctldLogFile={folder}/ctld.log\nSlurmdLogFile={folder}/d.%n.log\n"
            "ProctrackType=proctrack/pgid\nTaskPlugin=task/none\nSelectType=select/cons_tres\n"
            "SelectTypeParameters=CR_Core\nMpiDefault=none\nReturnToService=2\n"
            "SwitchType=switch/none\n"
            "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n"
            "SlurmdParameters=config_overrides\n"
            + "".join(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
                "RealMemory=1000\n"
                for node, port in zip(("n1", "n2"), ports[2:], strict=True)
            )
            + "PartitionName=debug Nodes=n1,n2 Default=YES State=UP OverSubscribe=FORCE:8\n"
        )
        (folder / "state").mkdir()

    def _daemon(self, name: str, *words: str) -> None:
        with (self._folder / f"{name}.out").open("a") as output:
            process = subprocess.Popen(
                [_find(name), *words],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(_end, process)

    def _is_idle(self) -> bool:
        _, out, _ = self.run("sinfo", "-h", "-o", "%D %t", limit_s=20)
        return out.split() == ["2", "idle"]

    def _wait_for(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_LIMIT_S
        while not is_there():
            if time.monotonic() > deadline:
                logs = [path.read_text()[-2000:] for path in self._folder.glob("*.out")]
                raise AssertionError(f"no {what} within {_READY_LIMIT_S:g} s: {logs}")
            time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find(tool: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(tool, path=path) or ""


def _free_ports(count: int) -> list[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports
