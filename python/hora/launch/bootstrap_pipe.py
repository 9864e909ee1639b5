"""What a rank is told through its pipe: its place in the job, the meeting point and the job key."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from hora.bootstrap import DOCUMENT_VERSION, open_listener
from hora.launch.placement import Place


@dataclass(frozen=True)
class JobIdentity:
    """One job's secret and where its ranks meet: over a socket of this host, or at a store.

    On one host, ``listener`` is the socket on which rank 0 accepts the others; the launcher owns it
    until rank 0 has inherited it. Several hosts have a ``store`` ("ip:port") instead, and the
    ``interfaces`` they may use. ``key`` travels through pipes and ssh's standard input and nowhere
    else: not in argv, not in the environment, not in ``repr``.
    """

    job_id: str
    key: str = field(repr=False)
    rendezvous: str = ""
    listener: socket.socket | None = None
    store: str = ""
    interfaces: tuple[str, ...] = ()

    @classmethod
    def on_this_host(cls, size: int, job_id: str = "", key: str = "") -> JobIdentity:
        """Opens the listening socket; draws a fresh id and key unless they are given."""
        job_id, key = job_id or draw_id(), key or draw_key()
        return cls(job_id, key, *open_listener(size))

    def listen_fd(self, rank: int) -> int | None:
        """The descriptor of the listening socket for the rank that inherits it."""
        return self.listener.fileno() if self.listener and rank == 0 else None

    def closing(self) -> Any:
        """A context at whose end the launcher lets go of the listening socket."""
        return self.listener or nullcontext()


def draw_id() -> str:
    """A fresh job id: public, 8 bytes in hex."""
    return secrets.token_hex(8)


def draw_key() -> str:
    """A fresh job key: secret, 32 bytes in hex."""
    return secrets.token_hex(32)


def open_bootstrap_pipe(identity: JobIdentity, place: Place) -> int:
    """Returns the read end of a pipe that holds the rank's whole document, then end of file.

    The document is far below a pipe's capacity, so that writing it never blocks.
    """
    numbers = asdict(place)
    del numbers["host"]
    document = {
        "version": DOCUMENT_VERSION,
        "job_id": identity.job_id,
        "key": identity.key,
        **numbers,
        "rendezvous": identity.rendezvous,
        "listen_fd": identity.listen_fd(place.rank),
        "store": identity.store,
        "interfaces": list(identity.interfaces),
    }
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, json.dumps(document).encode())
    finally:
        os.close(write_end)
    return read_end
