"""One host's part of a job over several: starts its ranks and tells the launcher about them.

Started by the launcher (``ssh HOST PYTHON …``, or directly on its own host), with which it speaks
over its standard input and output. When that ends or falls silent, all ranks are killed.
"""

from __future__ import annotations

import base64
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

import hora
from hora.launch.bootstrap_pipe import JobIdentity
from hora.launch.environment import Surroundings, job_environment
from hora.launch.escalation import Escalation, Step
from hora.launch.fates import count_oom_kills
from hora.launch.guardian import guarded
from hora.launch.host_checks import Findings, check_host, host_identity
from hora.launch.local_ranks import LocalRanks
from hora.launch.messages import (
    SILENCE_LIMIT_S,
    MessageReader,
    ProtocolError,
    alive_every,
    encode,
)
from hora.launch.output_pipes import BACKLOG_LIMIT_BYTES, OutputPipes
from hora.launch.placement import Placement
from hora.launch.rank_process import RankProcess
from hora.launch.signals import PASSED_ON, SignalPipe
from hora.launch.terminal import STDOUT, DescriptorWriter

_STDIN = 0
_READ_BYTES = 64 << 10
_KILL_DEADLINE_S = 10.0
_EXIT_LAUNCHER_GONE = 1


def main() -> None:
    """Says hello and serves the launcher until all ranks and their descendants have ended."""
    # "client port server port": the address by which this host was reached.
    reached = os.environ.get("SSH_CONNECTION", "").split()
    hello = encode(
        "hello",
        hora=hora.__version__,
        python=sys.executable,
        host=socket.gethostname(),
        identity=host_identity(),
        address=reached[2] if len(reached) == 4 else "",
    )
    os.write(STDOUT, hello)
    sys.exit(guarded(lambda lifeline: Agent(lifeline).run()))


