"""The ``horarun`` command line: options to a JobSpec, with errors that say what was meant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import hora
from hora.errors import UsageError
from hora.launch.command import resolve_command
from hora.launch.config_file import config_words
from hora.launch.flags import notes_on, settings_of
from hora.launch.guardian import guarded
from hora.launch.handover import Handover, notes_on_starters
from hora.launch.host_options import notes_on_one_host, place_ranks
from hora.launch.job import Job
from hora.launch.job_spec import JobSpec, OneOfSeveralNodes, SeveralHosts
from hora.launch.mpi import hand_over_to_mpirun
from hora.launch.options import OptionParser, build_parser, split_command
from hora.launch.output import OutputStyle, rank_folder
from hora.launch.placement import Placement
from hora.launch.slurm import hand_over_to_srun
from hora.launch.store import needs_store

EXIT_USAGE = 2


def parse(argv: Sequence[str], program: str = "horarun") -> JobSpec | None:
    """Returns the job to run; None when only information was asked for, which is then printed.

    Raises UsageError, also for ranks that somebody else would start.
    """
    read = read_line(argv, program)
    if isinstance(read, Handover):
        raise UsageError("--slurm and --mpi: only horarun itself, on a command line, can do that")
    return read


def read_line(argv: Sequence[str], program: str) -> JobSpec | Handover | None:
    """Returns the job to run, or the command that runs it; None after printing information.

    Raises UsageError.
    """
    parser = build_parser(program)
    options, words = split_command(argv, parser.options())
    given = parser.parse_args(options)
    if given.version:
        print(f"hora {hora.__version__}")
        return None
    if given.check_build:
        from hora.cli.check import print_build

        print_build()
        return None
    filed = _read_config(given.config_file, parser)
    args = parser.parse_args(filed + options)  # of two flags the last one counts
    if bool(given.hosts) != bool(given.hostfile):  # one of them on the line hides both in the file
        args.hosts, args.hostfile = given.hosts, given.hostfile
    settings, notes = _settings(args, settings_of(given), settings_of(parser.parse_args(filed)))
    command = resolve_command(words, args.module)
    if args.slurm or args.mpi:
        hand_over = hand_over_to_srun if args.slurm else hand_over_to_mpirun
        return hand_over(args, command, settings, os.environ)
    environ = {**os.environ, **settings}
    placement, where = place_ranks(args, environ)
    _refuse_mpi(environ.get("HORA_BACKEND", ""), placement.size, where is not None)
    if args.directory:
        _make_writable(args.directory, placement, where)
    style = OutputStyle(not args.no_prefix, args.prefix_timestamp, args.quiet, args.directory)
    notes += notes_on(args) + notes_on_starters(args)
    notes += notes_on_one_host(args, needs_store(environ)) if where is None else []
    return JobSpec(
        placement, command, settings, style, float(args.grace_period), args.verbose, notes,
        horovod=args.horovod, where=where,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None, program: str = "horarun") -> int:
    """Runs the command line and returns the exit code: the job's, or 2 for a usage error."""
    try:
        spec = read_line(sys.argv[1:] if argv is None else argv, program)
    except UsageError as error:
        print(f"{program}: {error}\nTry '{program} --help'.", file=sys.stderr)
        return EXIT_USAGE
    if spec is None:
        return 0
    if isinstance(spec, Handover):
        return spec.run()
    return guarded(lambda lifeline: Job(spec, lifeline).run())


def _refuse_mpi(backend: str, size: int, has_several_hosts: bool) -> None:
    """Ranks that no mpirun has started know nothing of each other in MPI."""
    is_used = backend == "flat-mpi" or (backend == "mpi" and has_several_hosts)
    if is_used and size > 1:
        raise UsageError(
            f"--backend {backend} (HORA_BACKEND): horarun starts the ranks itself, but only a "
            "launcher of MPI makes them known to each other in MPI: start with mpirun or "
            "horarun --mpi"
        )


def _read_config(path: str | None, parser: OptionParser) -> list[str]:
    return config_words(path, parser.options(), parser.parse_args) if path else []


def _settings(
    args: argparse.Namespace, flags: Mapping[str, str], filed: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Variables for the ranks: flags win over the environment, and that over the file."""
    variables = _variables(args.variables)
    environ = {**os.environ, **variables}
    settings = {name: value for name, value in filed.items() if name not in environ}
    notes = []
    if args.horovod:
        from hora.horovod import alias
        from hora.horovod.variables import translate

        found = translate(environ)
        settings.update(found.settings)
        if found.unmatched:
            names = ", ".join(found.unmatched)
            notes.append(f"these variables of Horovod mean nothing to hora: {names}")
        folders = [str(alias.FOLDER), *filter(None, [environ.get("PYTHONPATH")])]
        variables["PYTHONPATH"] = os.pathsep.join(folders)
    return {**settings, **flags, **variables}, notes


def _variables(words: Sequence[str]) -> dict[str, str]:
    variables = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise UsageError(f"-x {word}: there is no variable name before '='")
        if not equals and name not in os.environ:
            raise UsageError(f"-x {name}: {name} is not set here; set it or give -x {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    return variables


def _make_writable(
    directory: Path, placement: Placement, where: SeveralHosts | OneOfSeveralNodes | None
) -> None:
    """Makes the first rank's folder now, so that a bad path fails before anything starts."""
    node = where.node if isinstance(where, OneOfSeveralNodes) else 0
    first = placement.ranks_of(node)[0]
    try:
        rank_folder(directory, first, placement.size).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output-dir {directory}: {error.strerror} ({error.filename})") from None
