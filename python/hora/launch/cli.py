"""The ``horarun`` command line: options to a JobSpec, with errors that say what was meant."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hora
from hora.errors import UsageError
from hora.launch.command import resolve_command
from hora.launch.guardian import guarded
from hora.launch.job import Job, JobSpec
from hora.launch.output import OutputStyle, rank_folder

EXIT_USAGE = 2
_LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "off")
_DESCRIPTION = "Start N copies of a command on this host as the ranks of one hora job."
_EXAMPLES = """\
examples:
  horarun -np 4 train.py --lr 0.1                 a script, with this Python
  horarun -np 2 -x DATA_DIR python train.py       any command; DATA_DIR must be set
  horarun -np 2 -m mypackage.train                a module
  horarun -np 8 --output-dir logs -- ./job.sh -v  also write logs/rank.0/stdout …

Output lines start with the rank: "[1] " for stdout, "[1]! " (red on a terminal) for stderr.
Rank 0 reads this terminal's input; the others read nothing. The first rank that fails ends the
job, and its exit code (128 + n for signal n) is horarun's.
"""


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, and knows which options take a value."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message)

    def options(self) -> dict[str, bool]:
        """Every spelling of every option → whether it takes a value."""
        return {
            spelling: action.nargs != 0
            for action in self._actions
            for spelling in action.option_strings
        }


def build_parser(program: str) -> argparse.ArgumentParser:
    """The options alone; the command is split off before they are parsed."""
    parser = _Parser(
        prog=program,
        usage=f"{program} -np N [options] [--] command [arguments …]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    job = parser.add_argument_group("job")
    job.add_argument(
        "-np", "-n", "--num-proc", "--nproc-per-node", dest="size", type=_ranks, metavar="N",
        help="how many ranks to start (required)",
    )  # fmt: skip
    job.add_argument("-m", "--module", action="store_true", help="the command is a Python module")
    job.add_argument(
        "-x", dest="variables", action="append", default=[], metavar="NAME[=VALUE]",
        help="set an environment variable for the ranks; NAME alone must be set here (repeatable)",
    )  # fmt: skip
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
        "--prefix-timestamp", "--prefix-output-with-timestamp", action="store_true",
        help="start each line with the local time",
    )  # fmt: skip
    output.add_argument("--verbose", action="store_true", help="say what is started, with its pids")
    limits = parser.add_argument_group("time limits (seconds)")
    limits.add_argument(
        "--grace-period", type=_seconds, default=5.0, metavar="S",
        help="between a failure and SIGTERM, and between SIGTERM and SIGKILL (default 5)",
    )  # fmt: skip
    for option, variable, text in _FORWARDED_TIMES:
        limits.add_argument(option, type=_seconds, metavar="S", help=f"{text} (sets {variable})")
    log = parser.add_argument_group("diagnosis")
    log.add_argument(
        "--log-level", type=str.lower, choices=_LOG_LEVELS, metavar="LEVEL",
        help=f"{', '.join(_LOG_LEVELS)} (sets HORA_LOG_LEVEL)",
    )  # fmt: skip
    log.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


_FORWARDED_TIMES = (
    ("--start-timeout", "HORA_START_TIMEOUT_SECONDS", "give up when the ranks do not all meet"),
    ("--stall-warning", "HORA_STALL_WARNING_SECONDS", "warn of a tensor some rank never submits"),
    ("--stall-abort", "HORA_STALL_ABORT_SECONDS", "give up on such a tensor"),
)


def parse(argv: Sequence[str], program: str = "horarun") -> JobSpec | None:
    """Returns the job to run, or None when only the version was asked for; raises UsageError."""
    parser = build_parser(program)
    options, words = split_command(argv, parser.options())  # type: ignore[attr-defined]
    args = parser.parse_args(options)
    if args.version:
        return None
    if args.size is None:
        raise UsageError("how many ranks? Give -np N")
    command = resolve_command(words, args.module)
    if args.directory:
        _make_writable(args.directory, args.size)
    style = OutputStyle(not args.no_prefix, args.prefix_timestamp, args.quiet, args.directory)
    settings = _settings(args)
    return JobSpec(args.size, command, settings, style, args.grace_period, args.verbose)


def split_command(argv: Sequence[str], options: dict[str, bool]) -> tuple[list[str], list[str]]:
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
        ours.append(name + equals + value)
        if options[name] and not equals:
            if not rest:
                raise UsageError(f"option {name} needs a value")
            ours[-1] += "=" + rest.pop(0)  # one word, so that a value may start with a dash
    return ours, rest


def did_you_mean(word: str, known: Sequence[str] | dict[str, bool]) -> str:
    """Returns ": did you mean …?" when something known is a near miss, else ""."""
    bare = {name.lstrip("-"): name for name in known}  # the dashes would make all options alike
    close = difflib.get_close_matches(word.lstrip("-"), list(bare), n=1, cutoff=0.66)
    return f": did you mean {bare[close[0]]}?" if close else ""


def main(argv: Sequence[str] | None = None, program: str = "horarun") -> int:
    """Runs the command line and returns the exit code: the job's, or 2 for a usage error."""
    try:
        spec = parse(sys.argv[1:] if argv is None else argv, program)
    except UsageError as error:
        print(f"{program}: {error}\nTry '{program} --help'.", file=sys.stderr)
        return EXIT_USAGE
    if spec is None:
        print(f"hora {hora.__version__}")
        return 0
    return guarded(lambda lifeline: Job(spec, lifeline).run())


def _settings(args: argparse.Namespace) -> dict[str, str]:
    settings = {}
    for option, variable, _ in _FORWARDED_TIMES:
        seconds = getattr(args, option[2:].replace("-", "_"))
        if seconds is not None:
            settings[variable] = f"{seconds:g}"
    if args.log_level:
        settings["HORA_LOG_LEVEL"] = args.log_level
    for word in args.variables:
        name, equals, value = word.partition("=")
        if not name:
            raise UsageError(f"-x {word}: there is no variable name before '='")
        if not equals and name not in os.environ:
            raise UsageError(f"-x {name}: {name} is not set here; set it or give -x {name}=VALUE")
        settings[name] = value if equals else os.environ[name]
    return settings


def _make_writable(directory: Path, size: int) -> None:
    """Makes the first rank's folder now, so that a bad path fails before anything starts."""
    try:
        rank_folder(directory, 0, size).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output-dir {directory}: {error.strerror} ({error.filename})") from None


def _ranks(word: str) -> int:
    if word.isascii() and word.isdigit() and 1 <= int(word) <= 1 << 20:
        return int(word)
    raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of ranks, 1 or more")


def _seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e9:  # false for NaN
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of seconds from 0 to 1e9")
    return value
