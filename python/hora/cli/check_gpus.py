"""GPUs: what hora was built with, the driver, the devices, PyTorch's CUDA, NCCL, and the choice."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hora.cli.check_parts import Finding
from hora.gpus import (
    NO_PLUGIN,
    GpuFacts,
    cuda_of_torch,
    driver_version,
    has_cuda_plugin,
    look,
    nccl_text,
)
from hora.plugins import CUDA_FILE, plugin_folder

__all__ = ["check_cuda_plugin", "gpu_findings"]

_OLDEST_NCCL = 21800
_BACKENDS = {
    "auto": "NCCL where each rank has a GPU of its own and all are on one host, else staged",
    "nccl": "NCCL, or an error where it cannot be",
    "staged": "through pinned memory of the host",
}


def check_cuda_plugin() -> Finding:
    """Whether hora was built with nvcc."""
    key, part = "plugin_cuda", "CUDA plugin"
    if has_cuda_plugin():
        return Finding(key, part, "ok", str(plugin_folder() / CUDA_FILE))
    return Finding(key, part, "absent", "not built: this hora was built without nvcc", NO_PLUGIN)


def gpu_findings(environ: Mapping[str, str]) -> list[Finding]:
    """Nothing here can fail: ranks work without GPUs, too."""
    facts, driver = look(), driver_version()
    is_wanted = driver is not None  # what is missing is a drawback only where there is a GPU
    return [
        _check_driver(driver),
        *_check_devices(facts, is_wanted),
        _check_torch(facts, is_wanted),
        _check_nccl(facts, is_wanted),
        _check_backend(environ.get("HORA_GPU_BACKEND") or "auto", facts),
    ]


def _check_driver(version: str | None) -> Finding:
    if version is None:
        detail = "none: no NVIDIA GPU here, or its driver is not loaded"
        return Finding("gpu_driver", "NVIDIA driver", "absent", detail)
    return Finding("gpu_driver", "NVIDIA driver", "ok", version)


def _versions(facts: GpuFacts) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """CUDA of the plugin, and the newest that the driver knows; None where they are not told."""
    found = re.search(r"CUDA (\d+)\.(\d+), driver (\d+)\.(\d+)", facts.cuda)
    if found is None:
        return None
    own, own_minor, known, known_minor = map(int, found.groups())
    return (own, own_minor), (known, known_minor)


def _newer_driver(cuda: int) -> str:
    """Which driver CUDA's major version needs; none before it does."""
    return f"a driver for CUDA {cuda} ({525 if cuda == 12 else 580} or newer)"


def _advice_for_devices(facts: GpuFacts) -> str:
    """What to do about ``facts.problem``, where there is a GPU."""
    if not has_cuda_plugin():
        return NO_PLUGIN
    versions = _versions(facts)
    if versions is None:  # the plugin itself does not open
        return "install hora again, on this machine"
    (own, _), (known, known_minor) = versions
    if 0 < known < own:
        return (
            f"install {_newer_driver(own)}, or hora again with the nvcc of CUDA "
            f"{known}.{known_minor} or older (12.8 at least)"
        )
    return "look at nvidia-smi and CUDA_VISIBLE_DEVICES; a container needs --gpus all"


def _check_devices(facts: GpuFacts, is_wanted: bool) -> list[Finding]:
    """One for each device that a process sees: with CUDA_VISIBLE_DEVICES, and of slices the first.

    What keeps the plugin from seeing any is a drawback only where there is a driver.
    """
    if facts.problem or not has_cuda_plugin():
        detail = "cannot be used without the CUDA plugin"
        if has_cuda_plugin():
            detail = f"{facts.cuda}: {facts.problem}" if facts.cuda else facts.problem
        if not is_wanted:
            return [Finding("gpus", "GPUs", "absent", detail)]
        return [Finding("gpus", "GPUs", "warning", detail, _advice_for_devices(facts))]
    total = Finding("gpus", "GPUs", "ok", f"{len(facts.gpus)} visible; {facts.cuda}")
    return [total] + [
        Finding(
            f"gpu_{index}", f"GPU {index}", "ok",
            f"{gpu.name}, {gpu.memory_bytes >> 20} MiB, compute {gpu.compute}, {gpu.uuid}"
            + (", a MIG slice: one rank per slice" if gpu.is_slice else ""),
        )
        for index, gpu in enumerate(facts.gpus)
    ]  # fmt: skip


def _check_torch(facts: GpuFacts, is_wanted: bool) -> Finding:
    """PyTorch and hora must both know CUDA, though not the same, and the driver must know both."""
    key, part = "torch_cuda", "PyTorch's CUDA"
    version = cuda_of_torch()
    if version is None:
        return Finding(key, part, "absent", "PyTorch is not installed", "pip install torch")
    if not version:
        detail = "none: this PyTorch is for CPUs only"
        if is_wanted or facts.gpus:
            return Finding(key, part, "warning", detail, "pip install torch, in its build for CUDA")
        return Finding(key, part, "absent", detail)
    major, versions = int(version.partition(".")[0]), _versions(facts)
    known = versions[1] if versions else (0, 0)
    if 0 < known[0] < major:
        detail = f"{version}, which this driver does not know: it is for CUDA {known[0]}.{known[1]}"
        advice = f"install PyTorch for CUDA {known[0]}, or {_newer_driver(major)}"
        return Finding(key, part, "warning", detail, advice)
    return Finding(key, part, "ok", version)


def _check_nccl(facts: GpuFacts, is_wanted: bool) -> Finding:
    key, part = "nccl", "NCCL"
    if facts.nccl_version >= _OLDEST_NCCL:
        detail = f"{nccl_text(facts.nccl_version)} ({facts.nccl_path})"
        return Finding(key, part, "ok", detail)
    major = (cuda_of_torch() or "").partition(".")[0]
    package = f"nvidia-nccl-cu{major}" if major else "nvidia-nccl-cu13 (or -cu12, as your CUDA is)"
    advice = f"pip install --upgrade {package}, or set HORA_NCCL_LIBRARY; without, GPUs go staged"
    # Where there are GPUs, they go through the host's memory instead.
    state = "warning" if is_wanted or facts.gpus else "absent"
    if facts.nccl_version:
        detail = (
            f"{nccl_text(facts.nccl_version)} ({facts.nccl_path}) is too old: hora needs "
            f"{nccl_text(_OLDEST_NCCL)} or later"
        )
        return Finding(key, part, state, detail, advice)
    return Finding(key, part, state, f"not found: {facts.nccl_problem}", advice)


def _check_backend(wanted: str, facts: GpuFacts) -> Finding:
    """What HORA_GPU_BACKEND asks for; whether its value has sense is a matter of the settings."""
    key, part = "gpu_backend", "GPU backend"
    detail = f"{wanted}: {_BACKENDS.get(wanted, 'not one of auto, nccl, staged')}"
    if not facts.gpus:
        return Finding(key, part, "absent", f"{detail}; no GPU can be used here")
    if wanted == "nccl" and facts.nccl_version < _OLDEST_NCCL:
        advice = "unset HORA_GPU_BACKEND: then tensors go through the host's memory"
        return Finding(key, part, "warning", f"{detail}; here it cannot", advice)
    return Finding(key, part, "ok", detail)
