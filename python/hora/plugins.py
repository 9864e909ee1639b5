"""The parts of hora that are opened at run time: which are there, and what their libraries say.

They are asked in processes of their own: a process can open one MPI only, and one that has opened
CUDA's driver keeps memory on a GPU and must not fork.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CUDA_FILE",
    "PLUGINS",
    "Plugin",
    "ask",
    "core_folder",
    "describe",
    "first_line",
    "is_usable",
    "plugin_folder",
]

CUDA_FILE = "hora_cuda.so"
_ANSWER_LIMIT_S = 10.0
_DESCRIBE = """
import sys
from hora import _core
try:
    print(_core.describe_plugin(*sys.argv[1:]))
except RuntimeError as error:
    sys.exit(str(error))
"""


@dataclass(frozen=True)
class Plugin:
    """A collective library behind a plugin. ``family`` is what HORA_MPI calls the library."""

    file: str
    engine: str  # what HORA_BACKEND calls it
    title: str
    to_build: str
    to_run: str
    family: str = ""

    @property
    def key(self) -> str:
        """Stable."""
        return f"plugin_{Path(self.file).stem.removeprefix('hora_')}"

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        return plugin_folder() / self.file


PLUGINS = (
    Plugin("hora_gloo.so", "gloo", "Gloo plugin", "libgloo-dev", "libgloo0"),
    Plugin("hora_mpi_ompi.so", "mpi", "Open MPI plugin", "libopenmpi-dev",
           "libopenmpi3 openmpi-bin", "openmpi"),
    Plugin("hora_mpi_mpich.so", "mpi", "MPICH plugin", "libmpich-dev", "libmpich12 mpich",
           "mpich"),
)  # fmt: skip


def core_folder() -> Path:
    """Where the extension module is, with everything that was built beside it."""
    core = importlib.util.find_spec("hora._core")
    return Path(core.origin).parent if core and core.origin else Path(__file__).parent


def plugin_folder() -> Path:
    """``HORA_PLUGIN_DIRECTORY``, or beside the extension module."""
    return Path(os.environ.get("HORA_PLUGIN_DIRECTORY") or core_folder())


def describe(plugin: Plugin) -> tuple[bool, str]:
    """Whether its library can be opened, and what that says of itself, or why it cannot."""
    environ = dict(os.environ)
    if plugin.family:
        # The question is what would be if a launcher of MPI had started the process.
        environ.update(HORA_MPI=plugin.family, PMI_RANK="0")
    words = [sys.executable, "-c", _DESCRIBE, plugin.engine, str(plugin.path.parent)]
    code, text = ask(words, environ)
    return code == 0, first_line(text)


def is_usable(engine: str) -> bool:
    """Whether some plugin for this engine is there with its library."""
    there = (plugin for plugin in PLUGINS if plugin.engine == engine and plugin.path.exists())
    return any(describe(plugin)[0] for plugin in there)


def ask(words: Sequence[str], environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and everything that a program says; 124 when it takes longer than 10 s."""
    try:
        done = subprocess.run(
            words, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=_ANSWER_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {_ANSWER_LIMIT_S:g} s"
    except OSError as error:
        return 126, str(error.strerror)
    return done.returncode, done.stdout.decode(errors="replace")


def first_line(text: str) -> str:
    """What a program said first, for one line of a report."""
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()) if lines else "nothing"
