"""In a step of Slurm: srun's variables; the ranks agree in files."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hora.errors import UsageError
from hora.starters.place import MAX_SIZE, Position, require_alike, require_all, whole_number

STEP = "SLURM_STEP_ID"
_PLACE = (
    "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_JOB_ID",
)  # fmt: skip
_RESTARTS = "SLURM_RESTART_COUNT"
# Only srun sets these: neither sbatch for its script nor salloc for its shell.
_OF_STEPS = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")
# What srun says a second time.
_OLD_NAMES = {STEP: "SLURM_STEPID", "SLURM_JOB_ID": "SLURM_JOBID"}
_AGAIN = {**_OLD_NAMES, "SLURM_NTASKS": "SLURM_STEP_NUM_TASKS"}
SOURCES = (STEP, *_PLACE, _RESTARTS, *_OF_STEPS, *_OLD_NAMES.values())
_MOST = (1 << 32) - 1
_FIRST_RESERVED = 0xFFFFFFF0  # the batch script, an interactive shell, …: no step of srun's
_HOW_BY_HOST = "srun --distribution=block does so (-m block; not cyclic, plane or arbitrary)"


def is_step(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process; not so in the script of sbatch or the shell of salloc.

    Raises UsageError for a step that is no number, or is not named.
    """
    step = environ.get(STEP)
    if step in ("batch", "interactive", "extern"):
        return False
    if step is None or "SLURM_PROCID" not in environ:
        if all(name in environ for name in _OF_STEPS):
            _require_place(environ)
        return False
    return whole_number(STEP, step, 0, _MOST) < _FIRST_RESERVED


def is_perhaps_step(environ: Mapping[str, str]) -> bool:
    """Whether srun seems to have started it, whatever is missing or garbage."""
    return STEP in environ or all(name in environ for name in _OF_STEPS)


def slurm_position(environ: Mapping[str, str]) -> Position:
    """Raises UsageError for a missing or bad variable, or two that contradict each other."""
    _require_place(environ)
    size = whole_number("SLURM_NTASKS", environ["SLURM_NTASKS"], 1, MAX_SIZE)
    rank = whole_number("SLURM_PROCID", environ["SLURM_PROCID"], 0, size - 1)
    sizes = tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"], size)
    require_alike(environ, _AGAIN, "srun")
    node = whole_number("SLURM_NODEID", environ["SLURM_NODEID"], 0, len(sizes) - 1)
    local_size = sizes[node]
    local_rank = whole_number("SLURM_LOCALID", environ["SLURM_LOCALID"], 0, local_size - 1)
    expected = sum(sizes[:node]) + local_rank
    problem = ""
    if rank != expected:  # which rank 0, for one, never sees of itself
        problem = (
            f"SLURM_PROCID={rank} is task {local_rank} of node {node}, which would be rank "
            f"{expected} if ranks were numbered host by host, as they must: {_HOW_BY_HOST}"
        )
    return Position(rank, size, local_rank, local_size, "slurm", _HOW_BY_HOST, problem)


def _require_place(environ: Mapping[str, str]) -> None:
    """Raises UsageError that names all that makes it a step, as what to unset otherwise."""
    of_steps = [name for name in _OF_STEPS if name in environ]
    require_all(environ, (STEP, *_PLACE, *of_steps), "srun")


def slurm_job(environ: Mapping[str, str]) -> str:
    """A name that only this step has, and only until its job is requeued. Raises UsageError."""
    require_all(environ, (STEP, "SLURM_JOB_ID"), "srun")
    job = whole_number("SLURM_JOB_ID", environ["SLURM_JOB_ID"], 1, _MOST)
    step = whole_number(STEP, environ[STEP], 0, _MOST)
    cluster = re.sub(r"[^A-Za-z0-9_-]", "_", environ.get("SLURM_CLUSTER_NAME", ""))[:64]
    restarts = whole_number(_RESTARTS, environ.get(_RESTARTS, "0"), 0, _MOST)
    return f"slurm-{cluster}-{job}.{step}.{restarts}"


def by_second_names(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with the step's and job's numbers as srun says them a second time.

    Good enough to find the others where the first time was garbage. How often the job was started
    again is said once: where that is garbage, never.
    """
    found = dict(environ)
    found.update({name: environ[old] for name, old in _OLD_NAMES.items() if old in environ})
    if not found.get(_RESTARTS, "0").isdecimal():
        del found[_RESTARTS]
    return found


def tasks_per_node(text: str, size: int) -> list[int]:
    """Reads "2(x3),1" as [2, 2, 2, 1], which must be ``size`` together. Raises UsageError."""
    sizes: list[int] = []
    for part in text.split(",") if len(text) < 1 << 20 else ():
        match = re.fullmatch(r"([1-9][0-9]{0,6})(?:\(x([1-9][0-9]{0,6})\))?", part, re.ASCII)
        if not match or len(sizes) + int(match[2] or 1) > size:
            break
        sizes += [int(match[1])] * int(match[2] or 1)
    else:
        if sum(sizes) == size:
            return sizes
    raise UsageError(
        f"SLURM_STEP_TASKS_PER_NODE={text[:100]!r} is not a list of numbers, as in 2(x3),1, of "
        f"{size} tasks together (SLURM_NTASKS)"
    )
