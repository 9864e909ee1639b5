"""horarun's options: what there is, and how the command line is divided from the ranks' command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from hora.errors import UsageError
from hora.launch.flags import (
    DIAGNOSIS,
    ENGINE,
    GPUS,
    TIMES,
    add_horovods_flags,
    add_settings,
    typed,
)
from hora.launch.host_options import add_host_options
from hora.launch.spelling import did_you_mean
from hora.settings import seconds

MAX_RANKS = 1 << 20
_DESCRIPTION = "Start N copies of a command as the ranks of one hora job, on one host or several."
_EXAMPLES = """\
examples:
  horarun -np 4 train.py --lr 0.1                 a script, with this Python
  horarun -np 2 -x DATA_DIR python train.py       any command; DATA_DIR must be set
  horarun -np 2 -m mypackage.train                a module
  horarun -np 8 --output-dir logs -- ./job.sh -v  also write logs/rank.0/stdout …
  horarun -H h1:2,h2:2 train.py                   two ranks on h1 (0, 1), two on h2 (2, 3)
  salloc -n 4 horarun --slurm train.py            by srun; --mpi: by mpirun
  horarun --horovod -np 2 train.py                a script that imports horovod.torch

Output lines start with the rank: "[1] " for stdout, "[1]! " (red on a terminal) for stderr.
On one host, rank 0 reads this terminal's input; all others read nothing. The first rank that fails
ends the job, and its exit code (128 + n for signal n) is horarun's.
"""


class OptionParser(argparse.ArgumentParser):
    """Raises instead of exiting, and knows how many values each option takes."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """What argparse calls for every mistake."""
        raise UsageError(message)

    def options(self) -> dict[str, int]:
        """Every spelling of every option → its number of values."""
        return {
            spelling: 1 if action.nargs is None else int(action.nargs)
            for action in self._actions
            for spelling in action.option_strings
        }


def build_parser(program: str) -> OptionParser:
    """The options alone; the command is split off before they are parsed."""
    parser = OptionParser(
        prog=program,
        usage=f"{program} -np N [options] [--] command [arguments …]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    job = parser.add_argument_group("job")
    job.add_argument(
        "-np", "-n", "--num-proc", dest="size", type=_ranks, metavar="N",
        help="how many ranks to start; with hosts, by default as many as they have room for",
    )  # fmt: skip
    job.add_argument("-m", "--module", action="store_true", help="the command is a Python module")
    job.add_argument(
        "-x", "--env", dest="variables", action="append", default=[], metavar="NAME[=VALUE]",
        help="set an environment variable for the ranks; NAME alone must be set here (repeatable)",
    )  # fmt: skip
    job.add_argument(
        "--horovod", action="store_true",
        help="'import horovod.torch' means hora in the ranks, and HOROVOD_* variables are read",
    )  # fmt: skip
    job.add_argument("--config-file", metavar="F", help="read options from a YAML file")
    add_host_options(parser)
    add_settings(parser.add_argument_group("between hosts"), ENGINE)
    add_settings(parser.add_argument_group("GPUs"), GPUS)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir", "--output-filename", dest="directory", type=Path, metavar="D",
        help="also write each rank's output, unchanged, to D/rank.<r>/stdout and stderr",
    )  # fmt: skip
    output.add_argument(
        "--quiet", action="store_true",
        help="show no rank's output here (if one fails, the last lines of its stderr)",
    )  # fmt: skip
    output.add_argument("--no-prefix", action="store_true", help="do not mark lines with the rank")
    output.add_argument(
        "--prefix-timestamp", "-prefix-timestamp", "--prefix-output-with-timestamp",
        action="store_true", help="start each line with the local time",
    )  # fmt: skip
    output.add_argument("--verbose", action="store_true", help="say what is started, with its pids")
    limits = parser.add_argument_group("time limits (seconds)")
    limits.add_argument(
        "--grace-period", type=typed(seconds(1e9, low=0)), default="5", metavar="S",
        help="between a failure and SIGTERM, and between SIGTERM and SIGKILL (default 5)",
    )  # fmt: skip
    add_settings(limits, TIMES)
    diagnosis = parser.add_argument_group("diagnosis")
    add_settings(diagnosis, DIAGNOSIS)
    diagnosis.add_argument(
        "--check-build", "-cb", action="store_true", help="show what is built and usable, and exit"
    )
    diagnosis.add_argument(
        "--version", "-v", action="store_true", help="print the version and exit"
    )
    add_horovods_flags(parser)
    return parser


def split_command(argv: Sequence[str], options: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Divides argv at the first word that is neither an option nor an option's value.

    ``--num_proc`` is read as ``--num-proc``. Raises UsageError for an option that does not exist.
    """
    ours: list[str] = []
    rest = list(argv)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name not in options:
            raise UsageError(f"unknown option {name}{did_you_mean(name, options)}")
        if equals:
            ours.append(name + equals + value)
            continue
        count = options[name]
        values, rest = rest[:count], rest[count:]
        if len(values) < count:
            what = "a value" if count == 1 else f"{count} values"
            raise UsageError(f"option {name} needs {what}")
        # A single value becomes part of the word, so that it may start with a dash.
        ours += [f"{name}={values[0]}"] if count == 1 else [name, *values]
    return ours, rest


def _ranks(word: str) -> int:
    if word.isascii() and word.isdigit() and len(word) < 10 and 1 <= int(word) <= MAX_RANKS:
        return int(word)
    raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of ranks, 1 or more")
