"""The launcher's own stdout and stderr: never blocks the job, keeps one progress line alive.

On a terminal the unfinished line of rank 0 (a progress bar, a debugger's prompt) stays the last
line of the screen: whatever another rank prints goes above it. Elsewhere every finished line is
written as it is, carriage returns included.
"""

from __future__ import annotations

import errno
import os
import re
import select
import selectors
import shutil
from collections.abc import Callable

STDOUT, STDERR = 1, 2
_ERASE_LINE = b"\r\x1b[K"
# A poll that says "writable" promises a pipe PIPE_BUF bytes, and a terminal less.
_PIPE_CHUNK_BYTES = 4096
_TERMINAL_CHUNK_BYTES = 256
# An ANSI control sequence, which takes no room on the screen, or a run of anything else.
_CODE_OR_TEXT = re.compile(r"(\x1b\[[0-?]*[ -/]*[@-~])|([^\x1b]+|\x1b)")


class DescriptorWriter:
    """Writes to one descriptor as far as it takes it without blocking; the rest waits its turn."""

    def __init__(
        self, fd: int, selector: selectors.BaseSelector, on_error: Callable[[int, OSError], None]
    ) -> None:
        self._fd = fd
        self._selector = selector
        self._on_error = on_error
        self._buffer = bytearray()
        self._chunk = _TERMINAL_CHUNK_BYTES if os.isatty(fd) else _PIPE_CHUNK_BYTES
        self._poller = select.poll()
        self._poller.register(fd, select.POLLOUT)
        self._is_waiting = False
        self._is_broken = False

    @property
    def backlog_bytes(self) -> int:
        """What is accepted but not yet written."""
        return len(self._buffer)

    def write(self, data: bytes) -> None:
        """Queues ``data`` for the next ``pump``; after an error on the descriptor, drops it."""
        if not self._is_broken:
            self._buffer += data

    def pump(self) -> None:
        """Writes as much as the descriptor takes without blocking."""
        try:
            while self._buffer and self._poller.poll(0):
                written = os.write(self._fd, self._buffer[: self._chunk])
                del self._buffer[:written]
        except OSError as error:
            self._is_broken = True
            self._buffer.clear()
            self._on_error(self._fd, error)
        self._wait_for_room(bool(self._buffer))

    def abandon(self) -> None:
        """Drops what is not written, and all that comes; called before the descriptor closes."""
        self._is_broken = True
        self._buffer.clear()
        self._wait_for_room(False)

    def _wait_for_room(self, wait: bool) -> None:
        if wait and not self._is_waiting:
            self._selector.register(self._fd, selectors.EVENT_WRITE, self.pump)
        elif self._is_waiting and not wait:
            self._selector.unregister(self._fd)
        self._is_waiting = wait


class Terminal:
    """Both descriptors and the live line between them. Main thread only; never blocks.

    ``on_closed`` is called once when the reader of stdout or stderr has gone (EPIPE); other errors
    (a full disk, a terminal that hung up) cost the output but not the job.
    """

    def __init__(self, selector: selectors.BaseSelector, on_closed: Callable[[], None]) -> None:
        self._on_closed = on_closed
        self._writers = {fd: DescriptorWriter(fd, selector, self._failed) for fd in (1, 2)}
        self._is_tty = {fd: os.isatty(fd) for fd in (STDOUT, STDERR)}
        self._live = b""
        self._live_fd = STDOUT

    @property
    def backlog_bytes(self) -> int:
        """Accepted but not yet written, both descriptors."""
        return sum(writer.backlog_bytes for writer in self._writers.values())

    def flush(self) -> None:
        """Writes what can be written now, many lines at a time; called once per turn."""
        for writer in self._writers.values():
            writer.pump()

    def is_tty(self, fd: int) -> bool:
        """Whether ``fd`` (STDOUT or STDERR) is a terminal."""
        return self._is_tty[fd]

    def line(self, fd: int, text: bytes, end: bytes = b"\n") -> None:
        """Shows a finished line; the live line, if any, moves below it."""
        if self._live and self._is_tty[fd]:
            self._writers[fd].write(_ERASE_LINE + text + end + self._live)
        else:
            self._writers[fd].write(text + end)

    def live(self, fd: int, text: bytes) -> None:
        """Replaces the unfinished last line; b"" takes it away where it is this descriptor's."""
        if not self._is_tty[fd] or (not text and (not self._live or self._live_fd != fd)):
            return
        self._live = _shorten(text, shutil.get_terminal_size().columns)
        self._live_fd = fd
        self._writers[fd].write(_ERASE_LINE + self._live)

    def close_live(self) -> None:
        """Leaves what is live on the screen as an ordinary line."""
        if self._live:
            self._writers[self._live_fd].write(b"\n")
            self._live = b""

    def note(self, text: str) -> None:
        """The launcher's own message, on stderr."""
        self.line(STDERR, f"hora: {text}".encode(errors="replace"))

    def _failed(self, fd: int, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            self._on_closed()
        elif fd == STDOUT:
            self.note(f"standard output cannot be written ({error.strerror}); the job goes on")


def _shorten(text: bytes, columns: int) -> bytes:
    """Cuts what would wrap, because only one screen row can be erased; keeps all control codes."""
    if len(text) < columns:
        return text
    room = columns - 1
    kept = []
    for code, shown in _CODE_OR_TEXT.findall(text.decode(errors="ignore")):
        kept.append(code or shown[:room])
        room -= len(kept[-1]) if shown else 0
    return "".join(kept).encode()
