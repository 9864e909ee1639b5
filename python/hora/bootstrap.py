"""How a rank finds out who it is: its rank, the world size and where its peers meet.

Three sources, in this order:

1. ``HORA_BOOTSTRAP_FD``: ``horarun`` left one JSON document in an inherited pipe;
2. torchrun's variables (``RANK``, ``WORLD_SIZE``, …), with the rest agreed on through its store;
3. neither: a single process, size 1.

The answer is remembered for the life of the process, so init → shutdown → init works although the
pipe can be read only once. Whoever uses ``Bootstrap.listen_fd`` must therefore ``dup`` it before
closing. This module imports torch only in case 2, and only with more than one rank.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import select
import socket
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hora.errors import HoraError, PeerFailedError, UsageError

__all__ = ["Bootstrap", "detect", "open_listener"]

MAX_SIZE = 1 << 20
DOCUMENT_VERSION = 2
_DOCUMENT_LIMIT_BYTES = 64 << 10
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TORCHRUN_MARKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ELASTIC = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE")
_SOURCES = ("HORA_BOOTSTRAP_FD", *_TORCHRUN, *_ELASTIC)


@dataclass(frozen=True)
class Bootstrap:
    """One rank's place in the job and the way to its peers.

    ``rendezvous`` is the abstract AF_UNIX name (without the leading NUL) that rank 0 listens on,
    "" for a single process and for a job over several hosts. ``key`` is the 32-byte job secret;
    ``repr`` leaves it out. ``listen_fd`` is rank 0's listening socket, None elsewhere. ``launcher``
    is "horarun", "torchrun" or "none". ``store`` is the address ("ip:port") where the ranks of
    several hosts meet, "" on one host. ``interfaces`` are the names or networks that a rank may
    listen on there; none: the kernel's choice towards the store.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    rendezvous: str
    key: bytes = field(repr=False)
    listen_fd: int | None
    launcher: str
    job_id: str = ""
    store: str = ""
    interfaces: tuple[str, ...] = ()


_remembered: dict[tuple[object, ...], tuple[Bootstrap, object]] = {}
_lock = threading.Lock()


def detect(environ: Mapping[str, str] = os.environ, *, timeout: float) -> Bootstrap:
    """Returns this process's place in the job; waits at most ``timeout`` seconds for its peers.

    Raises UsageError when a variable has no sensible value (named with its value and the allowed
    range) and HoraError when the launcher or rank 0 does not answer in time.
    """
    with _lock:
        # The process id is part of the key: a forked child is not the rank its parent is.
        identity = (os.getpid(), *(environ.get(name) for name in _SOURCES))
        if identity not in _remembered:
            _remembered[identity] = _detect(environ, timeout)
        return _remembered[identity][0]


def open_listener(size: int) -> tuple[str, socket.socket]:
    """Makes the socket that rank 0 accepts its ``size - 1`` peers on; returns (name, socket)."""
    name = f"hora-{secrets.token_hex(16)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("\0" + name)
    listener.listen(size + 16)
    return name, listener


def _detect(environ: Mapping[str, str], timeout: float) -> tuple[Bootstrap, object]:
    """Returns the bootstrap and what has to stay alive with it (the store that rank 0 hosts)."""
    if "HORA_BOOTSTRAP_FD" in environ:
        return _from_pipe(environ["HORA_BOOTSTRAP_FD"], timeout), None
    if any(name in environ for name in _TORCHRUN_MARKS):
        return _from_torchrun(environ, timeout)
    return _alone("none"), None


def _alone(launcher: str) -> Bootstrap:
    return Bootstrap(0, 1, 0, 1, 0, 1, "", secrets.token_bytes(32), None, launcher)


def _from_pipe(value: str, timeout: float) -> Bootstrap:
    fd = _whole_number("HORA_BOOTSTRAP_FD", value, 3, (1 << 31) - 1)
    if not _is_pipe(fd):
        raise UsageError(
            f"HORA_BOOTSTRAP_FD={value} is not an open pipe in process {os.getpid()}: a forked or "
            "spawned worker is no rank, nor is what a wrapper starts without passing descriptors on"
        )
    document = _read_to_end(fd, value, timeout)
    os.close(fd)
    if not document:
        what = "already read: of each rank, only one process can initialise hora"
        raise UsageError(f"HORA_BOOTSTRAP_FD={value} is {what}")
    return _parse_document(document, value)


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False


