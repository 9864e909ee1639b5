"""Under mpirun of Open MPI, MPICH or Intel MPI: their variables; the ranks agree in files.

MPI itself is not used, so that nothing of it needs to be installed where hora runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

from hora.errors import UsageError
from hora.starters.ancestors import ancestors
from hora.starters.place import Position, read_position, require_alike, require_all

OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{what}" for what in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_OPEN_MPI_JOB = (
    "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_precondition_transports",
)  # fmt: skip
_NAMESPACE, _JOB_ID = _OPEN_MPI_JOB[:2]
# What mpirun of version 4 says a second time, then that of version 5.
_AGAIN = (
    {"OMPI_COMM_WORLD_SIZE": "OMPI_MCA_orte_ess_num_procs", _NAMESPACE: _JOB_ID},
    {"OMPI_COMM_WORLD_SIZE": "OMPI_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_SIZE": "OMPI_WORLD_LOCAL_SIZE"},
)  # fmt: skip
# Where mpirun's daemon is: "NAMESPACE.0;tcp4://…", of the same family as the ranks' namespace.
_DAEMON = "PMIX_SERVER_URI2"
SOURCES = (
    *OPEN_MPI, *MPICH, *_OPEN_MPI_JOB, _DAEMON, *(one for two in _AGAIN for one in two.values()),
)  # fmt: skip
_OPEN_MPIRUN = "Open MPI's mpirun"
_LAUNCHER_ENDS = ("--control-port", "--upstream-host", "--upstream-port")


def is_open_mpi(environ: Mapping[str, str]) -> bool:
    """Whether Open MPI's mpirun started this process."""
    return any(name in environ for name in OPEN_MPI)


def is_mpich(environ: Mapping[str, str]) -> bool:
    """Whether mpirun of MPICH's family did. Under Slurm, srun sets PMI_RANK as well."""
    local = "MPI_LOCALRANKID" in environ or "MPI_LOCALNRANKS" in environ
    return local or ("SLURM_PROCID" not in environ and ("PMI_RANK" in environ))


def open_mpi_position(environ: Mapping[str, str]) -> Position:
    """Raises UsageError for a missing or bad variable, or two that contradict each other."""
    require_all(environ, OPEN_MPI, _OPEN_MPIRUN)
    position = read_position(environ, OPEN_MPI, "openmpi", "mpirun --map-by slot does so")
    for pairs in _AGAIN:
        require_alike(environ, pairs, _OPEN_MPIRUN)
    if daemon := _daemons_namespace(environ):
        require_all(environ, (_DAEMON, _NAMESPACE), _OPEN_MPIRUN)
        if _family(environ[_NAMESPACE]) != _family(daemon):
            raise UsageError(
                f"{_NAMESPACE}={environ[_NAMESPACE]!r} is no job of the mpirun whose daemon is "
                f"{daemon!r} ({_DAEMON})"
            )
    return position


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


def by_second_names(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with the job as mpirun says it a second time; to find the others, no more."""
    found = dict(environ)
    daemon = _daemons_namespace(environ)
    if _JOB_ID in environ:
        found[_NAMESPACE] = environ[_JOB_ID]
    elif "@" in daemon:
        found[_NAMESPACE] = f"{_family(daemon)}@1"  # all but what MPI_Comm_spawn starts
    return found


def _daemons_namespace(environ: Mapping[str, str]) -> str:
    """Of the daemon; nothing where mpirun tells none."""
    return environ.get(_DAEMON, "").partition(";")[0].rpartition(".")[0]


def _family(namespace: str) -> str:
    """What all jobs of one mpirun have in common: "prterun-host-1@2", or a number by its bits."""
    if namespace.isdecimal() and len(namespace) < 12:
        return str(int(namespace) >> 16)
    return namespace.partition("@")[0]


def mpich_job() -> str:
    """The same for MPICH, none of whose variables differs from job to job.

    All of a job's ranks are descendants of proxies, which know the port of their mpirun.
    """
    for one in ancestors():
        if os.path.basename(one.words[0]).startswith("hydra_"):
            ends = [
                one.words[one.words.index(end) + 1]
                for end in _LAUNCHER_ENDS
                if end in one.words[:-1]
            ]
            if ends:
                return "mpich-" + _digest(ends)
    raise _no_job("no process above this one is a proxy of mpirun (hydra_…)")


def _digest(words: list[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _no_job(why: str) -> UsageError:
    return UsageError(
        f"which job of mpirun this is cannot be told: {why}. Set HORA_JOB_ID to a word that is new "
        "for each job: mpirun -x HORA_JOB_ID=$RANDOM$RANDOM … (MPICH: -genv HORA_JOB_ID …)"
    )
