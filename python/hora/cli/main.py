"""``hora <command>``: each command lives in a module of its own and is imported when asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import hora

_USAGE = """\
usage: hora <command> [options]

commands:
  run     start N ranks of a command, here or on several hosts (the same as horarun)
  env     print versions, platform and paths, to paste into a report (--json)
  check   say what is built, found and usable here, and how to mend what is not (--json);
          exit code 1 when a job on this host cannot run
  test    try this installation for half a minute, also over several hosts (-H h1:2,h2:2);
          exit code 1 when a part fails
  timeline merge OUT FILE...     put the timelines of several ranks into one file
  bench   measure collectives on this machine, in the columns of nccl-tests;
          bench plot LOG [-o FILE] draws the log of the autotuner

  hora <command> --help says more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; 2 for a usage error."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words else "--help"
    if name in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0
    if name in ("-V", "--version"):
        print(f"hora {hora.__version__}")
        return 0
    if name not in _COMMANDS:
        from hora.launch.spelling import did_you_mean

        kind = "option" if name.startswith("-") else "command"
        hint = did_you_mean(name, list(_COMMANDS))
        print(f"hora: unknown {kind} {name!r}{hint}\nTry 'hora --help'.", file=sys.stderr)
        return 2
    return _COMMANDS[name](words)


def _run(words: Sequence[str]) -> int:
    from hora.launch.cli import main as launch

    return launch(words, program="hora run")


def _env(words: Sequence[str]) -> int:
    from hora.cli.environment import main as show

    return show(words)


def _check(words: Sequence[str]) -> int:
    from hora.cli.check import main as check

    return check(words)


def _test(words: Sequence[str]) -> int:
    from hora.cli.self_test import main as test

    return test(words)


def _timeline(words: Sequence[str]) -> int:
    from hora.cli.timeline import main as work_on_timelines

    return work_on_timelines(words)


def _bench(words: Sequence[str]) -> int:
    from hora.cli.bench import main as bench

    return bench(words)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "env": _env,
    "check": _check,
    "test": _test,
    "timeline": _timeline,
    "bench": _bench,
}
