"""Starts the ranks of a peer once and asks them, order by order, through named pipes."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil
from protocol import Answer, merge, parse_answer


class PeerError(RuntimeError):
    """A peer died, went silent or could not be started; the text says why."""


@dataclass(frozen=True)
class Peer:
    """How a library is started. In ``command``, {folder} and {ranks} are filled in.

    It is started once; with ``per_host`` hosts, once on each, with the host's number in {host}; and
    with ``per_rank`` once for each rank, with RANK in {rank}, too.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    per_rank: bool = False
    per_host: int = 1
    in_python: bool = False
    start_timeout: float = 90.0  # s


class RunningPeer:
    """The processes and pipes of one peer. Between orders the ranks sleep in read().

    ``ask`` blocks up to its timeout. Leaving the context ends every process that was started.
    """

    def __init__(self, peer: Peer, ranks: int) -> None:
        self.peer = peer
        self.ranks = ranks
        self.broken = ""  # why it takes no more orders
        self.folder = Path(tempfile.mkdtemp(prefix=f"hora-bench-{peer.name}-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        self._pending = [b""] * ranks

    def __enter__(self) -> RunningPeer:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        for rank in range(self.ranks):
            for direction, ends in (("in", self._inputs), ("out", self._outputs)):
                path = self.folder / f"{direction}.{rank}"
                os.mkfifo(path)
                # Both ways, so that opening does not wait for the other side.
                ends.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        log = (self.folder / "log").open("wb")
        starts = self.ranks if self.peer.per_rank else self.peer.per_host
        for number in range(starts):
            host = number * self.peer.per_host // starts
            place = {"folder": str(self.folder), "ranks": str(self.ranks)}
            place |= {"rank": str(number), "host": str(host)}
            environment = {k: v.format(**place) for k, v in self.peer.environment.items()}
            self._processes.append(
                subprocess.Popen(
                    [word.format(**place) for word in self.peer.command],
                    env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        log.close()
        self._collect(self.peer.start_timeout)

    def ask(self, order: str, timeout: float = 30.0) -> Answer:
        """Sends the line to all ranks and waits for all answers.

        Raises ``PeerError`` when they do not come; the peer is ended then.
        """
        if self.broken:
            raise PeerError(self.broken)
        try:
            for end in self._inputs:
                os.write(end, order.encode() + b"\n")
            return self._collect(timeout)
        except PeerError as error:
            self.broken = str(error)
            self.stop()
            raise

    def _collect(self, timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        lines: list[str | None] = [None] * self.ranks
        while None in lines:
            waiting = [self._outputs[rank] for rank in range(self.ranks) if lines[rank] is None]
            ready, _, _ = select.select(waiting, [], [], 0.5)
            for end in ready:
                rank = self._outputs.index(end)
                self._pending[rank] += os.read(end, 1 << 16)
                line, found, rest = self._pending[rank].partition(b"\n")
                if found:
                    lines[rank], self._pending[rank] = line.decode(), rest
            if not ready:
                self._check_alive(deadline)
        return merge([parse_answer(line) for line in lines if line is not None])

    def _check_alive(self, deadline: float) -> None:
        for process in self._processes:
            if process.poll() is not None:
                raise PeerError(
                    f"{self.peer.name} ended with code {process.returncode}: {self.last_words()}"
                )
        if time.monotonic() > deadline:
            raise PeerError(f"{self.peer.name} gave no answer in time: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what its processes printed."""
        log = self.folder / "log"
        text = log.read_text(errors="replace").strip() if log.exists() else ""
        return " / ".join(text.splitlines()[-4:])[-500:] or "it printed nothing"

    def processes(self) -> list[psutil.Process]:
        """All living processes that belong to it, launchers included."""
        found: list[psutil.Process] = []
        for process in self._processes:
            try:
                top = psutil.Process(process.pid)
                found += [top, *top.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        return found

    def stop(self) -> None:
        """Asks the ranks to end, then makes them."""
        for end in self._inputs:
            try:
                os.write(end, b"quit\n")
            except OSError:
                continue
        family = self.processes()
        _, alive = psutil.wait_procs(family, timeout=2)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in alive:
                try:
                    process.send_signal(sign)
                except psutil.NoSuchProcess:
                    continue
            _, alive = psutil.wait_procs(alive, timeout=2)
        for process in self._processes:
            process.poll()
        for end in self._inputs + self._outputs:
            os.close(end)
        self._inputs, self._outputs, self._processes = [], [], []
        shutil.rmtree(self.folder, ignore_errors=True)
