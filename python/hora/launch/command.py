"""From the words after the options to what is really executed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hora.errors import UsageError


def resolve_command(words: Sequence[str], as_module: bool) -> list[str]:
    """Returns the argument vector for every rank.

    ``-m`` runs a module and a file ending in .py a script, both with the Python that runs the
    launcher; anything else must be an executable, on PATH or given as a path. Raises UsageError
    naming what cannot be found.
    """
    if not words:
        raise UsageError("no command given: what should the ranks run?")
    name, *arguments = words
    if as_module:
        return [sys.executable, "-m", name, *arguments]
    if name.endswith(".py") and (Path(name).is_file() or not shutil.which(name)):
        if not Path(name).is_file():
            raise UsageError(f"there is no file {name!r} (looked in {os.getcwd()})")
        return [sys.executable, name, *arguments]
    if shutil.which(name):
        return [name, *arguments]
    raise UsageError(_why_not(name))


def _why_not(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return f"{name!r} is a folder, not a command"
    if path.is_file() and not os.access(path, os.X_OK):
        return f"{name!r} is not executable (chmod +x {name}, or start it with its interpreter)"
    if path.is_file():
        return f"command {name!r} is not on PATH; for the file in this folder write ./{name}"
    if name in ("python", "python3"):
        return f"there is no {name!r} on PATH; give the script alone to use {sys.executable}"
    return f"command {name!r} not found" + (" on PATH" if "/" not in name else "")
