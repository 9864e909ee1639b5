"""The processes behind ``hora.run``, told apart by their first argument.

<pid> <horarun's words …>    the launcher; it ends with process <pid>; the last word is the folder
<folder>                     one rank: calls the function that is there
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    """Becomes what the first argument says."""
    first, *words = sys.argv[1:]
    if first.isdigit():
        from hora.launch.cli import main as launch
        from hora.launch.process_tree import die_with_parent

        die_with_parent(int(first), signal.SIGTERM)
        code = launch(words, "hora.run")
        if os.getppid() != int(first):  # nobody is left to read the results and clear them away
            shutil.rmtree(words[-1], ignore_errors=True)
        sys.exit(code)
    call(Path(first), int(os.environ["RANK"]))


def call(folder: Path, rank: int) -> None:
    """Calls the function in ``folder/call`` and leaves the outcome in ``folder/result.<rank>``.

    An exception is left as text and goes on, so that the job ends and the other ranks learn why.
    """
    try:
        search_path, document = pickle.loads((folder / "call").read_bytes())
        sys.path += [entry for entry in search_path if entry not in sys.path]
        func, args, kwargs = pickle.loads(document)
        value = _pickled(func(*args, **kwargs))
    except BaseException as error:
        if not isinstance(error, SystemExit):
            _leave(folder, rank, _failure(error))
        raise
    _leave(folder, rank, {"value": value})


def _pickled(value: object) -> bytes:
    cloudpickle: Any = importlib.import_module("cloudpickle")
    try:
        document: bytes = cloudpickle.dumps(value)
    except Exception as error:  # whatever an object's own __reduce__ raises
        kind = type(value).__name__
        raise TypeError(f"the result, a {kind}, cannot be pickled: {error}") from None
    return document


def _failure(error: BaseException) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "time": time.monotonic(),  # one clock for all processes of this host
    }


def _leave(folder: Path, rank: int, outcome: dict[str, Any]) -> None:
    """Writes the outcome whole or not at all."""
    unfinished = folder / f"unfinished.{rank}"
    unfinished.write_bytes(pickle.dumps(outcome))
    unfinished.rename(folder / f"result.{rank}")
