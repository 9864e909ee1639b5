"""The environment that a rank starts with: the launcher's own, torchrun's variables, ours."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from hora.launch.placement import Place, Placement

# What ranks on another host are told of the environment here; the rest is that host's own, or given
# with -x. No tokens and passwords, no paths that mean something only here.
_FORWARDED = frozenset({
    "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "CONDA_PREFIX", "LANG", "TZ",
    "TOKENIZERS_PARALLELISM", "NO_COLOR",
})  # fmt: skip
_FORWARDED_PREFIXES = (
    "HORA_", "HOROVOD_", "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_",
    "TORCH_", "PYTORCH_", "CUDA_", "NCCL_", "GLOO_", "UCX_", "FI_", "LC_",
)  # fmt: skip
# An outer torchrun's store is not ours: a rank that believed these would wait for it in vain. Nor
# is a place in an outer job.
_OUTER_LAUNCHER = (
    "HORA_BOOTSTRAP_FD", "HORA_LAUNCHER", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID",
    "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE",
    "HOROVOD_CROSS_RANK", "HOROVOD_CROSS_SIZE", "HOROVOD_HOSTNAME",
)  # fmt: skip


def reserve_port(address: str = "127.0.0.1") -> socket.socket:
    """Binds a free port of ``address`` for MASTER_PORT, without listening on it. Raises OSError.

    While the launcher holds it, the kernel gives the port to nobody who asks for "any free port";
    rank 0's own bind succeeds because both sockets carry SO_REUSEADDR and this one never listens.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((address, 0))
    except OSError:
        holder.close()
        raise
    return holder


def forwarded_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of this environment ranks on other hosts start with, too."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _OUTER_LAUNCHER
        and (name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES))
    }


def terminal_variables(size: int) -> dict[str, str]:
    """What ranks are told of the terminal that shows their output; nothing when none does."""
    if not os.isatty(1):
        return {}
    width = shutil.get_terminal_size()
    columns = max(20, width.columns - len(f"[{size - 1}] "))
    return {"HORA_TERMINAL": "1", "COLUMNS": str(columns), "LINES": str(width.lines)}


@dataclass(frozen=True)
class Surroundings:
    """What the ranks of one host share: their host's number and name, and the master's address."""

    placement: Placement
    host: int = 0
    host_name: str = "localhost"
    master_address: str = "127.0.0.1"
    master_port: int = 0
    horovod: bool = False


def job_environment(
    inherited: Mapping[str, str], settings: Mapping[str, str], around: Surroundings
) -> dict[str, str]:
    """What all ranks of a host share; ``settings`` (from options) win over what is inherited."""
    local_size = around.placement.sizes[around.host]
    env = {name: value for name, value in inherited.items() if name not in _OUTER_LAUNCHER}
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // local_size)))
    # Lines must arrive when they are printed, also from a rank that is about to be killed.
    env.setdefault("PYTHONUNBUFFERED", "1")
    env.update(settings)
    env.update(
        WORLD_SIZE=str(around.placement.size),
        LOCAL_WORLD_SIZE=str(local_size),
        GROUP_RANK=str(around.host),
        MASTER_ADDR=around.master_address,
        MASTER_PORT=str(around.master_port),
    )
    if around.horovod:
        env["HOROVOD_HOSTNAME"] = around.host_name
    return env


def rank_environment(job: Mapping[str, str], place: Place, bootstrap_fd: int) -> dict[str, str]:
    """The host's environment with what only this rank has."""
    env = {
        **job,
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "HORA_BOOTSTRAP_FD": str(bootstrap_fd),
        "HORA_LAUNCHER": "horarun",
    }
    if "HOROVOD_HOSTNAME" in job:
        env.update(
            HOROVOD_RANK=str(place.rank),
            HOROVOD_SIZE=str(place.size),
            HOROVOD_LOCAL_RANK=str(place.local_rank),
            HOROVOD_LOCAL_SIZE=str(place.local_size),
            HOROVOD_CROSS_RANK=str(place.cross_rank),
            HOROVOD_CROSS_SIZE=str(place.cross_size),
        )
    return env
