"""Opens hora's CUDA plugin and NCCL and prints what they say; only ``hora.gpus`` runs this.

A program of its own, without the rest of hora: ``python -I gpu_probe.py PLUGIN [LIBNCCL…]``. Its
last line is one JSON object: ``cuda``, ``gpus``, ``problem``, ``nccl_version``, ``nccl_path``,
``nccl_problem``.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ABI = 2  # HORA_CUDA_ABI of csrc/hora/cuda/cuda_abi.h, as are the structures


class _Error(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char * 512), ("lost", ctypes.c_int32))


class _Facts(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 256),
        ("uuid", ctypes.c_char * 64),
        ("compute_major", ctypes.c_int32),
        ("compute_minor", ctypes.c_int32),
        ("memory_bytes", ctypes.c_uint64),
    )


class _Table(ctypes.Structure):
    """The first functions of ``hora_cuda``."""

    _fields_ = (
        ("abi", ctypes.c_uint32),
        ("describe", ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int32),
            ctypes.POINTER(_Error))),
        ("facts", ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_int32, ctypes.POINTER(_Facts), ctypes.POINTER(_Error))),
    )  # fmt: skip


def look_at_cuda(plugin: str) -> dict[str, Any]:
    """What the plugin says: ``problem`` is empty when there is a driver with a device."""
    found: dict[str, Any] = {"cuda": "", "gpus": [], "problem": ""}
    try:
        _ask(plugin, found)
    except (OSError, AttributeError, RuntimeError) as error:
        found["problem"] = str(error)
    return found


def _ask(plugin: str, found: dict[str, Any]) -> None:
    """Fills in ``cuda`` and ``gpus``; raises what keeps it from that."""
    if not Path(plugin).exists():
        raise RuntimeError(f"there is no {plugin}")
    get = ctypes.CDLL(plugin).hora_cuda_get
    get.restype = ctypes.POINTER(_Table)
    table = get().contents
    if table.abi != _ABI:
        raise RuntimeError(f"{plugin} is of another version of hora")
    error, text, count = _Error(), ctypes.create_string_buffer(256), ctypes.c_int32()
    failed = table.describe(text, len(text), ctypes.byref(count), ctypes.byref(error))
    found["cuda"] = text.value.decode(errors="replace")
    if failed or count.value == 0:
        nothing = "there is no device, or none is visible"
        raise RuntimeError(error.text.decode(errors="replace") if failed else nothing)
    for device in range(count.value):
        facts = _Facts()
        if table.facts(device, ctypes.byref(facts), ctypes.byref(error)):
            raise RuntimeError(error.text.decode(errors="replace"))
        found["gpus"].append({
            "name": facts.name.decode(errors="replace"),
            "uuid": facts.uuid.decode(errors="replace"),
            "compute": f"{facts.compute_major}.{facts.compute_minor}",
            "memory_bytes": facts.memory_bytes,
        })  # fmt: skip


def look_at_nccl(candidates: Sequence[str]) -> dict[str, Any]:
    """The version of the first library that opens, and where it is."""
    problems = []
    for name in candidates:
        try:
            library = ctypes.CDLL(name)
            version = ctypes.c_int()
            code = library.ncclGetVersion(ctypes.byref(version))
        except (OSError, AttributeError) as error:
            problems.append(str(error))
            continue
        if code == 0:
            return {"nccl_version": version.value, "nccl_path": _path_of("libnccl", name)}
        problems.append(f"{name} does not tell its version (error {code})")
    return {"nccl_version": 0, "nccl_path": "", "nccl_problem": "; ".join(problems)}


def _path_of(library: str, name: str) -> str:
    """The file as this process has mapped it; ``name`` when it has another name there."""
    if "/" in name:
        return name
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if f"/{library}" in line}
    return min(paths, default=name)


if __name__ == "__main__":
    print(json.dumps(look_at_cuda(sys.argv[1]) | look_at_nccl(sys.argv[2:])))
