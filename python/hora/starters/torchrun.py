"""Under torchrun: the ranks agree through its store, which is not authenticated."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from hora.errors import HoraError, PeerFailedError, UsageError
from hora.starters.meeting import HostEntry, meet
from hora.starters.place import Bootstrap, alone, read_position, require_all, whole_number

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ALL = (*PLACE, "MASTER_ADDR", "MASTER_PORT")
_ELASTIC = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE")
SOURCES = (*_ALL, *_ELASTIC)
_SILENT_S = 2.0
_LOOK_EVERY_S = 0.1
_HOW_BY_HOST = "start one torchrun on each host, which numbers them so"


def is_torchrun(environ: Mapping[str, str]) -> bool:
    """Whether torchrun's variables are there; MASTER_ADDR alone is somebody else's."""
    return any(name in environ for name in PLACE)


def from_torchrun(environ: Mapping[str, str], timeout: float) -> tuple[Bootstrap, object]:
    """Returns the bootstrap and the stores to keep alive. Blocks for at most ``timeout``.

    Raises UsageError for a bad variable, PeerFailedError when the ranks do not meet.
    """
    require_all(environ, _ALL, "torchrun and horarun each")
    position = read_position(environ, PLACE, "torchrun", _HOW_BY_HOST)
    port = whole_number("MASTER_PORT", environ["MASTER_PORT"], 1, 65535)
    address = environ["MASTER_ADDR"]
    if not address:
        raise UsageError("MASTER_ADDR='' is empty; it must name the host of rank 0")
    rank, size = position.rank, position.size
    if size == 1:
        return alone("torchrun"), None
    hosts_store = rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    run = environ.get("TORCHELASTIC_RUN_ID", "none")
    prefix = f"hora/{run}/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = _open_store(address, port, size, hosts_store, timeout)
        found, kept = meet(position, TorchBoard(store, prefix, size), environ)
    except ImportError as error:
        raise UsageError(f"RANK={rank} is set, but torch cannot be imported: {error}") from error
    except HoraError:
        raise
    except RuntimeError as error:
        raise PeerFailedError(
            f"rank {rank} of {size} could not meet the others at MASTER_ADDR:MASTER_PORT="
            f"{address}:{port} within {timeout:g} s: {str(error).splitlines()[0]}"
        ) from error
    return found, (store, kept)


def _open_store(address: str, port: int, size: int, is_host: bool, timeout: float) -> Any:
    distributed: Any = importlib.import_module("torch.distributed")
    if not is_host:
        timeout = max(1.0, timeout - _await_listener(address, port, timeout))
    # multi_tenant: torch.distributed.init_process_group may want the same port later.
    options = {"wait_for_workers": False, "multi_tenant": True}
    limit = timedelta(seconds=timeout)
    return distributed.TCPStore(address, port, size, is_host, limit, **options)


def _await_listener(address: str, port: int, timeout: float) -> float:
    """Waits, and after a while says so, until somebody listens there; returns the seconds it took.

    torch's store would wait in silence, and end with a native backtrace. Raises RuntimeError.
    """
    began = time.monotonic()
    is_told = False
    while True:
        try:
            with socket.create_connection((address, port), timeout=timeout):
                return time.monotonic() - began
        except OSError as error:
            waited = time.monotonic() - began
            problem = error.strerror or str(error)
        if waited >= timeout:
            raise RuntimeError(
                f"nobody listens there ({problem}); is the process of RANK=0 running?"
            )
        if waited > _SILENT_S and not is_told:
            is_told = True
            print(
                f"hora: still waiting for rank 0 at MASTER_ADDR:MASTER_PORT={address}:{port} "
                f"({problem}); gives up in {timeout - waited:.0f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        time.sleep(min(_LOOK_EVERY_S, timeout - waited))


class TorchBoard:
    """A ``Board`` in torch's TCPStore; waits as long as the store was made to, then RuntimeError.

    The last reader takes rank 0's words out again, because they may hold the key.
    """

    def __init__(self, store: Any, prefix: str, size: int) -> None:
        self._store = store
        self._prefix = prefix
        self._size = size

    def add_host(self, entry: HostEntry) -> None:
        """Hosts are numbered in the order in which they come."""
        number = self._store.add(f"{self._prefix}/hosts", 1)
        self._store.set(f"{self._prefix}/host/{number}", json.dumps(asdict(entry)))

    def hosts(self, size: int) -> list[HostEntry]:
        """Waits for one host after the other."""
        found: list[HostEntry] = []
        while sum(host.size for host in found) < size:
            words = self._store.get(f"{self._prefix}/host/{len(found) + 1}")
            found.append(HostEntry(**json.loads(words)))
        return found

    def publish(self, words: str) -> None:
        """Never waits."""
        self._store.set(f"{self._prefix}/meet", words)

    def read(self) -> str:
        """Waits for rank 0."""
        where = f"{self._prefix}/meet"
        words = bytes(self._store.get(where)).decode()
        if self._store.add(f"{self._prefix}/readers", 1) == self._size - 1:
            self._store.delete_key(where)
        return words
