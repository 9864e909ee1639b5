"""Under mpirun of Open MPI, MPICH or Intel MPI: their variables; the ranks agree in files.

MPI itself is not used, so that nothing of it needs to be installed where hora runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hora.errors import UsageError
from hora.starters.place import Position, read_position, require_all

OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{what}" for what in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_OPEN_MPI_JOB = (
    "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_precondition_transports",
)  # fmt: skip
SOURCES = (*OPEN_MPI, *MPICH, *_OPEN_MPI_JOB)
_LAUNCHER_ENDS = ("--control-port", "--upstream-host", "--upstream-port")
_MOST_ANCESTORS = 16


def is_open_mpi(environ: Mapping[str, str]) -> bool:
    """Whether Open MPI's mpirun started this process."""
    return any(name in environ for name in OPEN_MPI)


def is_mpich(environ: Mapping[str, str]) -> bool:
    """Whether mpirun of MPICH's family did. Under Slurm, srun sets PMI_RANK as well."""
    local = "MPI_LOCALRANKID" in environ or "MPI_LOCALNRANKS" in environ
    return local or ("SLURM_PROCID" not in environ and ("PMI_RANK" in environ))


def open_mpi_position(environ: Mapping[str, str]) -> Position:
    """Raises UsageError for a missing or bad variable."""
    require_all(environ, OPEN_MPI, "Open MPI's mpirun")
    return read_position(environ, OPEN_MPI, "openmpi", "mpirun --map-by slot does so")


def mpich_position(environ: Mapping[str, str]) -> Position:
    """Raises UsageError for a missing or bad variable."""
    require_all(environ, MPICH, "MPICH's mpirun")
    how = "mpirun does so unless -ppn or a machine file says otherwise (-hosts h1:2,h2:2)"
    return read_position(environ, MPICH, "mpich", how)


def open_mpi_job(environ: Mapping[str, str]) -> str:
    """A name that only this job has. Raises UsageError when the variables do not tell."""
    words = [environ.get(name, "") for name in _OPEN_MPI_JOB]
    if not any(words):
        raise _no_job(f"none of {', '.join(_OPEN_MPI_JOB)} is set")
    return "openmpi-" + _digest(words)


def mpich_job() -> str:
    """The same for MPICH, none of whose variables differs from job to job.

    All of a job's ranks are descendants of proxies, which know the port of their mpirun.
    """
    pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        if os.path.basename(words[0]).startswith("hydra_"):
            ends = [words[words.index(end) + 1] for end in _LAUNCHER_ENDS if end in words[:-1]]
            if ends:
                return "mpich-" + _digest(ends)
        pid = int(status.rpartition(")")[2].split()[1])
        if pid <= 1:
            break
    raise _no_job("no process above this one is a proxy of mpirun (hydra_…)")


def _digest(words: list[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _no_job(why: str) -> UsageError:
    return UsageError(
        f"which job of mpirun this is cannot be told: {why}. Set HORA_JOB_ID to a word that is new "
        "for each job: mpirun -x HORA_JOB_ID=$RANDOM$RANDOM … (MPICH: -genv HORA_JOB_ID …)"
    )