class Agent:
    """Owns the ranks of this host and the way to the launcher. Main thread only.

    Waits without limit for healthy ranks and for a launcher that is alive; every other wait has a
    deadline.
    """

    def __init__(self, lifeline: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._signals = SignalPipe()
        self._ranks = LocalRanks()
        self._pipes = OutputPipes(self._selector, self._forward, self._shut)
        self._writer = DescriptorWriter(STDOUT, self._selector, self._cannot_write)
        self._reader = MessageReader("check")
        self._escalation = Escalation()
        self._check: dict[str, Any] = {}
        self._found = Findings()
        self._grace_s = 0.0
        self._silence_limit_s = SILENCE_LIMIT_S  # until the launcher says another
        self._oom_kills_before = count_oom_kills()
        self._has_started = self._launcher_gone = self._abandoned = False
        self._heard = self._said = time.monotonic()
        os.set_blocking(_STDIN, False)
        self._selector.register(_STDIN, selectors.EVENT_READ, self._read)
        self._selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        self._selector.register(lifeline, selectors.EVENT_READ, self._lifeline_cut)
        self._lifeline = lifeline

    def run(self) -> int:
        """Serves to the end; 0 when the launcher has heard how all ranks ended."""
        while not (self._ranks.is_gone if self._has_started else self._launcher_gone):
            self._turn()
            if self._abandoned:
                break
        self._ranks.close()
        self._pipes.finish()
        self._say("end", left=self._ranks.leftovers() if self._has_started else "")
        self._writer.pump()
        while self._writer.backlog_bytes and not self._launcher_gone:
            self._turn()
        return _EXIT_LAUNCHER_GONE if self._launcher_gone else 0

    def _turn(self) -> None:
        now = time.monotonic()
        alive_every_s = alive_every(self._silence_limit_s)
        waits = [self._said + alive_every_s - now, self._heard + self._silence_limit_s - now]
        waits += [left for left in [self._escalation.seconds_left()] if left is not None]
        for key, _ in self._selector.select(max(0.0, min(waits))):
            key.data()
        now = time.monotonic()
        if now - self._said >= alive_every_s:
            self._say("alive")
        if now - self._heard >= self._silence_limit_s:
            self._heard = now
            self._end_without_launcher()
        step = self._escalation.take_due()
        if step is Step.TERMINATE:
            self._ranks.terminate()
        elif step is Step.KILL:
            self._kill()
        elif step is Step.ABANDON:
            self._abandoned = True
        self._writer.pump()
        self._pipes.listen(self._writer.backlog_bytes < BACKLOG_LIMIT_BYTES)

    # --- to the launcher -------------------------------------------------------------------------

    def _say(self, kind: str, **fields: Any) -> None:
        self._said = time.monotonic()
        self._writer.write(encode(kind, **fields))

    def _forward(self, rank: int, fd: int, data: bytes) -> None:
        self._say("out", rank=rank, fd=fd, data=base64.b64encode(data).decode())

    def _shut(self, rank: int, fd: int) -> None:
        self._say("shut", rank=rank, fd=fd)

    def _cannot_write(self, _fd: int, _error: OSError) -> None:
        self._end_without_launcher()

    # --- from the launcher -----------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = os.read(_STDIN, _READ_BYTES)
            messages = self._reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            data, messages = b"", []
        self._heard = time.monotonic()
        for message in messages:
            self._obey(message)
        if not data:
            self._selector.unregister(_STDIN)
            self._end_without_launcher()

    def _obey(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "check":
            self._check = message
            self._silence_limit_s = float(message["silence_s"])
            self._found = check_host(message)
            self._say(
                "checked",
                problems=self._found.problems,
                address=self._found.address,
                port=self._found.port_number,
            )
        elif kind == "start":
            self._start(message)
        elif kind == "signal":
            self._ranks.signal(message["number"])
        elif kind == "terminate":
            self._ranks.terminate()
        elif kind == "kill":
            self._kill()

    def _start(self, told: dict[str, Any]) -> None:
        check = self._check
        self._has_started = True
        self._grace_s = float(told["grace_s"])
        placement = Placement(tuple(told["sizes"]))
        address, port = told["master"]
        horovod = bool(told["horovod"])
        around = Surroundings(placement, told["index"], told["name"], address, port, horovod)
        env = job_environment({**os.environ, **check["env"]}, check["settings"], around)
        job_id, key = told["job_id"], told["key"]
        if check["store"]:
            interfaces = tuple(check["interfaces"])
            identity = JobIdentity(job_id, key, store=check["store"], interfaces=interfaces)
        else:
            identity = JobIdentity.on_this_host(placement.size, job_id, key)
        problem = self._ranks.start_ranks(
            placement, around.host, check["command"], env, identity,
            input_rank=None, started=self._started,
        )  # fmt: skip
        if problem:
            self._say("failed", reason=problem)
        self._reap()

    def _started(self, process: RankProcess) -> None:
        self._say("rank", rank=process.rank, pid=process.pid)
        self._pipes.add(process.rank, *process.take_pipes())

    # --- events ----------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        for signum in self._signals.read():
            if signum == signal.SIGCHLD:
                self._reap()
            elif signum in PASSED_ON:
                self._ranks.signal(signum)
            else:
                self._escalation.plan((0, Step.TERMINATE), (self._grace_s, Step.KILL))

    def _reap(self) -> None:
        if not self._has_started:
            return
        ended = self._ranks.reap()
        for rank in ended:
            self._pipes.catch_up(rank.rank)
        if ended:
            oom_kills = count_oom_kills() - self._oom_kills_before
            self._say("exit", ranks=[[rank.rank, rank.exit_code, oom_kills] for rank in ended])
        if ended and self._ranks.has_only_leftovers:
            # They may be finishing an upload or cleaning up.
            self._escalation.plan((self._grace_s, Step.TERMINATE), (self._grace_s, Step.KILL))

    def _lifeline_cut(self) -> None:
        self._selector.unregister(self._lifeline)
        self._end_without_launcher()

    def _end_without_launcher(self) -> None:
        """Whoever started this is gone, or cannot be heard any more."""
        if not self._launcher_gone:
            self._launcher_gone = True
            self._writer.abandon()
            self._kill()

    def _kill(self) -> None:
        self._ranks.kill()
        self._escalation.plan((_KILL_DEADLINE_S, Step.ABANDON))
