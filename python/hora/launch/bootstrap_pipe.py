"""What a rank is told through its pipe: its place in the job, the meeting point and the job key."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass, field

from hora.bootstrap import open_listener


@dataclass(frozen=True)
class JobIdentity:
    """One job's secret and the socket on which rank 0 will accept the others.

    The launcher owns ``listener`` until rank 0 has inherited it. ``key`` travels through the pipes
    and nowhere else: not in argv, not in the environment, not in ``repr``.
    """

    job_id: str
    key: str = field(repr=False)
    rendezvous: str
    listener: socket.socket

    @classmethod
    def create(cls, size: int) -> JobIdentity:
        """Draws a fresh id and key and opens the listening socket."""
        rendezvous, listener = open_listener(size)
        return cls(secrets.token_hex(8), secrets.token_hex(32), rendezvous, listener)

    def listen_fd(self, rank: int) -> int | None:
        """The descriptor of the listening socket for the rank that inherits it."""
        return self.listener.fileno() if rank == 0 else None


def open_bootstrap_pipe(identity: JobIdentity, rank: int, size: int) -> int:
    """Returns the read end of a pipe that holds the rank's whole document, then end of file.

    The document is far below a pipe's capacity, so that writing it never blocks.
    """
    document = {
        "version": 1,
        "job_id": identity.job_id,
        "key": identity.key,
        "rank": rank,
        "size": size,
        "local_rank": rank,
        "local_size": size,
        "cross_rank": 0,
        "cross_size": 1,
        "rendezvous": identity.rendezvous,
        "listen_fd": identity.listen_fd(rank),
    }
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, json.dumps(document).encode())
    finally:
        os.close(write_end)
    return read_end
