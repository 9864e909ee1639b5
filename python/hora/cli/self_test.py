"""``hora test``: half a minute in which an installation shows that it works, on one host or many.

The ranks are started as by ``horarun``, twice: for the work, and for a death. ``--json`` prints one
object, whose keys do not change:

    format, hora, passed, ranks, hosts, seconds
    parts     {part: {"state": "passed", "failed" or "skipped", "detail"}}
    figures   {"allreduce_4B_us", "allreduce_64MiB_ms", "allreduce_64MiB_busbw_GBps"}
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hora
from hora.cli.self_test_report import (
    DYING,
    FAILED,
    INSTALLATION,
    PASSED,
    SKIPPED,
    Report,
    Verdict,
)
from hora.errors import UsageError
from hora.launch.cli import EXIT_USAGE, parse
from hora.launch.flags import typed
from hora.settings import seconds

__all__ = ["main"]

_FORMAT = 1
_SECONDS = "30"
_MOST_DEFAULT_RANKS = 4
_DEATH_SHARE = 0.2  # of the time on the progress bar
# Beyond the time asked for, before a job is ended: for starting, and for the part under way.
_PATIENCE_S = 60.0
_KILL_AFTER_S = 20.0
_STALL_ABORT_S = "20"
_ENDED_BY = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
_COLOURS = {PASSED: "\x1b[32m", FAILED: "\x1b[1;31m", SKIPPED: "\x1b[2m"}

Take = Callable[[dict[str, Any]], None]


class _Ended(BaseException):
    """A signal asks for the end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def main(words: Sequence[str]) -> int:
    """Runs ``hora test``: 0 when all parts passed, 1 when one failed, 2 for a usage error."""
    parser = _parser()
    args, flags = parser.parse_known_args(words)
    flags = _flags(args, flags)
    try:
        flags = _sized(flags)
        spec = parse([*flags, "--", sys.executable], "hora test")
    except UsageError as error:
        print(f"hora test: {error}\nTry 'hora test --help'.", file=sys.stderr)
        return EXIT_USAGE
    if spec is None:  # a flag that only asks for information
        return 0
    begin = time.monotonic()
    with _signals():
        try:
            report = _run(flags, float(args.seconds), spec.size, as_json=args.json)
        except _Ended as error:
            print("hora test: interrupted; all ranks have ended", file=sys.stderr)
            return _ENDED_BY[signal.Signals(error.signum)]
    if args.json:
        print(json.dumps(_document(report, time.monotonic() - begin), indent=2))
    elif report.passed:
        print("All parts passed.")
    else:
        failed = [verdict.part for verdict in report.verdicts if verdict.state == FAILED]
        print(f"FAILED: {', '.join(failed)}")
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hora test",
        usage="hora test [-np N] [-H h1:2,h2:2 | --hostfile F] [--seconds S] [--json] "
        "[options of horarun]",
        description="Try this installation for half a minute: every collective on known values, "
        "process sets, join, an optimizer, a rank that dies; with latency and bandwidth.",
        epilog="All other options are horarun's, as --backend gloo, --ssh-port P, --data-plane "
        "auth. Exit code 0: all parts passed; 1: one failed.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-np", "-n", "--num-proc", dest="size", metavar="N",
        help=f"ranks (default: as many as the hosts have room for, or here 2 to "
        f"{_MOST_DEFAULT_RANKS}, by the cores)",
    )  # fmt: skip
    parser.add_argument("-H", "--hosts", metavar="H:N,…", help="hosts and their ranks")
    parser.add_argument("-hostfile", "--hostfile", metavar="F", help="the same from a file")
    parser.add_argument(
        "--seconds", type=typed(seconds(3600, low=1)), default=_SECONDS, metavar="S",
        help=f"about how long to try (default {_SECONDS})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _flags(args: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """What horarun is given."""
    flags = [] if others[:1] == ["--"] else list(others)
    for flag in ("hosts", "hostfile"):
        if getattr(args, flag) is not None:
            flags.append(f"--{flag}={getattr(args, flag)}")
    if args.size is not None:
        flags.append(f"--num-proc={args.size}")
    return flags


def _sized(flags: list[str]) -> list[str]:
    """With a number of ranks, where the flags leave that open. Raises UsageError."""
    command = ["--", sys.executable]
    try:
        parse([*flags, *command], "hora test")
    except UsageError:
        size = max(2, min(_MOST_DEFAULT_RANKS, len(os.sched_getaffinity(0))))
        sized = [*flags, f"--num-proc={size}"]
        if not any(flag.startswith("--num-proc=") for flag in flags):
            parse([*sized, *command], "hora test")
            return sized
        raise
    return flags


def _run(flags: list[str], limit_s: float, size: int, as_json: bool) -> Report:
    report = Report()
    with _progress(limit_s) as show:
        printed = 0

        def told(message: dict[str, Any]) -> None:
            nonlocal printed
            if message.get("kind") == "progress":
                show(str(message["part"]), None)
                return
            report.take(message)
            printed = tell()

        def tell() -> int:
            for verdict in [] if as_json else report.verdicts[printed:]:
                show("", verdict)
            return len(report.verdicts)

        _check_installation(report)
        printed = tell()
        if not report.passed:
            return report
        work_s = limit_s * (1 - _DEATH_SHARE)
        report.end_work(_run_job(flags, {"part": "work", "seconds": work_s}, limit_s, told))
        printed = tell()
        if size == 1:
            report.add(DYING, SKIPPED, "needs two ranks")
        elif not report.size:
            report.add(DYING, SKIPPED, "the ranks did not start")
        else:
            show(DYING, None)
            reason = _run_job(flags, {"part": "death"}, limit_s, told, is_fatal=True)
            report.end_death(reason)
        tell()
    return report


def _check_installation(report: Report) -> None:
    """What ``hora check`` knows of this host, as far as it can keep ranks from starting."""
    from hora.cli.check import needed

    failed = [finding for finding in needed() if finding.state == FAILED]
    if failed:
        lines = [f"{one.part}: {one.detail} (fix: {one.advice})" for one in failed]
        report.add(INSTALLATION, FAILED, "; ".join(lines))
    else:
        report.add(INSTALLATION, PASSED, f"hora {hora.__version__}")


def _run_job(
    flags: list[str], what: dict[str, Any], limit_s: float, take: Take, is_fatal: bool = False
) -> str:
    """Starts ranks and hears them out; returns what went wrong with the job as a whole, or "".

    ``is_fatal``: a rank is expected to die. No rank is left when this returns or raises.
    """
    worker = [sys.executable, "-m", "hora.cli.self_test_worker", json.dumps(what)]
    words = [sys.executable, "-m", "hora.launch", *flags, "--no-prefix", "--", *worker]
    defaults = {"OMP_NUM_THREADS": "1", "HORA_STALL_ABORT_SECONDS": _STALL_ABORT_S}
    with tempfile.TemporaryFile("w+") as errors:
        # A session of its own: a terminal's Ctrl-C reaches the ranks once, through here.
        process = subprocess.Popen(
            words, env={**defaults, **os.environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
        )  # fmt: skip
        patience_s = limit_s + _PATIENCE_S
        timers = [
            threading.Timer(patience_s, process.send_signal, [signal.SIGTERM]),
            threading.Timer(patience_s + _KILL_AFTER_S, process.kill),
        ]
        deadline = time.monotonic() + patience_s
        try:
            for timer in timers:
                timer.start()
            strange = _hear(process, take)
            code = process.wait()
        except BaseException as error:
            process.send_signal(error.signum if isinstance(error, _Ended) else signal.SIGTERM)
            process.communicate()
            raise
        finally:
            for timer in timers:
                timer.cancel()
        errors.seek(0)
        said = [*errors.read().splitlines(), *strange]
    if time.monotonic() > deadline:
        return f"ended after {patience_s:g} s without a result"
    if code == 0 or is_fatal:
        return ""
    return "; ".join(line.strip() for line in said[-5:] if line.strip()) or f"exit code {code}"


def _hear(process: subprocess.Popen[str], take: Take) -> list[str]:
    """Passes on what ranks tell; returns what something else has printed among it."""
    assert process.stdout is not None
    strange = []
    for line in process.stdout:
        try:
            take(json.loads(line))
        except (LookupError, TypeError, ValueError, AttributeError):
            strange.append(line.rstrip())
    return strange


@contextmanager
def _signals() -> Iterator[None]:
    """Signals that end this program end the ranks first; a second one is left to the launcher."""

    def end(signum: int, frame: object) -> None:
        del frame
        for one in _ENDED_BY:
            signal.signal(one, signal.SIG_IGN)
        raise _Ended(signum)

    # Below nohup, the end of the terminal is to be ignored.
    taken = [
        one for one in _ENDED_BY if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN
    ]
    before = {signum: signal.signal(signum, end) for signum in taken}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _progress(total_s: float) -> Iterator[Callable[[str, Verdict | None], None]]:
    """A bar on a terminal, with verdicts printed above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    begin = time.monotonic()
    with bar:
        task = bar.add_task("starting", total=total_s)

        def show(part: str, verdict: Verdict | None) -> None:
            if part:
                used = min(time.monotonic() - begin, total_s)
                bar.update(task, completed=used, description=part)
            if verdict is not None:
                print(_line(verdict), flush=True)

        yield show


def _line(verdict: Verdict) -> str:
    state = f"{verdict.state.upper() if verdict.state == FAILED else verdict.state:8}"
    if sys.stdout.isatty():
        state = f"{_COLOURS[verdict.state]}{state}\x1b[0m"
    return f"{state} {verdict.part:17} {verdict.detail}"


def _document(report: Report, spent_s: float) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "hora": hora.__version__,
        "passed": report.passed,
        "ranks": report.size,
        "hosts": report.hosts,
        "seconds": round(spent_s, 1),
        "parts": {
            verdict.part: {"state": verdict.state, "detail": verdict.detail}
            for verdict in report.verdicts
        },
        "figures": report.figures,
    }
