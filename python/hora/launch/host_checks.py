"""What an agent finds out about its host before any rank starts."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hora.errors import HoraError
from hora.launch.environment import reserve_port
from hora.launch.store import choose_address, split_endpoint

_REACH_LIMIT_S = 3.0


@dataclass
class Findings:
    """``address``: what the job uses here; ``port`` is held for MASTER_PORT on rank 0's host."""

    problems: list[str] = field(default_factory=list)
    address: str = "127.0.0.1"
    port: socket.socket | None = None

    @property
    def port_number(self) -> int:
        """0 where no port is held."""
        return int(self.port.getsockname()[1]) if self.port else 0


def host_identity() -> str:
    """The same for all agents that are on one host, whatever it was called; "" if nobody can say.

    Containers with a network or processes of their own are hosts of their own, and so is the same
    machine for another user.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        spaces = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "pid")]
    except OSError:
        return ""
    return "/".join(map(str, (boot, *spaces, os.geteuid())))


def check_host(fields: Mapping[str, Any]) -> Findings:
    """Makes the job's folder the current one and checks all that can be; blocks for seconds."""
    found = Findings()
    _check_command(fields, found.problems)
    if fields["store"]:
        try:
            _check_network(fields["interfaces"], fields["store"], found)
        except HoraError as error:
            found.problems.append(str(error))
    if fields["is_first"] and not found.problems:
        try:
            found.port = reserve_port(found.address)
        except OSError as error:
            found.problems.append(f"no port is free on {found.address}: {error.strerror}")
    return found


def _check_command(fields: Mapping[str, Any], problems: list[str]) -> None:
    folder = fields["folder"]
    try:
        os.chdir(folder)
    except OSError as error:
        problems.append(f"working folder {folder}: {error.strerror}")
        return
    environ = {**os.environ, **fields["env"], **fields["settings"]}
    program = fields["command"][0]
    if not shutil.which(program, path=environ.get("PATH")):
        where = "" if "/" in program else f" on PATH={environ.get('PATH', '')}"
        hint = " (--remote-python names another interpreter)" if "python" in program else ""
        problems.append(f"there is no command {program!r}{where}{hint}")
    problems += [
        f"there is no file {name!r} (looked in {folder})"
        for name in fields["files"]
        if not os.path.isfile(name)
    ]


def _check_network(interfaces: list[str], store: str, found: Findings) -> None:
    """Raises HoraError when there is no such interface."""
    address, port = split_endpoint(store)
    found.address = choose_address(interfaces, address)
    try:
        socket.create_connection((address, port), _REACH_LIMIT_S, (found.address, 0)).close()
    except OSError as error:
        reason = error.strerror or f"no answer within {_REACH_LIMIT_S:g} s"
        found.problems.append(
            f"the store at {store} cannot be reached from {found.address}: {reason} "
            "(a firewall? --network-interfaces chooses another network)"
        )
