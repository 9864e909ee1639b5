"""What horarun tells a rank: one JSON document in an inherited pipe."""

from __future__ import annotations

import json
import os
import select
import stat
import time
from collections.abc import Mapping, Sequence

from hora.errors import HoraError, UsageError
from hora.starters.place import MAX_SIZE, Bootstrap, keep_key, whole_number

VARIABLE = "HORA_BOOTSTRAP_FD"
LAUNCHER = "HORA_LAUNCHER"
DOCUMENT_VERSION = 2
_DOCUMENT_LIMIT_BYTES = 64 << 10


def check_given(environ: Mapping[str, str], place: Sequence[str]) -> None:
    """Raises UsageError in a rank of horarun that has lost its pipe: alone, it would wait in vain.

    Not below a launcher that such a rank has started. ``place``: what horarun sets beside it.
    """
    if environ.get(LAUNCHER) == "horarun" and VARIABLE not in environ:
        names = ", ".join([LAUNCHER, *(name for name in place if name in environ)])
        raise UsageError(
            f"{VARIABLE} is not set, although horarun has started this process ({LAUNCHER} is "
            "set): pass the variable and its descriptor on; for a single process unset as well "
            f"{names}"
        )


def from_pipe(value: str, timeout: float) -> Bootstrap:
    """Reads and closes the pipe. Raises UsageError, or HoraError when it does not end in time."""
    fd = whole_number(VARIABLE, value, 3, (1 << 31) - 1)
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
        fields["key"] = keep_key(bytes.fromhex(fields["key"]))
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
