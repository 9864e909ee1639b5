"""A rank's place in the job and the way to its peers, and how variables that say so are read."""

from __future__ import annotations

import importlib
import mmap
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hora.errors import UsageError

MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class Bootstrap:
    """One rank's place in the job and the way to its peers.

    ``rendezvous`` is the abstract AF_UNIX name (without the leading NUL) that rank 0 listens on,
    "" for a single process and for a job over several hosts. ``key`` is the 32-byte job secret, as
    of ``keep_key``; ``repr`` leaves it out. ``listen_fd`` is rank 0's listening socket, None
    elsewhere. ``launcher`` is "horarun", "torchrun", "openmpi", "mpich", "slurm" or "none".
    ``store`` is the address ("ip:port") where the ranks of several hosts meet, "" on one host.
    ``interfaces`` are the names or networks that a rank may listen on there; none: the kernel's
    choice towards the store.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    rendezvous: str
    key: memoryview = field(repr=False)
    listen_fd: int | None
    launcher: str
    job_id: str = ""
    store: str = ""
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Position:
    """What a launcher's variables tell one rank of its place; ``launcher`` as in ``Bootstrap``.

    ``problem`` says why the job cannot be, if this rank knows; the others may not.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str
    how_by_host: str  # the launcher's option that numbers the ranks host by host
    problem: str = ""

    @property
    def is_on_one_host(self) -> bool:
        """Whether all ranks are on this host."""
        return self.local_size == self.size


def alone(launcher: str) -> Bootstrap:
    """The only rank of its job."""
    return Bootstrap(0, 1, 0, 1, 0, 1, "", keep_key(secrets.token_bytes(32)), None, launcher)


def keep_key(key: bytes) -> memoryview:
    """Copies a key into a page of its own that core dumps leave out; it lives as long as the view.

    The bytes given stay where they are until Python uses their memory again.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page.madvise(mmap.MADV_DONTDUMP)
    page[: len(key)] = key
    return memoryview(page)[: len(key)].toreadonly()


def tell_peers(place: Bootstrap, rank: int, problem: str) -> None:
    """Says to all who wait to meet that ``rank`` (-1: somebody) will not come, and why.

    Blocks for a second or two; whoever cannot be reached is not told.
    """
    core = importlib.import_module("hora._core")  # launchers, which import this, need none
    core.tell_peers(place.store, place.rendezvous, place.job_id, bytes(place.key), rank, problem)


def open_listener(size: int) -> tuple[str, socket.socket]:
    """Makes the socket that rank 0 accepts its ``size - 1`` peers on; returns (name, socket)."""
    name = f"hora-{secrets.token_hex(16)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("\0" + name)
    listener.listen(size + 16)
    return name, listener


def require_all(environ: Mapping[str, str], names: Sequence[str], who: str) -> None:
    """Raises UsageError when some of the variables are set and others are not."""
    missing = [name for name in names if name not in environ]
    if missing:
        present = [name for name in names if name in environ]
        raise UsageError(
            f"{', '.join(missing)} not set although {', '.join(present)} set: {who} sets all of "
            "them; unset them all for a single process"
        )


def require_alike(environ: Mapping[str, str], pairs: Mapping[str, str], who: str) -> None:
    """Raises UsageError where a variable and the one that says the same again do not agree."""
    for name, again in pairs.items():
        if name in environ and environ.get(again, environ[name]) != environ[name]:
            raise UsageError(
                f"{name}={environ[name]!r}, but {again}={environ[again]!r}: {who} sets both alike"
            )


def read_position(
    environ: Mapping[str, str], names: Sequence[str], launcher: str, how_by_host: str
) -> Position:
    """Reads rank, size, local rank and local size from the variables of these names, in order.

    Raises UsageError that names the variable, its value and the range.
    """
    of_rank, of_size, of_local_rank, of_local_size = names
    size = whole_number(of_size, environ[of_size], 1, MAX_SIZE)
    rank = whole_number(of_rank, environ[of_rank], 0, size - 1)
    local_size = whole_number(of_local_size, environ[of_local_size], 1, size)
    local_rank = whole_number(of_local_rank, environ[of_local_rank], 0, local_size - 1)
    return Position(rank, size, local_rank, local_size, launcher, how_by_host)


def whole_number(name: str, value: str, low: int, high: int) -> int:
    """Reads a variable's value. Raises UsageError that names it and the range."""
    # len() first: int() of a very long digit string is slow and, from Python 3.11, an error.
    if value.isascii() and value.isdigit() and len(value) <= 10 and low <= int(value) <= high:
        return int(value)
    raise UsageError(f"{name}={value!r} is not a whole number from {low} to {high}")
