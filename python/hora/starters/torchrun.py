"""Under torchrun: the ranks agree through its store, which is not authenticated."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from hora.errors import HoraError, PeerFailedError, UsageError
from hora.starters.board import HostEntry, ToldError
from hora.starters.meeting import Kept, meet
from hora.starters.place import (
    MAX_SIZE,
    Bootstrap,
    Position,
    alone,
    read_position,
    require_all,
    whole_number,
)
from hora.starters.siblings import Siblings

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MASTER = ("MASTER_ADDR", "MASTER_PORT")
_ALL = (*PLACE, *_MASTER)
_RUN, _RESTARTS = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
_NODES = "GROUP_WORLD_SIZE"
SOURCES = (*_ALL, _RUN, _RESTARTS, _AGENT_STORE, _NODES)
_SILENT_S = 2.0
# torchrun has its store before it starts the ranks: where nobody listens, nobody will.
_AGENT_LIMIT_S = 3.0
_ATTEMPT_S = 3.0
_FIRST_LOOK_S = 0.005
_LOOK_EVERY_S = 0.1
_MESSAGE_S = 1.0
_HOW_BY_HOST = "start one torchrun on each host, which numbers them so"


def is_torchrun(environ: Mapping[str, str]) -> bool:
    """Whether torchrun's variables are there; MASTER_ADDR alone is somebody else's."""
    return any(name in environ for name in PLACE)


def is_below_torchrun(environ: Mapping[str, str]) -> bool:
    """Whether it is torchrun itself, and nobody else who sets the same variables."""
    return _RUN in environ


def from_torchrun(environ: Mapping[str, str], timeout: float) -> tuple[Bootstrap, Kept | None]:
    """Returns the bootstrap and what to keep with it. Blocks for at most ``timeout``.

    Raises UsageError for a bad variable, PeerFailedError when the ranks do not meet.
    """
    require_all(environ, _ALL, "torchrun and horarun each")
    siblings = _siblings(environ)
    try:
        address, port = _master(environ)
        position = _position(environ)
        if position.size > 1:
            siblings.check(_where(environ))
    except UsageError as error:
        with contextlib.suppress(OSError, RuntimeError, ImportError):
            leave_problem(environ, f"a process on {socket.gethostname()} cannot join: {error}")
        raise
    rank, size = position.rank, position.size
    if size == 1:
        return alone("torchrun"), None
    has_agent = environ.get(_AGENT_STORE) == "True"
    try:
        store = _open_store(
            address, port, size, is_host=rank == 0 and not has_agent, timeout=timeout,
            has_agent=has_agent, elsewhere=siblings.problem,
        )  # fmt: skip
        board = TorchBoard(store, _prefix(environ), size, timeout, siblings.problem)
        return meet(position, board, siblings, environ)
    except ImportError as error:
        raise UsageError(f"RANK={rank} is set, but torch cannot be imported: {error}") from error
    except HoraError:
        raise
    except RuntimeError as error:
        problem = (
            f"rank {rank} of {size} could not meet the others at MASTER_ADDR:MASTER_PORT="
            f"{address}:{port} within {timeout:g} s: {str(error).splitlines()[0]}"
        )
        siblings.leave_problem(f"a process on {socket.gethostname()} cannot join: {problem}")
        raise PeerFailedError(problem) from error


def leave_problem(environ: Mapping[str, str], text: str) -> None:
    """Says through torch's store, if it is there, why this process will not join the others.

    Raises UsageError, OSError, RuntimeError or ImportError when it cannot.
    """
    _siblings(environ).leave_problem(text)
    address, port = _master(environ)
    socket.create_connection((address, port), timeout=_MESSAGE_S).close()
    store = _open_store(address, port, 1, is_host=False, timeout=_MESSAGE_S, has_agent=True)
    TorchBoard(store, _prefix(environ), 1, _MESSAGE_S).leave_problem(text)


def _position(environ: Mapping[str, str]) -> Position:
    position = read_position(environ, PLACE, "torchrun", _HOW_BY_HOST)
    nodes = whole_number(_NODES, environ.get(_NODES, "1"), 1, MAX_SIZE)
    if nodes > position.size:
        raise UsageError(
            f"WORLD_SIZE={position.size} with {_NODES}={nodes}: torchrun starts at least one rank "
            "on each node"
        )
    return position


def _siblings(environ: Mapping[str, str]) -> Siblings:
    """Those who may have been told something else by mistake, and not on purpose."""
    if _RUN not in environ or environ.get("WORLD_SIZE") == "1":
        return Siblings(0)
    words = [environ.get(_RESTARTS, "0")]
    if environ.get(_AGENT_STORE) != "True":  # a script may split its ranks into groups
        words += [environ.get(name, "") for name in _MASTER]
    return Siblings.of_torchrun("/".join(words))


def _where(environ: Mapping[str, str]) -> str:
    """All that makes ranks find each other."""
    return ", ".join(f"{name}={environ[name]}" for name in (*_MASTER, _RUN) if name in environ)


def _master(environ: Mapping[str, str]) -> tuple[str, int]:
    port = whole_number("MASTER_PORT", environ["MASTER_PORT"], 1, 65535)
    address = environ["MASTER_ADDR"]
    if not address:
        raise UsageError("MASTER_ADDR='' is empty; it must name the host of rank 0")
    return address, port


def _prefix(environ: Mapping[str, str]) -> str:
    """Of the keys of this run of the job, and no other."""
    return f"hora/{environ.get(_RUN, 'none')}/{environ.get(_RESTARTS, '0')}"


def _open_store(
    address: str,
    port: int,
    size: int,
    *,
    is_host: bool,
    timeout: float,
    has_agent: bool,
    elsewhere: Callable[[], str] = str,
) -> Any:
    distributed: Any = importlib.import_module("torch.distributed")
    if not is_host:
        waited_s = _await_listener(address, port, timeout, has_agent, elsewhere)
        timeout = max(1.0, timeout - waited_s)
    # multi_tenant: torch.distributed.init_process_group may want the same port later.
    options = {"wait_for_workers": False, "multi_tenant": True}
    limit = timedelta(seconds=timeout)
    return distributed.TCPStore(address, port, size, is_host, limit, **options)


def _await_listener(
    address: str, port: int, timeout: float, has_agent: bool, elsewhere: Callable[[], str]
) -> float:
    """Waits, and after a while says so, until somebody listens there; returns the seconds it took.

    torch's store would wait in silence, and end with a native backtrace. Raises RuntimeError, or
    ToldError for a problem that somebody has left ``elsewhere``.
    """
    began = time.monotonic()
    who = "torchrun" if has_agent else "the process of RANK=0"
    is_told = False
    while True:
        left_s = min(_ATTEMPT_S, began + timeout - time.monotonic())
        try:
            with socket.create_connection((address, port), timeout=max(_LOOK_EVERY_S, left_s)):
                return time.monotonic() - began
        except OSError as error:
            waited = time.monotonic() - began
            problem = error.strerror or str(error)
            is_refused = isinstance(error, ConnectionRefusedError)
        if told := elsewhere():
            raise ToldError(told)
        if waited >= timeout or (has_agent and is_refused and waited >= _AGENT_LIMIT_S):
            raise RuntimeError(f"nobody listens there ({problem}); is {who} running there?")
        if waited > _SILENT_S and not is_told:
            is_told = True
            print(
                f"hora: still waiting for {who} at MASTER_ADDR:MASTER_PORT={address}:{port} "
                f"({problem}); gives up in {timeout - waited:.0f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        time.sleep(min(_LOOK_EVERY_S, timeout - waited))


class TorchBoard:
    """A ``Board`` in torch's TCPStore.

    Every wait ends ``timeout`` seconds after the board was made (RuntimeError), or with ToldError
    when somebody leaves a problem, here or ``elsewhere``. The last reader takes rank 0's words out
    again, because they may hold the key.
    """

    def __init__(
        self,
        store: Any,
        prefix: str,
        size: int,
        timeout: float,
        elsewhere: Callable[[], str] = str,
    ) -> None:
        self._elsewhere = elsewhere
        self._store = store
        self._prefix = prefix
        self._size = size
        self._deadline = time.monotonic() + timeout

    def add_host(self, entry: HostEntry) -> None:
        """Hosts are numbered in the order in which they come."""
        number = self._store.add(f"{self._prefix}/hosts", 1)
        self._store.set(f"{self._prefix}/host/{number}", json.dumps(asdict(entry)))

    def hosts(self, size: int) -> list[HostEntry]:
        """Waits for one host after the other."""
        found: list[HostEntry] = []
        while sum(host.size for host in found) < size:
            where = f"{self._prefix}/host/{len(found) + 1}"
            have = sum(host.size for host in found)
            words = self._await(where, f"of {size} ranks there are only {have}")
            found.append(HostEntry(**json.loads(words)))
        return found

    def publish(self, words: str) -> None:
        """Never waits."""
        self._store.set(f"{self._prefix}/meet", words)

    def read(self) -> str:
        """Waits for rank 0."""
        where = f"{self._prefix}/meet"
        words = self._await(where, "rank 0 has not said where the ranks meet")
        if self._store.add(f"{self._prefix}/readers", 1) == self._size - 1:
            self._store.delete_key(where)
        return words

    def leave_problem(self, text: str) -> None:
        """Never waits."""
        self._store.set(f"{self._prefix}/problem", text)

    def problem(self) -> str:
        """Asks the store; any thread."""
        where = f"{self._prefix}/problem"
        if self._store.check([where]):
            return bytes(self._store.get(where)).decode()
        if problem := self._elsewhere():
            self.leave_problem(problem)
        return problem

    def clear(self) -> None:
        """Nothing: the store ends with the job."""

    def _await(self, where: str, otherwise: str) -> str:
        pause_s = _FIRST_LOOK_S
        while not self._store.check([where]):
            if problem := self.problem():
                raise ToldError(problem)
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise RuntimeError(otherwise)
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LOOK_EVERY_S)
        return bytes(self._store.get(where)).decode()
