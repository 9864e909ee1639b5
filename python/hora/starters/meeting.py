"""How ranks agree where to meet when no launcher told them: rank 0 decides, the others read it.

On one host rank 0 listens on a Unix socket; over several hosts its process has the store. A board
(torchrun's store, a file) carries the words between the ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hora.errors import HoraError, UsageError
from hora.launch.placement import Placement
from hora.launch.secret_file import VARIABLE as SECRET_FILE
from hora.launch.secret_file import read_secret
from hora.launch.store import (
    LOOPBACK,
    StoreHost,
    choose_address,
    endpoint,
    interfaces_of,
    needs_store,
    resolve,
)
from hora.starters.board import Board, HostEntry, ToldError
from hora.starters.place import Bootstrap, Position, keep_key, open_listener
from hora.starters.problem_watch import ProblemWatch
from hora.starters.siblings import Siblings

_LINGER_S = 1.0
_JOB_CHECK = b"hora job check"


class Kept:
    """What a rank keeps: the board until all have met, and the store, if it has it, for ever."""

    def __init__(
        self, board: Board, siblings: Siblings, store: object, watch: ProblemWatch
    ) -> None:
        self._board = board
        self._siblings = siblings
        self._store = store
        self._watch = watch

    def leave_problem(self, text: str) -> None:
        """For ranks that come late, and find nobody where the others met."""
        self._board.leave_problem(text)

    def problem(self) -> str:
        """What some rank has left in this way; raises what the board raises."""
        return self._board.problem()

    def have_met(self) -> None:
        """Takes down what was only there for the meeting."""
        self._watch.close()
        self._board.clear()
        self._siblings.clear()


def meet(
    position: Position, board: Board, siblings: Siblings, environ: Mapping[str, str]
) -> tuple[Bootstrap, Kept]:
    """Returns this rank's bootstrap and what has to live as long as the job.

    Raises UsageError on every rank when the ranks are not numbered host by host, or one of them
    finds that it cannot join; HoraError when the others do not come before the board's deadline.
    """
    with _telling(board, position):
        if position.problem:
            raise UsageError(position.problem)
        key = _given_key(environ)
    return _meet(position, board, siblings, environ, key)


def _meet(
    position: Position,
    board: Board,
    siblings: Siblings,
    environ: Mapping[str, str],
    key: bytes | None,
) -> tuple[Bootstrap, Kept]:
    if not position.is_on_one_host and position.local_rank == 0:
        board.add_host(HostEntry(position.rank, position.local_size, socket.gethostname()))
    store: object = None
    listen_fd = None
    if position.rank == 0:
        words, listen_fd, store = _decide(position, board, environ, key)
        board.publish(json.dumps(words))
    else:
        words = _parse(board.read())
        if left := board.problem():  # then rank 0 may be where it says no more
            raise ToldError(left)
    if problem := words.get("problem"):
        if position.rank == 0:  # what it wrote ends with this process, and the others look rarely
            time.sleep(_LINGER_S)
        raise ToldError(problem)
    with _telling(board, position):
        found = _bootstrap(position, words, key, listen_fd, environ)
    # The others may have gone on to where it says by now, and look at the board no more. One rank
    # does so for all; but only those of a host know what is left to them alone.
    look = board.problem if position.rank == 0 else siblings.problem
    return found, Kept(board, siblings, store, ProblemWatch(found, look, board.clear))


@contextlib.contextmanager
def _telling(board: Board, position: Position) -> Iterator[None]:
    """Whatever this rank finds wrong with itself, all others hear of."""
    try:
        yield
    except UsageError as error:
        where = f"rank {position.rank} on {socket.gethostname()}"
        with contextlib.suppress(OSError, RuntimeError):  # then they wait in vain
            board.leave_problem(f"{where} cannot join: {error}")
        raise


def _given_key(environ: Mapping[str, str]) -> bytes | None:
    path = environ.get(SECRET_FILE)
    return bytes.fromhex(read_secret(Path(path)).key) if path else None


def _check_of(key: bytes) -> str:
    """Tells keys apart, and nothing of them."""
    return hmac.new(key, _JOB_CHECK, hashlib.sha256).hexdigest()[:16]


def _decide(
    position: Position, board: Board, environ: Mapping[str, str], key: bytes | None
) -> tuple[dict[str, Any], int | None, object]:
    """What rank 0 tells the others, its listening socket, and the store."""
    drawn = secrets.token_bytes(32)
    job_id = secrets.token_hex(8)
    words: dict[str, Any] = {"job_id": job_id, "name": "", "store": ""}
    words["check"] = _check_of(key or drawn)
    if key is None:
        words["key"] = drawn.hex()
    hosts = [HostEntry(0, position.size, LOOPBACK)]
    if position.is_on_one_host and not needs_store(environ):
        words["sizes"] = [position.size]
        words["name"], listener = open_listener(position.size)
        return words, listener.detach(), None
    if not position.is_on_one_host:
        hosts = sorted(board.hosts(position.size), key=lambda host: host.rank)
    words["sizes"] = [host.size for host in hosts]
    if problem := _numbering_problem(position, hosts):
        return {"problem": problem}, None, None
    try:
        store = _open_store(hosts[-1].name, job_id, key or drawn, environ)
    except HoraError as error:
        return {"problem": f"rank 0 cannot open the job's store: {error}"}, None, None
    words["store"] = store.address
    if key is None and position.launcher == "torchrun" and not position.is_on_one_host:
        print(
            "hora: the job's key travels through torchrun's store, which everybody who reaches "
            f"MASTER_PORT can read; {SECRET_FILE} on all hosts names a file with one of your own",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    where = f"{position.size} ranks on {len(hosts)} hosts" if len(hosts) > 1 else "one host"
    print(f"hora: {where}; the store listens on {store.address}", file=sys.stderr, flush=True)
    return words, None, store


def _numbering_problem(position: Position, hosts: list[HostEntry]) -> str:
    """Why these hosts cannot form a job; "" when they can."""
    first = 0
    for host in hosts:
        if host.rank != first:
            found = ", ".join(f"{one.name} from rank {one.rank}: {one.size}" for one in hosts)
            return (
                f"ranks must be numbered host by host, all of one host before the next ({found}): "
                f"{position.how_by_host}"
            )
        first += host.size
    return ""


def _open_store(peer: str, job_id: str, key: bytes, environ: Mapping[str, str]) -> Any:
    """The store, on the address from which this host speaks to ``peer``, or the one asked for."""
    interfaces = interfaces_of(environ)
    towards = "127.0.0.1" if interfaces else resolve(peer)
    address = choose_address(interfaces, towards)
    return StoreHost(endpoint(address, 0), job_id, key.hex())


def _parse(text: str) -> dict[str, Any]:
    try:
        words = json.loads(text)
        is_sound = isinstance(words, dict) and (
            isinstance(words.get("problem"), str)
            or (
                all(isinstance(words[name], str) for name in ("job_id", "name", "store", "check"))
                and all(type(size) is int and size > 0 for size in words["sizes"])
            )
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise UsageError("what rank 0 says is not understood: has it the same version of hora?")
    return dict(words)


def _bootstrap(
    position: Position,
    words: Mapping[str, Any],
    key: bytes | None,
    listen_fd: int | None,
    environ: Mapping[str, str],
) -> Bootstrap:
    if key is None:
        try:
            key = bytes.fromhex(words["key"])
        except (KeyError, ValueError, TypeError):
            key = b""
    if len(key) != 32:
        raise UsageError(f"rank 0 tells no key: {SECRET_FILE} must be set on all ranks or on none")
    if not hmac.compare_digest(_check_of(key), words["check"]):
        raise UsageError(
            f"{SECRET_FILE}={environ.get(SECRET_FILE, '')} holds another key here than rank 0 has: "
            "it must be the same file, or a copy of it, on all hosts, or set on none"
        )
    placement = Placement(tuple(words["sizes"]))
    if placement.size != position.size:
        raise UsageError(
            f"rank {position.rank} was started as one of {position.size} ranks, rank 0 as one of "
            f"{placement.size}: all must be told the same number"
        )
    place = placement.place(position.rank)
    if (place.local_rank, place.local_size) != (position.local_rank, position.local_size):
        raise UsageError(
            f"rank {position.rank} is number {position.local_rank} of {position.local_size} on its "
            f"host, but would be {place.local_rank} of {place.local_size} if ranks were numbered "
            f"host by host, as they must: {position.how_by_host}"
        )
    numbers = asdict(place)
    del numbers["host"]
    return Bootstrap(
        **numbers, rendezvous=words["name"], key=keep_key(key), listen_fd=listen_fd,
        launcher=position.launcher, job_id=words["job_id"], store=words["store"],
        interfaces=interfaces_of(environ) if words["store"] else (),
    )  # fmt: skip
