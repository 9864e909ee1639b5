"""What a launcher and its agents say to each other: one JSON object per line, both ways.

Agent to launcher: ``hello`` (hora, python, host, address), ``checked`` (problems, address, port),
``rank`` (rank, pid), ``out`` (rank, fd, data in base64), ``shut`` (rank, fd), ``exit`` (ranks:
rank, code and oom_kills of each), ``failed`` (reason), ``alive``, ``end`` (left).

Launcher to agent: ``check`` (what the checks need), ``start`` (the key and what the ranks need),
``signal`` (number), ``terminate``, ``kill``, ``alive``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hora.settings import seconds

_LINE_LIMIT_BYTES = 4 << 20
_NOISE_LIMIT_BYTES = 64 << 10
_HEARTBEAT = "HORA_HEARTBEAT_SECONDS"
_HEARTBEAT_S = 3.0
# ssh and a busy launcher are slower than the ranks' own connections.
_HEARTBEATS = 10.0
_SIGNS = 6.0  # within the limit
_LONGEST_PAUSE_S = 5.0
SILENCE_LIMIT_S = _HEARTBEATS * _HEARTBEAT_S


class ProtocolError(Exception):
    """What came is no message; the text says what it was."""


def silence_limit(environ: Mapping[str, str]) -> float:
    """After so many seconds of silence launcher and agent take each other for lost.

    Ten times what ranks wait for another host; the default for a value that they will refuse.
    """
    try:
        heartbeat = seconds(3600, low=0.2)(environ.get(_HEARTBEAT, str(_HEARTBEAT_S)))
    except ValueError:
        return SILENCE_LIMIT_S
    return _HEARTBEATS * float(heartbeat)


def alive_every(silence_limit_s: float) -> float:
    """How often each side says that it is there."""
    return min(silence_limit_s / _SIGNS, _LONGEST_PAUSE_S)


def encode(kind: str, **fields: Any) -> bytes:
    """One line."""
    return json.dumps({"kind": kind, **fields}).encode() + b"\n"


class MessageReader:
    """Cuts one stream into messages. Lines before the first one are noise (a login script's)."""

    def __init__(self, first_kind: str) -> None:
        self._first_kind = first_kind
        self._has_begun = False
        self._pending = b""
        self._noise_bytes = 0
        self.noise = b""  # the last line of it

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Returns the messages that ``data`` completes. Raises ProtocolError."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > _LINE_LIMIT_BYTES:
            raise ProtocolError("a line without end")
        return [message for line in lines if (message := self._message(line)) is not None]

    def _message(self, line: bytes) -> dict[str, Any] | None:
        try:
            message = json.loads(line)
            kind = message["kind"]
        except (ValueError, TypeError, KeyError, RecursionError):
            message = kind = None
        if self._has_begun:
            if not isinstance(kind, str):
                raise ProtocolError(f"{_shown(line)} instead of a message")
            return dict(message)
        if kind == self._first_kind:
            self._has_begun = True
            return dict(message)
        self._noise_bytes += len(line)
        self.noise = line or self.noise
        if self._noise_bytes > _NOISE_LIMIT_BYTES:
            raise ProtocolError(f"{_shown(line)} and more instead of a message")
        return None


def _shown(line: bytes) -> str:
    return repr(line[:60].decode(errors="replace"))
