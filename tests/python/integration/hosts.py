"""Several hosts on one machine: network namespaces behind a bridge, each with an sshd of its own.

    with Hosts(2, tmp_path) as hosts:
        job = hosts.run("h1", *hosts.horarun("-H", "h1:2,h2:2", "true"))

The hosts are called h1, h2, … (10.77.0.1, 10.77.0.2, … on eth0, also on a loopback of their own)
and share the file system. Everything is taken away at the end, also after a failure half-way.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType

SSH_PORT = 2222
_NETWORK = "10.77.0"
_TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "unshare")
_READY_LIMIT_S = 20.0
_numbers = count(1)  # of the networks that this process made
_ENTER = 'hostname "$1"; shift; exec "$@"'


def why_impossible() -> str:
    """What is missing on this machine; "" when hosts can be made."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in _TOOLS if not _find(tool)]
    if missing:
        return f"{', '.join(missing)} missing (apt-get install openssh-server iproute2)"
    probe = f"hora-probe-{os.getpid()}"
    made = subprocess.run([_find("ip"), "netns", "add", probe], capture_output=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.decode().strip()}"
    _ip("netns", "del", probe)
    return ""


class Hosts:
    """Owns namespaces, daemons, keys and files; see the module's text."""

    def __init__(self, size: int, folder: Path) -> None:
        self.names = [f"h{number}" for number in range(1, size + 1)]
        self._folder = folder
        self._stack = ExitStack()
        self._prefix = f"hora-{os.getpid()}-{next(_numbers)}"
        self._switch = f"{self._prefix}-switch"

    def __enter__(self) -> Hosts:
        try:
            self._make_keys()
            self._add_namespace(self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
            for index, name in enumerate(self.names):
                self._connect(name, index)
            for name in self.names:
                self.start_sshd(name)
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

    # --- use -------------------------------------------------------------------------------------

    def address(self, name: str) -> str:
        """The host's address on the network that all share."""
        return f"{_NETWORK}.{self.names.index(name) + 1}"

    def link_local(self, name: str) -> str:
        """The address that eth0 gives itself (fe80::…%eth0), once all hosts can use their own."""
        return {one: self._tried_link_local(one) for one in self.names}[name]

    def _tried_link_local(self, name: str) -> str:
        deadline = time.monotonic() + _READY_LIMIT_S
        while time.monotonic() < deadline:
            words = ("-6", "-o", "addr", "show", "dev", "eth0", "scope", "link", "-tentative")
            for line in _ip("-n", self.namespace(name), *words).splitlines():
                return line.split()[3].partition("/")[0] + "%eth0"
            time.sleep(0.05)
        raise AssertionError(f"{name} has no link-local address")

    def namespace(self, name: str) -> str:
        """The host's network namespace."""
        return f"{self._prefix}-{name}"

    def command(self, name: str, *words: str) -> list[str]:
        """The argument vector that runs ``words`` on the host."""
        enter = [_find("unshare"), "--uts", "sh", "-c", _ENTER, "sh", name]
        return [_find("ip"), "netns", "exec", self.namespace(name), *enter, *words]

    def horarun(self, *words: str) -> list[str]:
        """A launcher whose ssh uses this network's keys and port."""
        options = ["--ssh-port", str(SSH_PORT), "--ssh-identity-file", str(self._folder / "id")]
        for option in self._ssh_options():
            options += ["--ssh-option", option]
        return [sys.executable, "-m", "hora.launch", *options, *words]

    def ssh_script(self) -> Path:
        """A program that is ssh with this network's keys and port, for other launchers."""
        script = self._folder / "ssh.sh"
        options = " ".join(f"-o {option}" for option in self._ssh_options())
        script.write_text(
            f'#!/bin/sh\nexec ssh -p {SSH_PORT} -i {self._folder}/id {options} "$@"\n'
        )
        script.chmod(0o755)
        return script

    def _ssh_options(self) -> tuple[str, ...]:
        return (
            f"UserKnownHostsFile={self._folder / 'known_hosts'}",
            "GlobalKnownHostsFile=none",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
        )

    def start(
        self, name: str, words: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a program on the host; its stdout and stderr are pipes."""
        return subprocess.Popen(
            self.command(name, *words),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        name: str,
        words: Sequence[str],
        limit_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, str, str]:
        """Runs a program on the host to its end: (exit code, stdout, stderr)."""
        process = self.start(name, words, env)
        try:
            out, err = process.communicate(timeout=limit_s)
        finally:
            process.kill()
        return process.returncode, out, err

    def processes(self, name: str) -> list[int]:
        """The process ids of everything that runs on the host but its sshd."""
        listed = _ip("netns", "pids", self.namespace(name)).split()
        return [int(pid) for pid in listed if "sshd" not in _name_of(pid)]

    def set_link(self, name: str, state: str) -> None:
        """Pulls ("down") or plugs ("up") the host's cable."""
        _ip("-n", self.namespace(name), "link", "set", "eth0", state)

    def stop_sshd(self, name: str) -> None:
        """Ends the host's sshd and all its sessions."""
        for pid in _ip("netns", "pids", self.namespace(name)).split():
            if "sshd" in _name_of(pid):
                _kill(int(pid))

    def start_sshd(self, name: str) -> None:
        """Starts the host's sshd and waits until it listens."""
        config = self._folder / f"sshd_{name}.conf"
        config.write_text(
            f"Port {SSH_PORT}\nListenAddress {self.address(name)}\n"
            f"HostKey {self._folder}/host_key\n"
            f"AuthorizedKeysFile {self._folder}/id.pub\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        words = self.command(name, _find("sshd"), "-D", "-e", "-f", str(config))
        daemon = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        timer = threading.Timer(_READY_LIMIT_S, daemon.kill)
        timer.start()
        assert daemon.stderr
        said = ""
        for line in daemon.stderr:
            said += line
            if "Server listening" in line:
                break
        timer.cancel()
        log = threading.Thread(target=daemon.stderr.read)  # lest the pipe fill
        log.start()
        self._stack.callback(log.join)
        self._stack.callback(daemon.wait)
        self._stack.callback(daemon.kill)
        assert "Server listening" in said, f"sshd on {name}: {said}"

    # --- making ----------------------------------------------------------------------------------

    def _make_keys(self) -> None:
        keygen = _find("ssh-keygen")
        for name in ("id", "host_key"):
            path = str(self._folder / name)
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        kind, public, *_ = (self._folder / "host_key.pub").read_text().split()
        lines = [f"[{name}]:{SSH_PORT} {kind} {public}\n" for name in self.names]
        (self._folder / "known_hosts").write_text("".join(lines))

    def _add_namespace(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._stack.callback(_remove_namespace, namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _connect(self, name: str, index: int) -> None:
        namespace, port = self.namespace(name), f"port{index}"
        etc = Path("/etc/netns") / namespace
        etc.mkdir(parents=True)
        self._stack.callback(shutil.rmtree, etc)
        lines = ["127.0.0.1 localhost", *(f"{self.address(one)} {one}" for one in self.names)]
        (etc / "hosts").write_text("\n".join(lines) + "\n")
        (etc / "resolv.conf").write_text("")
        self._add_namespace(namespace)
        peer = ("peer", "name", port, "netns", self._switch)
        _ip("-n", namespace, "link", "add", "eth0", "type", "veth", *peer)
        _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        _ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")


def _find(tool: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(tool, path=path) or ""


def _ip(*words: str) -> str:
    done = subprocess.run([_find("ip"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


def _name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _remove_namespace(namespace: str) -> None:
    while pids := _ip("netns", "pids", namespace).split():
        for pid in pids:
            _kill(int(pid))
    _ip("netns", "del", namespace)
