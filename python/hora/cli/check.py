"""``hora check``: what is built and usable here, one line per part, with how to mend it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hora
from hora.cli.environment import package_version

_OLDEST_TORCH = (2, 11)
_PROBE_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """The state of one part: ``state`` is "ok", "warning" or "missing"; only the last one fails."""

    part: str
    state: str
    detail: str


def check_python() -> Finding:
    """Always fine: an older Python could not have come this far."""
    return Finding("Python", "ok", f"{platform.python_version()} {sys.executable}")


def check_core() -> Finding:
    """The C++ core can be imported."""
    try:
        core = importlib.import_module("hora._core")
    except ImportError as error:
        return Finding("core extension", "missing", f"{error}; build it with: pip install .")
    return Finding("core extension", "ok", str(core.__file__))


def check_shared_memory() -> Finding:
    """Anonymous shared memory of 1 MiB can be made and filled."""
    try:
        fd = os.memfd_create("hora-check", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, _PROBE_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        return Finding("shared memory", "missing", f"memfd_create: {error.strerror}")
    return Finding("shared memory", "ok", "memfd")


def check_sockets() -> Finding:
    """Ranks of a host meet on a socket in the abstract namespace."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(f"\0hora-check-{os.getpid()}")
    except OSError as error:
        return Finding("local sockets", "missing", f"abstract AF_UNIX: {error.strerror}")
    return Finding("local sockets", "ok", "abstract AF_UNIX")


def check_cores() -> Finding:
    """More ranks than cores work, but wait for each other."""
    usable = len(os.sched_getaffinity(0))
    if usable == 1:
        return Finding("cores", "warning", "1 usable; several ranks will take turns")
    return Finding("cores", "ok", f"{usable} usable")


def check_torch() -> Finding:
    """PyTorch is there and not too old; it is not imported."""
    version = package_version("torch")
    if version is None:
        return Finding("torch", "warning", "not installed; hora.torch needs it")
    number = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if number < _OLDEST_TORCH:
        oldest = ".".join(map(str, _OLDEST_TORCH))
        return Finding("torch", "warning", f"{version}; the fast tensor exchange needs {oldest}")
    return Finding("torch", "ok", version)


def check_torch_operators() -> Finding:
    """The operators of ``torch.compile``; without them graphs are cut at every collective."""
    part = "torch operators"
    core = importlib.util.find_spec("hora._core")
    if core is not None and core.origin and Path(core.origin).with_name("_torch_ops.so").exists():
        return Finding(part, "ok", "built")
    version = package_version("torch")
    detail = "not built: collectives cut the graphs of torch.compile; "
    if version is None:
        return Finding(part, "warning", f"{detail}install PyTorch 2.10 or newer, then hora again")
    return Finding(
        part,
        "warning",
        f"{detail}install hora again with --config-settings=cmake.define."
        f"HORA_TORCH_OPS=ON, which tells why (PyTorch is {version})",
    )


def check_open_files() -> Finding:
    """The launcher needs six descriptors per rank."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 256:
        return Finding(
            "open files", "warning", f"hard limit {hard}: at most {(hard - 64) // 6} ranks"
        )
    return Finding("open files", "ok", "no limit" if hard < 0 else f"hard limit {hard}")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_core,
    check_torch,
    check_torch_operators,
    check_shared_memory,
    check_sockets,
    check_open_files,
    check_cores,
)


def print_build() -> None:
    """What ``horarun --check-build`` shows: the parts in Horovod's words, then this machine."""
    has_torch = package_version("torch") is not None
    has_core = check_core().state == "ok"
    parts = {
        "Available Frameworks": {"TensorFlow": False, "PyTorch": has_torch, "MXNet": False},
        "Available Controllers": {"MPI": False, "Gloo": False, "hora": has_core},
        "Available Tensor Operations": {
            "NCCL": False, "DDL": False, "CCL": False, "MPI": False, "Gloo": False,
            "hora, shared memory": has_core,
        },
    }  # fmt: skip
    findings = [check() for check in CHECKS]
    parts["This machine"] = {
        f"{finding.part}: {finding.detail}": finding.state != "missing" for finding in findings
    }
    print(f"hora v{hora.__version__}:")
    for title, lines in parts.items():
        print(f"\n{title}:")
        for name, is_there in lines.items():
            print(f"    [{'X' if is_there else ' '}] {name}")


def main(words: Sequence[str]) -> int:
    """Prints every finding; returns 1 when a needed part is missing."""
    parser = argparse.ArgumentParser(prog="hora check", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args(words)
    findings = [check() for check in CHECKS]
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.part:15} {finding.detail}")
    return 1 if any(finding.state == "missing" for finding in findings) else 0
