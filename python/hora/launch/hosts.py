"""Where ranks may run, as Horovod's users say it: for now, all of it must mean this host."""

from __future__ import annotations

import socket
from pathlib import Path

from hora.errors import UsageError


def slots_here(hosts: str | None, hostfile: str | None) -> int | None:
    """How many ranks this host has room for; None when neither was given.

    ``hosts`` is ``HOST[:N],…``; ``hostfile`` names a file of lines ``HOST [slots=N]`` or
    ``HOST:N``. Raises UsageError for another host, and for what cannot be read.
    """
    if hosts is not None and hostfile is not None:
        raise UsageError("give either --hosts or --hostfile, not both")
    if hosts is not None:
        return sum(_slots("--hosts", word.strip()) for word in hosts.split(","))
    if hostfile is None:
        return None
    try:
        lines = Path(hostfile).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"--hostfile {hostfile}: {reason}") from None
    entries = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    slots = [_slots(f"{hostfile}:{number}", text) for number, text in entries if text]
    if not slots:
        raise UsageError(f"--hostfile {hostfile}: it names no host")
    return sum(slots)


def _slots(where: str, text: str) -> int:
    host, *count = text.replace(" slots=", ":").replace(" ", "").rsplit(":", 1)
    number = count[0] if count else "1"
    if not host or not number.isascii() or not number.isdigit() or int(number[:9]) < 1:
        raise UsageError(f"{where}: {text!r} is not a host with its number of slots, as in host:4")
    if host not in _own_names():
        raise UsageError(
            f"{where}: {host!r} is not this host ({socket.gethostname()}); hora does not start "
            "ranks on other hosts yet"
        )
    return int(number[:9])


def _own_names() -> set[str]:
    name = socket.gethostname()
    return {"localhost", "127.0.0.1", "[::1]", name, name.split(".")[0]}
