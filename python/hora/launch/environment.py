"""The environment that a rank starts with: the launcher's own, torchrun's variables, ours."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping

# An outer torchrun's store is not ours: a rank that believed these would wait for it in vain. Nor
# is a place in an outer job.
_OUTER_LAUNCHER = (
    "HORA_BOOTSTRAP_FD", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID",
    "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE",
    "HOROVOD_CROSS_RANK", "HOROVOD_CROSS_SIZE", "HOROVOD_HOSTNAME",
)  # fmt: skip


def reserve_port() -> socket.socket:
    """Binds a free loopback port for MASTER_PORT, without listening on it.

    While the launcher holds it, the kernel gives the port to nobody who asks for "any free port";
    rank 0's own bind succeeds because both sockets carry SO_REUSEADDR and this one never listens.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def job_environment(
    inherited: Mapping[str, str],
    settings: Mapping[str, str],
    size: int,
    master_port: int,
    *,
    horovod: bool = False,
) -> dict[str, str]:
    """What all ranks share; ``settings`` (command-line options) win over what is inherited."""
    env = {name: value for name, value in inherited.items() if name not in _OUTER_LAUNCHER}
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // size)))
    # Lines must arrive when they are printed, also from a rank that is about to be killed.
    env.setdefault("PYTHONUNBUFFERED", "1")
    if os.isatty(1):
        env.setdefault("HORA_TERMINAL", "1")
        width = shutil.get_terminal_size()
        env.setdefault("COLUMNS", str(max(20, width.columns - len(f"[{size - 1}] "))))
        env.setdefault("LINES", str(width.lines))
    env.update(settings)
    env.update(
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(master_port),
    )
    if horovod:
        env.update(
            HOROVOD_SIZE=str(size),
            HOROVOD_LOCAL_SIZE=str(size),
            HOROVOD_CROSS_RANK="0",
            HOROVOD_CROSS_SIZE="1",
            HOROVOD_HOSTNAME="localhost",
        )
    return env


def rank_environment(job: Mapping[str, str], rank: int, bootstrap_fd: int) -> dict[str, str]:
    """The job's environment with what only this rank has."""
    env = {
        **job,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "HORA_BOOTSTRAP_FD": str(bootstrap_fd),
    }
    if "HOROVOD_SIZE" in job:
        env.update(HOROVOD_RANK=str(rank), HOROVOD_LOCAL_RANK=str(rank))
    return env
