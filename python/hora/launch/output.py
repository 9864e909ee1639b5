"""From the ranks to the screen and to ``--output-dir``: prefixes, files, the last lines."""

from __future__ import annotations

import os
import selectors
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from hora.launch.lines import Line, LineSplitter
from hora.launch.output_pipes import BACKLOG_LIMIT_BYTES, OutputPipes
from hora.launch.terminal import STDERR, STDOUT, Terminal

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


class RankStream:
    """What one rank writes to stdout or stderr: shown line by line, and recorded as it is."""

    def __init__(self, rank: int, fd: int, style: OutputStyle, screen: Terminal) -> None:
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

    def feed(self, data: bytes) -> None:
        """Shows the lines that ``data`` completes, and of rank 0 also the unfinished one."""
        self._record(data)
        for line in self._lines.feed(data):
            self._show(line)
        if self._rank == 0 and not self._style.quiet:
            # What a bare "\r" ended stays visible until the text that overwrites it comes.
            live = self._lines.pending.removesuffix(b"\r") or self._overwritten
            self._screen.live(self._fd, self._decorate(live) if live else b"")

    def close(self) -> None:
        """Shows the unfinished line and lets the file go."""
        for line in self._lines.flush() or [Line(b"")] * bool(self._overwritten):
            self._show(line)
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
    """All ranks' streams: of ranks here through pipes in a selector, of others through ``feed``.

    Stops reading pipes while the screen lags behind; whoever feeds looks at ``is_reading``.
    """

    def __init__(
        self, size: int, style: OutputStyle, selector: selectors.BaseSelector, screen: Terminal
    ) -> None:
        self._size = size
        self._style = style
        self._screen = screen
        self._streams: dict[tuple[int, int], RankStream] = {}
        self._pipes = OutputPipes(selector, self.feed, self.close)

    def add(self, rank: int, pipes: tuple[int, int] | None = None) -> None:
        """Expects a rank's output; raises OSError when its files cannot be made.

        ``pipes`` are the read ends of (stdout, stderr), which are taken over.
        """
        for fd in _NAMES:
            self._streams[rank, fd] = RankStream(rank, fd, self._style, self._screen)
        if pipes:
            self._pipes.add(rank, *pipes)
        if self._style.directory:
            folder = rank_folder(self._style.directory, rank, self._size)
            folder.mkdir(parents=True, exist_ok=True)
            for fd, name in _NAMES.items():
                self._streams[rank, fd].record_to(folder / name)

    def feed(self, rank: int, fd: int, data: bytes) -> None:
        """What the rank wrote to STDOUT or STDERR."""
        stream = self._streams.get((rank, fd))
        if stream and stream.is_open:
            stream.feed(data)

    def close(self, rank: int, fd: int) -> None:
        """The rank will write no more to STDOUT or STDERR."""
        stream = self._streams.get((rank, fd))
        if stream and stream.is_open:
            stream.close()

    @property
    def is_reading(self) -> bool:
        """Whether the screen keeps up."""
        return self._pipes.is_reading

    def throttle(self) -> None:
        """Called once per turn: full pipes hold the ranks back, as a slow terminal would."""
        self._pipes.listen(self._screen.backlog_bytes < BACKLOG_LIMIT_BYTES)

    def catch_up(self, rank: int) -> None:
        """Shows what an ended rank has left in its pipes (one read takes all they can hold)."""
        self._pipes.catch_up(rank)

    def finish(self) -> None:
        """Shows what is left; called when no process holds the pipes' other ends."""
        self._pipes.finish()
        for rank, fd in self._streams:
            self.close(rank, fd)
        self._screen.close_live()

    def tail(self, rank: int) -> list[bytes]:
        """The last lines of the rank's stderr."""
        stream = self._streams.get((rank, STDERR))
        return list(stream.tail) if stream else []


def rank_folder(directory: Path, rank: int, size: int) -> Path:
    """``directory/rank.<r>``, padded with zeros so that a listing sorts by rank."""
    return directory / f"rank.{rank:0{len(str(size - 1))}d}"


def _prefix(rank: int, fd: int, is_tty: bool) -> bytes:
    if is_tty and "NO_COLOR" not in os.environ:
        colour = 31 if fd == STDERR else _COLOURS[rank % len(_COLOURS)]
        return f"\x1b[{colour}m[{rank}]\x1b[0m ".encode()
    return f"[{rank}]{'!' if fd == STDERR else ''} ".encode()
