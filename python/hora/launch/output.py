"""From the ranks' pipes to the screen and to ``--output-dir``: prefixes, files, the last lines."""

from __future__ import annotations

import os
import selectors
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import BinaryIO

from hora.launch.lines import Line, LineSplitter
from hora.launch.terminal import STDERR, STDOUT, Terminal

_READ_BYTES = 64 << 10
_BACKLOG_LIMIT_BYTES = 1 << 20
_TAIL_LINES = 20
_COLOURS = (36, 32, 33, 34, 35, 96)  # never red: that is stderr's
_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


@dataclass(frozen=True)
class OutputStyle:
    """How ranks' lines are shown: ``directory`` None means no files."""

    prefix: bool = True
    timestamp: bool = False
    quiet: bool = False
    directory: Path | None = None


class Progress(Enum):
    """What reading a pipe came to."""

    MORE = "there may be more"
    EMPTY = "nothing at the moment"
    END = "every writer has closed it"


class RankStream:
    """One pipe of one rank. Owns the pipe's read end and its file; reads without blocking."""

    def __init__(self, pipe: int, rank: int, fd: int, style: OutputStyle, screen: Terminal) -> None:
        os.set_blocking(pipe, False)
        self.pipe = pipe
        self.is_open = True
        self.tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._rank = rank
        self._fd = fd
        self._style = style
        self._screen = screen
        self._prefix = _prefix(rank, fd, screen.is_tty(fd)) if style.prefix else b""
        self._lines = LineSplitter()
        self._overwritten = b""
        self._file: BinaryIO | None = None

    def record_to(self, path: Path) -> None:
        """Also writes every byte, unchanged, to ``path``; raises OSError."""
        self._file = path.open("wb", buffering=0)

    def read(self) -> Progress:
        """Takes and shows what is there, up to 64 KiB."""
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            return Progress.EMPTY
        if not data:
            return Progress.END
        self._record(data)
        for line in self._lines.feed(data):
            self._show(line)
        if self._rank == 0 and not self._style.quiet:
            # What a bare "\r" ended stays visible until the text that overwrites it comes.
            live = self._lines.pending.removesuffix(b"\r") or self._overwritten
            self._screen.live(self._fd, self._decorate(live) if live else b"")
        return Progress.MORE

    def close(self) -> None:
        """Shows the unfinished line and lets the pipe and the file go."""
        for line in self._lines.flush() or [Line(b"")] * bool(self._overwritten):
            self._show(line)
        os.close(self.pipe)
        self.is_open = False
        if self._file:
            self._file.close()

    def _show(self, line: Line) -> None:
        on_tty = self._screen.is_tty(self._fd)
        if on_tty and line.overwritten:
            self._overwritten = line.text or self._overwritten
            return
        # On a terminal, "10 %\r\n" leaves "10 %" on the screen.
        text = line.text or self._overwritten
        self._overwritten = b""
        if not line.overwritten:
            self.tail.append(text)
        if self._style.quiet:
            return
        if self._rank == 0:
            self._screen.live(self._fd, b"")
        if line.overwritten:
            self._screen.line(self._fd, self._decorate(text) if text else b"", b"\r")
        else:
            self._screen.line(self._fd, self._decorate(text))

    def _decorate(self, text: bytes) -> bytes:
        readable = text.decode(errors="replace").encode()
        stamp = f"{datetime.now():%Y-%m-%d %H:%M:%S.%f}"[:-3] + " " if self._style.timestamp else ""
        return stamp.encode() + self._prefix + readable

    def _record(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            name = f"{self._file.name}: {error.strerror}"
            self._screen.note(f"cannot write {name}; the job goes on without this file")
            self._file.close()
            self._file = None


class RankOutputs:
    """All ranks' streams in one selector; stops reading while the screen lags behind."""

    def __init__(
        self, size: int, style: OutputStyle, selector: selectors.BaseSelector, screen: Terminal
    ) -> None:
        self._size = size
        self._style = style
        self._selector = selector
        self._screen = screen
        self._streams: dict[tuple[int, int], RankStream] = {}
        self._is_reading = True

    def add(self, rank: int, stdout: int, stderr: int) -> None:
        """Takes over both pipes of a rank; raises OSError when its files cannot be made."""
        for fd, pipe in ((STDOUT, stdout), (STDERR, stderr)):
            stream = RankStream(pipe, rank, fd, self._style, self._screen)
            self._streams[rank, fd] = stream
            self._listen(stream)
        if self._style.directory:
            folder = rank_folder(self._style.directory, rank, self._size)
            folder.mkdir(parents=True, exist_ok=True)
            for fd, name in _NAMES.items():
                self._streams[rank, fd].record_to(folder / name)

    def throttle(self) -> None:
        """Called once per turn: full pipes hold the ranks back, as a slow terminal would."""
        want = self._screen.backlog_bytes < _BACKLOG_LIMIT_BYTES
        if want != self._is_reading:
            self._is_reading = want
            for stream in self._open_streams():
                if want:
                    self._listen(stream)
                else:
                    self._selector.unregister(stream.pipe)

    def catch_up(self, rank: int) -> None:
        """Shows what an ended rank has left in its pipes (one read takes all they can hold)."""
        for fd in (STDOUT, STDERR):
            stream = self._streams.get((rank, fd))
            if stream and stream.is_open:
                self._read(stream)

    def finish(self) -> None:
        """Shows what is left in the pipes; called when no process holds their other ends."""
        for stream in self._open_streams():
            while self._read(stream):
                pass
            if stream.is_open:
                self._close(stream)
        self._screen.close_live()

    def tail(self, rank: int) -> list[bytes]:
        """The last lines of the rank's stderr."""
        stream = self._streams.get((rank, STDERR))
        return list(stream.tail) if stream else []

    def _listen(self, stream: RankStream) -> None:
        self._selector.register(stream.pipe, selectors.EVENT_READ, partial(self._read, stream))

    def _read(self, stream: RankStream) -> bool:
        """Returns whether there may be more."""
        progress = stream.read()
        if progress is Progress.END:
            self._close(stream)
        return progress is Progress.MORE

    def _close(self, stream: RankStream) -> None:
        if self._is_reading:
            self._selector.unregister(stream.pipe)
        stream.close()

    def _open_streams(self) -> list[RankStream]:
        return [stream for stream in self._streams.values() if stream.is_open]


def rank_folder(directory: Path, rank: int, size: int) -> Path:
    """``directory/rank.<r>``, padded with zeros so that a listing sorts by rank."""
    return directory / f"rank.{rank:0{len(str(size - 1))}d}"


def _prefix(rank: int, fd: int, is_tty: bool) -> bytes:
    if is_tty and "NO_COLOR" not in os.environ:
        colour = 31 if fd == STDERR else _COLOURS[rank % len(_COLOURS)]
        return f"\x1b[{colour}m[{rank}]\x1b[0m ".encode()
    return f"[{rank}]{'!' if fd == STDERR else ''} ".encode()
