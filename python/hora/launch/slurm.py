"""``horarun --slurm``: the ranks as a step of the allocation that this process is in."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence

from hora.errors import UsageError
from hora.launch.handover import Handover, refuse_ours, split_words

# A variable of the outer launcher would make the ranks believe that they are its.
_OUTER = ("HORA_BOOTSTRAP_FD", "HORA_LAUNCHER")


def hand_over_to_srun(
    args: argparse.Namespace,
    command: Sequence[str],
    settings: Mapping[str, str],
    environ: Mapping[str, str],
) -> Handover:
    """Builds the srun line. Raises UsageError outside an allocation and without srun."""
    refuse_ours(args, "--slurm")
    if "SLURM_JOB_ID" not in environ:
        raise UsageError(
            "--slurm needs an allocation (SLURM_JOB_ID is not set): run horarun in a script of "
            "sbatch, or as salloc -n 4 horarun --slurm …"
        )
    if args.hosts or args.hostfile:
        raise UsageError("--slurm with --hosts or --hostfile: the allocation says which hosts")
    srun = shutil.which("srun")
    if not srun:
        raise UsageError("--slurm: there is no srun on PATH (Debian: apt-get install slurm-client)")
    words = [srun, "--kill-on-bad-exit=1", "--distribution=block", "--mpi=none"]
    if args.size:
        words.append(f"--ntasks={args.size}")
    if args.per_node and not args.per_node.isdigit():
        raise UsageError(
            f"--nproc-per-node {args.per_node} with --slurm: give a number, as what this host has "
            "tells nothing of those that the ranks will be on"
        )
    if args.per_node:
        words.append(f"--ntasks-per-node={args.per_node}")
    if not args.no_prefix:
        words.append("--label")
    words += split_words("--slurm-options", args.slurm_options)
    inherited = {name: value for name, value in environ.items() if name not in _OUTER}
    environment = {"PYTHONUNBUFFERED": "1", **inherited, **settings}
    return Handover([*words, "--", *command], environment, args.verbose)
