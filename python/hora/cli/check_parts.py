"""What of hora is built, and which programs and libraries of others it can use here."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hora import plugins
from hora.cli.environment import package_version
from hora.plugins import PLUGINS, Plugin, first_line

__all__ = [
    "Finding",
    "built_findings",
    "check_core",
    "check_plugin",
    "check_torch",
    "found_findings",
    "plugin_files",
    "version_findings",
]

_OLDEST_TORCH = (2, 11)
_APT = "apt-get install"


@dataclass(frozen=True)
class Finding:
    """The state of one part: ``key`` never changes, the other texts are for people.

    ``state`` is "ok"; "absent": optional, and not there; "warning": usable, with a drawback;
    "failed": a job on one host cannot run. ``advice`` says how to mend it.
    """

    key: str
    part: str
    state: str
    detail: str
    advice: str = ""


def built_findings() -> list[Finding]:
    """Parts of hora itself; what a plugin's library says needs a process of its own for each."""
    return [check_core(), _check_torch_operators(), *map(check_plugin, PLUGINS)]


def found_findings() -> list[Finding]:
    """Programs and libraries of others."""
    return [
        check_torch(),
        _check_openssl(),
        _check_program("ssh", "ssh", "-V", "openssh-client", "starts ranks on other hosts"),
        _check_torchrun(),
        _check_mpirun("mpirun_openmpi", "Open MPI's mpirun", "openmpi-bin",
                      ("mpirun.openmpi",), ("Open MPI", "OpenRTE")),
        _check_mpirun("mpirun_mpich", "MPICH's mpirun", "mpich",
                      ("mpirun.mpich", "mpiexec.hydra"), ("HYDRA",)),
        _check_program("srun", "srun", "--version", "slurm-client", "starts ranks under Slurm"),
    ]  # fmt: skip


def check_core() -> Finding:
    """The C++ core can be imported."""
    try:
        core = importlib.import_module("hora._core")
    except ImportError as error:
        return Finding("core", "core extension", "failed", str(error), "pip install .")
    return Finding("core", "core extension", "ok", str(core.__file__))


def plugin_files() -> dict[str, bool]:
    """Which plugins are there, by the key of their finding."""
    return {plugin.key: plugin.path.exists() for plugin in PLUGINS}


def _check_torch_operators() -> Finding:
    """The operators of ``torch.compile``; without them graphs are cut at every collective."""
    key, part = "torch_operators", "torch operators"
    if (plugins.core_folder() / "_torch_ops.so").exists():
        return Finding(key, part, "ok", "built")
    version = package_version("torch")
    advice = (
        "install PyTorch 2.10 or newer, then hora again"
        if version is None
        else "install hora again with --config-settings=cmake.define.HORA_TORCH_OPS=ON, which "
        f"tells why (PyTorch is {version})"
    )
    return Finding(
        key, part, "warning", "not built: collectives cut the graphs of torch.compile", advice
    )


def check_plugin(plugin: Plugin) -> Finding:
    """The plugin and its library."""
    if not plugin.path.exists():
        advice = f"{_APT} {plugin.to_build}, then install hora again"
        return Finding(plugin.key, plugin.title, "absent", "not built", advice)
    is_usable, text = plugins.describe(plugin)
    if is_usable:
        use = ", for ranks that an mpirun starts" if plugin.family else ""
        return Finding(plugin.key, plugin.title, "ok", text + use)
    advice = f"{_APT} {plugin.to_run}"
    return Finding(plugin.key, plugin.title, "absent", f"built, but: {text}", advice)


def check_torch() -> Finding:
    """PyTorch is there and not too old; it is not imported."""
    version = package_version("torch")
    if version is None:
        advice = "pip install torch"
        return Finding("torch", "torch", "warning", "not installed; hora.torch needs it", advice)
    number = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if number < _OLDEST_TORCH:
        oldest = ".".join(map(str, _OLDEST_TORCH))
        what = f"{version}; the fast tensor exchange needs {oldest}"
        return Finding("torch", "torch", "warning", what, "pip install --upgrade torch")
    return Finding("torch", "torch", "ok", version)


def _check_openssl() -> Finding:
    """The library that the core is linked with, as this process has loaded it."""
    import ctypes

    for path in _loaded("libcrypto"):
        version = ctypes.CDLL(path).OpenSSL_version
        version.restype = ctypes.c_char_p
        return Finding("openssl", "OpenSSL", "ok", f"{version(0).decode()} ({path})")
    if check_core().state == "failed":
        advice = f"{_APT} libssl3"
        return Finding("openssl", "OpenSSL", "absent", "unknown without the core", advice)
    return Finding("openssl", "OpenSSL", "ok", "part of the core extension")


def _loaded(library: str) -> Iterator[str]:
    """Paths of a library in this process; ours before those that Python's ssl may have."""
    check_core()
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if f"/{library}" in line}
    yield from sorted(paths)


def _check_program(key: str, program: str, flag: str, package: str, use: str) -> Finding:
    path = shutil.which(program)
    if path is None:
        return Finding(key, program, "absent", f"not found; {use}", f"{_APT} {package}")
    code, text = plugins.ask([path, flag])
    return Finding(key, program, *_said(code, path, text))


def _check_torchrun() -> Finding:
    beside = Path(sys.executable).with_name("torchrun")
    path = str(beside) if beside.exists() else shutil.which("torchrun")
    if path is None:
        return Finding("torchrun", "torchrun", "absent", "not found", "pip install torch")
    return Finding("torchrun", "torchrun", "ok", path)


def _check_mpirun(
    key: str, part: str, package: str, own: tuple[str, ...], marks: tuple[str, ...]
) -> Finding:
    """A launcher of one family: of a Python package, under its own name, or as plain mpirun."""
    beside = str(Path(sys.executable).with_name("mpirun"))
    for program in (beside, *own, "mpirun"):
        path = shutil.which(program)
        if path is None:
            continue
        code, text = plugins.ask([path, "--version"])
        if any(mark in text for mark in marks):
            return Finding(key, part, *_said(code, path, text))
    return Finding(key, part, "absent", "not found", f"{_APT} {package}")


def _said(code: int, path: str, text: str) -> tuple[str, str]:
    """State and detail of a program that was asked for its version."""
    if code:
        return "warning", f"{path} does not work: {first_line(text)}"
    version = re.search(r"\d+(\.\d+)+\w*", text)
    return "ok", f"{version.group() if version else first_line(text)} ({path})"


def version_findings(hora_version: str) -> list[Finding]:
    """What a report of a problem needs first."""
    libc = " ".join(platform.libc_ver()).strip() or "unknown"
    return [
        Finding("hora", "hora", "ok", hora_version),
        Finding("python", "Python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding("kernel", "kernel", "ok", f"{platform.system()} {platform.release()}"),
        Finding("libc", "C library", "ok", libc),
    ]
