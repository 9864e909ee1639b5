"""The job's key from a file that only its owner can read, where no launcher reaches all hosts."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from hora.errors import UsageError

VARIABLE = "HORA_SECRET_FILE"
_HOW = "(umask 077; openssl rand -hex 32 > FILE)"
_LIMIT_BYTES = 4096


@dataclass(frozen=True)
class Secret:
    """A job's id, which is public, and its key, 32 bytes in hex."""

    job_id: str
    key: str = field(repr=False)


def read_secret(path: Path) -> Secret:
    """Returns what the file holds: 64 hexadecimal digits. Raises UsageError; never repeats them.

    The job's id is derived from the key, so that all who read the file agree on it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"secret file {path}: {error.strerror}; make one with {_HOW}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"secret file {path} is not a file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise UsageError(
                f"secret file {path} has mode {mode:04o}: others can reach it (chmod 600 {path})"
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise UsageError(f"secret file {path} belongs to user {status.st_uid}, not to you")
        content = os.read(descriptor, _LIMIT_BYTES)
    finally:
        os.close(descriptor)
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(f"secret file {path} is not 64 hexadecimal digits; make one with {_HOW}")
    job_id = hmac.new(key, b"hora job id", hashlib.sha256).hexdigest()[:16]
    return Secret(job_id, key.hex())