def _read_to_end(fd: int, value: str, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    document = bytearray()
    while len(document) <= _DOCUMENT_LIMIT_BYTES:
        left_ms = max(0, int((deadline - time.monotonic()) * 1000))
        if not poller.poll(left_ms):
            raise HoraError(
                f"the pipe HORA_BOOTSTRAP_FD={value} did not end within {timeout:g} s: is horarun "
                "still running?"
            )
        chunk = os.read(fd, 4096)
        if not chunk:
            return bytes(document)
        document += chunk
    raise UsageError(f"the document in HORA_BOOTSTRAP_FD={value} is over {_DOCUMENT_LIMIT_BYTES} B")


def _parse_document(document: bytes, value: str) -> Bootstrap:
    """Checks every field; no message repeats the document, because it holds the job key."""
    try:
        fields = json.loads(document)
        version = fields.pop("version")
        fields["key"] = bytes.fromhex(fields["key"])
        fields["interfaces"] = tuple(fields["interfaces"])
        found = Bootstrap(**fields, launcher="horarun")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        version = found = None
    if version != DOCUMENT_VERSION or found is None or not _is_consistent(found):
        raise UsageError(
            f"the document in HORA_BOOTSTRAP_FD={value} is not one this hora understands "
            f"(version {DOCUMENT_VERSION}): are horarun and the rank's hora of the same version?"
        )
    if found.listen_fd is not None:
        os.set_inheritable(found.listen_fd, False)
    return found


def _is_consistent(found: Bootstrap) -> bool:
    pairs = (
        (found.rank, found.size),
        (found.local_rank, found.local_size),
        (found.cross_rank, found.cross_size),
    )
    return (
        all(type(r) is int and type(n) is int and 0 <= r < n <= MAX_SIZE for r, n in pairs)
        and isinstance(found.rendezvous, str)
        and isinstance(found.job_id, str)
        and len(found.key) == 32
        and (found.listen_fd is None or (type(found.listen_fd) is int and found.listen_fd >= 0))
        and isinstance(found.store, str)
        and all(isinstance(interface, str) for interface in found.interfaces)
        and not (found.store and found.rendezvous)
    )


def _from_torchrun(environ: Mapping[str, str], timeout: float) -> tuple[Bootstrap, object]:
    present = [name for name in _TORCHRUN if name in environ]
    missing = [name for name in _TORCHRUN if name not in environ]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not set although {', '.join(present)} set: torchrun and "
            "horarun set all of them; unset them all for a single process"
        )
    size = _whole_number("WORLD_SIZE", environ["WORLD_SIZE"], 1, MAX_SIZE)
    rank = _whole_number("RANK", environ["RANK"], 0, size - 1)
    local_size = _whole_number("LOCAL_WORLD_SIZE", environ["LOCAL_WORLD_SIZE"], 1, size)
    local_rank = _whole_number("LOCAL_RANK", environ["LOCAL_RANK"], 0, local_size - 1)
    port = _whole_number("MASTER_PORT", environ["MASTER_PORT"], 1, 65535)
    address = environ["MASTER_ADDR"]
    if not address:
        raise UsageError("MASTER_ADDR='' is empty; it must name the host of rank 0")
    if local_size != size:
        raise UsageError(
            f"LOCAL_WORLD_SIZE={local_size} differs from WORLD_SIZE={size}: several hosts are not "
            "supported yet; start all ranks on one host"
        )
    if size == 1:
        return _alone("torchrun"), None
    hosts_store = rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    run = environ.get("TORCHELASTIC_RUN_ID", "none")
    prefix = f"hora/{run}/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = _open_store(address, port, size, hosts_store, timeout)
        agreed, listener = _agree(store, prefix, rank, size)
    except ImportError as error:
        raise UsageError(f"RANK={rank} is set, but torch cannot be imported: {error}") from error
    except RuntimeError as error:
        raise PeerFailedError(
            f"rank {rank} of {size} could not meet the others at MASTER_ADDR:MASTER_PORT="
            f"{address}:{port} within {timeout:g} s: {str(error).splitlines()[0]}"
        ) from error
    listen_fd = listener.detach() if listener else None
    key = bytes.fromhex(agreed["key"])
    place = (rank, size, local_rank, local_size, 0, 1)
    return Bootstrap(*place, agreed["name"], key, listen_fd, "torchrun", agreed["job_id"]), store


def _open_store(address: str, port: int, size: int, is_host: bool, timeout: float) -> Any:
    distributed: Any = importlib.import_module("torch.distributed")
    # multi_tenant: torch.distributed.init_process_group may want the same port later.
    options = {"wait_for_workers": False, "multi_tenant": True}
    limit = timedelta(seconds=timeout)
    return distributed.TCPStore(address, port, size, is_host, limit, **options)


def _agree(
    store: Any, prefix: str, rank: int, size: int
) -> tuple[dict[str, str], socket.socket | None]:
    """Rank 0 publishes where it listens and the job key; the last reader takes them out again."""
    where = f"{prefix}/meet"
    if rank == 0:
        name, listener = open_listener(size)
        agreed = {"name": name, "key": secrets.token_hex(32), "job_id": secrets.token_hex(8)}
        store.set(where, json.dumps(agreed))
        return agreed, listener
    agreed = json.loads(store.get(where))
    if store.add(f"{prefix}/readers", 1) == size - 1:
        store.delete_key(where)
    return agreed, None


def _whole_number(name: str, value: str, low: int, high: int) -> int:
    # len() first: int() of a very long digit string is slow and, from Python 3.11, an error.
    if value.isascii() and value.isdigit() and len(value) <= 10 and low <= int(value) <= high:
        return int(value)
    raise UsageError(f"{name}={value!r} is not a whole number from {low} to {high}")
