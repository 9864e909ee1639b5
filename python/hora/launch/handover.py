"""Jobs whose ranks somebody else starts: this process becomes srun or mpirun."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hora.errors import UsageError

# What only horarun's own supervision of the ranks can do.
_OURS_ALONE = {
    "directory": "--output-dir", "quiet": "--quiet", "prefix_timestamp": "--prefix-timestamp",
    "standalone": "--standalone", "nnodes": "--nnodes", "node_rank": "--node-rank",
    "master_addr": "--master-addr", "master_port": "--master-port", "ssh_port": "--ssh-port",
    "ssh_identity_file": "--ssh-identity-file", "ssh_options": "--ssh-option",
    "remote_python": "--remote-python", "HORA_GPUS_PER_RANK": "--gpus-per-rank",
}  # fmt: skip


@dataclass(frozen=True)
class Handover:
    """A complete command: its arguments and its environment; ``notes`` are said before."""

    words: Sequence[str]
    environment: Mapping[str, str]
    verbose: bool = False
    notes: Sequence[str] = ()

    def run(self) -> int:
        """Does not return: exit code and signals are those of the command itself."""
        notes = [*self.notes, *([shlex.join(self.words)] if self.verbose else [])]
        for note in notes:
            print(f"hora: {note}", file=sys.stderr, flush=True)
        os.execvpe(self.words[0], list(self.words), dict(self.environment))


def refuse_ours(args: argparse.Namespace, flag: str) -> None:
    """Raises UsageError for options that need the ranks to be horarun's own children."""
    given = [name for option, name in _OURS_ALONE.items() if getattr(args, option, None)]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be combined with {flag}, which starts ranks")


def notes_on_starters(args: argparse.Namespace) -> list[str]:
    """One line for each option that only speaks to somebody else who starts ranks."""
    pairs = (("--mpi", "--mpi-args", args.mpi_args),
             ("--slurm", "--slurm-options", args.slurm_options))  # fmt: skip
    return [
        f"{option} has no effect: horarun starts the ranks itself without {flag}"
        for flag, option, value in pairs
        if value is not None
    ]


def split_words(flag: str, text: str | None) -> list[str]:
    """An option's value as a shell would divide it. Raises UsageError for an open quote."""
    try:
        return shlex.split(text or "")
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: {error}") from None
