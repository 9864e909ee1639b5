"""Cuts a byte stream into lines, keeping the carriage returns of progress bars apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

LINE_LIMIT_BYTES = 1 << 20
# A "\r" at the very end stays pending: the next byte tells whether it belongs to a "\r\n".
_LINE_END = re.compile(rb"\r?\n|\r(?!\Z)")


@dataclass(frozen=True)
class Line:
    """One line without its end; ``overwritten`` when a bare carriage return ended it."""

    text: bytes
    overwritten: bool = False


class LineSplitter:
    """Holds the unfinished line of one stream, at most ``LINE_LIMIT_BYTES`` of it."""

    def __init__(self) -> None:
        self._pending = b""

    @property
    def pending(self) -> bytes:
        """The unfinished line so far."""
        return self._pending

    def feed(self, data: bytes) -> list[Line]:
        """Returns the lines that ``data`` completes; an endless line is cut at the limit."""
        buffer = self._pending + data
        lines = []
        start = 0
        for end in _LINE_END.finditer(buffer):
            lines.append(Line(buffer[start : end.start()], overwritten=end.group() == b"\r"))
            start = end.end()
        while len(buffer) - start > LINE_LIMIT_BYTES:
            lines.append(Line(buffer[start : start + LINE_LIMIT_BYTES]))
            start += LINE_LIMIT_BYTES
        self._pending = buffer[start:]
        return lines

    def flush(self) -> list[Line]:
        """Returns the unfinished line as the last one; called at the end of the stream."""
        pending, self._pending = self._pending.removesuffix(b"\r"), b""
        return [Line(pending)] if pending else []
