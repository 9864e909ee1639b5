"""``hora env``: what a report of a problem should say about the machine and the installation."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import hora

_CPU_FLAGS = (
    "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16",
    "avx512_fp16", "amx_bf16", "asimd", "asimdhp", "bf16", "sve",
)  # fmt: skip
_SHOWN_VARIABLES = (
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK",
    "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH", "VIRTUAL_ENV",
)  # fmt: skip


def package_version(name: str) -> str | None:
    """A distribution's version, without importing it; None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_flags() -> list[str]:
    """What the processor can do, as the kernel names it; only what matters to kernels."""
    fields = _cpu_fields()
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    return [flag for flag in _CPU_FLAGS if flag in present]


def collect() -> dict[str, str]:
    """The report, in the order in which it is printed."""
    python = f"{platform.python_version()} ({platform.python_implementation()})"
    report = {
        "hora": hora.__version__,
        "hora path": str(Path(__file__).resolve().parents[1]),
        "hora core": _module_path("hora._core"),
        "Python": f"{python} {sys.executable}",
        "torch": _torch(),
        "numpy": package_version("numpy") or "not installed",
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "CPU": _cpu_model(),
        "CPU features": " ".join(cpu_flags()) or "unknown",
        "cores usable": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "memory": _mebibytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        "/dev/shm": _shared_memory(),
    }
    for name, value in sorted(os.environ.items()):
        if name.startswith(("HORA_", "HOROVOD_")) or name in _SHOWN_VARIABLES:
            report[f"${name}"] = value
    return report


def main(words: Sequence[str]) -> int:
    """Prints the report; ``--json`` as one JSON object."""
    parser = argparse.ArgumentParser(prog="hora env", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(words)
    report = collect()
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    print("Copy and paste this into your report:\n")
    width = max(map(len, report))
    for name, value in report.items():
        print(f"- {name + ':':{width + 1}} {value}")
    return 0


def _torch() -> str:
    version = package_version("torch")
    return f"{version} {_module_path('torch')}" if version else "not installed"


def _module_path(name: str) -> str:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    return str(spec.origin) if spec and spec.origin else "not found"


def _cpu_fields() -> dict[str, str]:
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return fields


def _cpu_model() -> str:
    return _cpu_fields().get("model name") or platform.processor() or platform.machine()


def _mebibytes(count: int) -> str:
    return f"{count >> 20} MiB"


def _shared_memory() -> str:
    try:
        status = os.statvfs("/dev/shm")
    except OSError as error:
        return f"unusable: {error.strerror}"
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    return f"{_mebibytes(free)} free of {_mebibytes(total)}"
