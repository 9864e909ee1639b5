"""The ``hora`` command: run, env, check, test, timeline, bench."""

from hora.cli.main import main

__all__ = ["main"]
