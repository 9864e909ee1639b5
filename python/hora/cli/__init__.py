"""The ``hora`` command: run, env, check."""

from hora.cli.main import main

__all__ = ["main"]
