"""Where ranks may run, as Horovod's users say it: ``-H h1:2,h2:2`` or a file of such lines."""

from __future__ import annotations

import importlib
import re
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from hora.errors import UsageError

# Nothing that a shell, ssh or a path would take for more than a name.
_NAME = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?"
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])"
)
_MOST_SLOTS = 1 << 20
_RESOLVER_LIMIT_S = 3.0


@dataclass(frozen=True)
class Host:
    """A host and how many ranks it has room for; ``is_here``: it is this one."""

    name: str
    slots: int
    is_here: bool = False

    @property
    def address(self) -> str:
        """The name without user and brackets."""
        return self.name.rpartition("@")[2].strip("[]")


def read_hosts(hosts: str | None, hostfile: str | None) -> tuple[Host, ...]:
    """The hosts in their order, each once; () when neither was given.

    ``hosts`` is ``HOST[:N],…``; ``hostfile`` names a file of lines ``HOST [slots=N]`` or
    ``HOST:N``, with # comments. Raises UsageError that names the flag, or the file and line.
    """
    if hosts is not None and hostfile is not None:
        raise UsageError("give either --hosts or --hostfile, not both")
    if hosts is not None:
        return _each_once(_host("--hosts", word.strip()) for word in hosts.split(","))
    if hostfile is None:
        return ()
    try:
        lines = Path(hostfile).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"--hostfile {hostfile}: {reason}") from None
    entries = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    found = _each_once(_host(f"{hostfile}:{number}", text) for number, text in entries if text)
    if not found:
        raise UsageError(f"--hostfile {hostfile}: it names no host")
    return found


def _host(where: str, text: str) -> Host:
    name, _, number = re.sub(r"\s+slots\s*=\s*", ":", text).rpartition(":")
    if not name or text.endswith("]"):
        name, number = text, "1"
    is_number = number.isascii() and number.isdigit() and len(number) < 9
    if not text or not is_number or not 1 <= int(number) <= _MOST_SLOTS:
        raise UsageError(f"{where}: {text!r} is not a host with its number of slots, as in host:4")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: {name!r} is not the name or address of a host")
    return Host(name, int(number))


def _each_once(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Adds up what is said about the same host; all names of this host are one."""
    named: dict[str, int] = {}
    for host in hosts:
        named[host.name] = named.get(host.name, 0) + host.slots
    here = _names_of_this_host(list(named))
    found: dict[str, Host] = {}
    for name, slots in named.items():
        is_here = name in here
        known = found.get("" if is_here else name, Host(name, 0, is_here))
        found["" if is_here else name] = replace(known, slots=known.slots + slots)
    return tuple(found.values())


def _names_of_this_host(names: Sequence[str]) -> set[str]:
    """Asks about all names at once, since each one may wait for a resolver; not for ever."""
    here: set[str] = set()

    def ask(name: str) -> None:
        if is_this_host(name):
            here.add(name)

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _RESOLVER_LIMIT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return set(here)


def is_this_host(name: str) -> bool:
    """Whether the name, or one of its addresses, is this host's.

    A name that only ssh knows is another host. May block in the resolver for a name that is neither
    this host's own nor a number.
    """
    if "@" in name:
        return False  # perhaps as another user
    bare = name.strip("[]")
    own = socket.gethostname()
    if bare in {"localhost", "127.0.0.1", "::1", own, own.split(".")[0]}:
        return True
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_is_own(str(entry[4][0])) for entry in found)


def _is_own(address: str) -> bool:
    bare = address.partition("%")[0]
    if ip_address(bare).is_loopback:
        return True
    psutil: Any = importlib.import_module("psutil")
    # Not by trying to bind it: some machines may bind addresses that they do not have (yet).
    own = (info.address for infos in psutil.net_if_addrs().values() for info in infos)
    return bare in {name.partition("%")[0] for name in own}
