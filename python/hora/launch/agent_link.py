"""The launcher's end of one agent: its process (ssh, or the agent itself) and three pipes."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hora.launch.fates import signal_name
from hora.launch.messages import (
    MessageReader,
    ProtocolError,
    alive_every,
    encode,
)
from hora.launch.process_tree import die_with_parent
from hora.launch.terminal import DescriptorWriter

_READ_BYTES = 256 << 10
_STDERR_BYTES = 4096
_HINTS = {
    "No module named 'hora": "install this hora for that Python, or name one with --remote-python",
    "Host key verification failed": "log in once by hand, or add its key to known_hosts",
}
_NO_KEY_FILE = "Warning: Identity file"


class AgentLink:
    """Owns the process and the pipes. Main thread only; never blocks.

    ``message(kind, fields)`` gets what the agent says. ``problem`` is what went wrong with the
    connection, "" while nothing did.
    """

    def __init__(
        self,
        words: Sequence[str],
        selector: selectors.BaseSelector,
        message: Callable[[dict[str, Any]], None],
        silence_limit_s: float,
    ) -> None:
        """Starts the process. Raises OSError."""
        self._silence_limit_s = silence_limit_s
        self._alive_every_s = alive_every(silence_limit_s)
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - one thread here
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self.pid = self._process.pid
        self.problem = ""
        self.is_running = True
        self._program = os.path.basename(words[0])
        self._selector = selector
        self._message = message
        self._reader = MessageReader("hello")
        self._stdin = DescriptorWriter(self._process.stdin.fileno(), selector, self._cannot_write)
        self._stdout = self._process.stdout.fileno()
        self._stderr = self._process.stderr.fileno()
        self._stderr_tail = b""
        self._listens = self._stdout_ended = self._stderr_ended = False
        self._heard = self._said = time.monotonic()
        for fd in (self._stdout, self._stderr):
            os.set_blocking(fd, False)
        selector.register(self._stderr, selectors.EVENT_READ, self._read_stderr)
        self.listen(True)

    def send(self, kind: str, **fields: Any) -> None:
        """Queues a message and writes what can be written now."""
        self._said = time.monotonic()
        self._stdin.write(encode(kind, **fields))
        self._stdin.pump()

    def listen(self, want: bool) -> None:
        """Starts or stops reading messages; a full pipe holds the ranks' output back."""
        if want == self._listens or (want and self._stdout_ended):
            return
        self._listens = want
        if want:
            self._heard = time.monotonic()
            self._selector.register(self._stdout, selectors.EVENT_READ, self._read)
        else:
            self._selector.unregister(self._stdout)

    def tick(self) -> None:
        """Says that this side is alive, and notes when the other one is silent."""
        if not self.is_running:
            return
        now = time.monotonic()
        if now - self._said >= self._alive_every_s:
            self.send("alive")
        if self._listens and now - self._heard > self._silence_limit_s:
            self.fail(f"no sign of life for {self._silence_limit_s:g} s")

    def seconds_left(self) -> float:
        """Until ``tick`` has something to do."""
        return max(0.0, self._said + self._alive_every_s - time.monotonic())

    def fail(self, problem: str) -> None:
        """Notes the first thing that went wrong, and ends the process."""
        self.problem = self.problem or problem
        self.kill()

    def kill(self) -> None:
        """Ends the process; the agent, which reads end of file, ends its ranks."""
        if self.is_running:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended and waits to be reaped

    def reaped(self, status: int) -> None:
        """Takes what the process has left in its pipes and closes them."""
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        while self._read():
            pass
        self._end_stdout()
        while self._read_stderr():
            pass
        self._end_stderr()
        self.is_running = False
        self._stdin.abandon()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe
            pipe.close()
        self.problem = self.problem or self._how_it_ended(code)

    def _how_it_ended(self, code: int) -> str:
        said = [line.strip() for line in self._stderr_tail.decode(errors="replace").splitlines()]
        reason = next((line for line in reversed(said) if line), "")
        if not reason and self._reader.noise:
            reason = f"it said {self._reader.noise[:60].decode(errors='replace')!r}"
        hints = [hint for mark, hint in _HINTS.items() if mark in reason]
        hints += [line for line in said if line.startswith(_NO_KEY_FILE)]
        hint = hints[0] if hints else ""
        who = self._program if self._program == "ssh" else "the agent"
        end = f"exit {code}" if code >= 0 else f"was ended by {signal_name(-code)}"
        return f"{who} {end}" + f": {reason}" * bool(reason) + f" ({hint})" * bool(hint)

    def _read(self) -> bool:
        """Returns whether there may be more."""
        if self._stdout_ended:
            return False
        try:
            data = os.read(self._stdout, _READ_BYTES)
            for message in self._reader.feed(data):
                self._message(message)
        except BlockingIOError:
            return False
        except (ProtocolError, LookupError, TypeError, ValueError) as error:
            what = str(error) if isinstance(error, ProtocolError) else "a message without sense"
            self._end_stdout()
            self.fail(f"the agent's output is garbled: {what}")
            return False
        self._heard = time.monotonic()
        if not data:
            self._end_stdout()  # the end of the process follows
        return bool(data)

    def _end_stdout(self) -> None:
        self._stdout_ended = True
        self.listen(False)

    def _read_stderr(self) -> bool:
        if self._stderr_ended:
            return False
        try:
            data = os.read(self._stderr, _STDERR_BYTES)
        except BlockingIOError:
            return False
        self._stderr_tail = (self._stderr_tail + data)[-_STDERR_BYTES:]
        if not data:
            self._end_stderr()
        return bool(data)

    def _end_stderr(self) -> None:
        if not self._stderr_ended:
            self._stderr_ended = True
            self._selector.unregister(self._stderr)

    def _cannot_write(self, _fd: int, _error: OSError) -> None:
        """The process ends, or has; that will say why."""
