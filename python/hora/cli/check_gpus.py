"""GPUs: what hora was built with, the driver, the devices, PyTorch's CUDA, NCCL, and the choice."""

from __future__ import annotations

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
    return [
        _check_driver(driver),
        *_check_devices(facts, driver),
        _check_torch(facts),
        _check_nccl(facts),
        _check_backend(environ.get("HORA_GPU_BACKEND") or "auto", facts),
    ]


def _check_driver(version: str | None) -> Finding:
    if version is None:
        detail = "none: no NVIDIA GPU here, or its driver is not loaded"
        return Finding("gpu_driver", "NVIDIA driver", "absent", detail)
    return Finding("gpu_driver", "NVIDIA driver", "ok", version)


def _check_devices(facts: GpuFacts, driver: str | None) -> list[Finding]:
    """One for each device that a process sees: with CUDA_VISIBLE_DEVICES, and of slices the first.

    What keeps the plugin from seeing any is a drawback only where there is a driver.
    """
    if not has_cuda_plugin():
        return [Finding("gpus", "GPUs", "absent", "cannot be used without the CUDA plugin")]
    if facts.problem:
        detail = f"{facts.cuda}: {facts.problem}" if facts.cuda else facts.problem
        if driver is None:
            return [Finding("gpus", "GPUs", "absent", detail)]
        advice = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; a container needs --gpus all"
        return [Finding("gpus", "GPUs", "warning", detail, advice)]
    total = Finding("gpus", "GPUs", "ok", f"{len(facts.gpus)} visible; {facts.cuda}")
    return [total] + [
        Finding(
            f"gpu_{index}", f"GPU {index}", "ok",
            f"{gpu.name}, {gpu.memory_bytes >> 20} MiB, compute {gpu.compute}, {gpu.uuid}"
            + (", a MIG slice: one rank per slice" if gpu.is_slice else ""),
        )
        for index, gpu in enumerate(facts.gpus)
    ]  # fmt: skip


def _check_torch(facts: GpuFacts) -> Finding:
    """PyTorch and hora must both know CUDA."""
    key, part = "torch_cuda", "PyTorch's CUDA"
    version = cuda_of_torch()
    if version is None:
        return Finding(key, part, "absent", "PyTorch is not installed", "pip install torch")
    if version:
        return Finding(key, part, "ok", version)
    detail = "none: this PyTorch is for CPUs only"
    if facts.gpus:
        return Finding(key, part, "warning", detail, "pip install torch, in its build for CUDA")
    return Finding(key, part, "absent", detail)


def _check_nccl(facts: GpuFacts) -> Finding:
    key, part = "nccl", "NCCL"
    advice = "pip install nvidia-nccl-cu13 (or -cu12, as your CUDA is), or set HORA_NCCL_LIBRARY"
    if facts.nccl_version >= _OLDEST_NCCL:
        detail = f"{nccl_text(facts.nccl_version)} ({facts.nccl_path})"
        return Finding(key, part, "ok", detail)
    # Where there are GPUs, they go through the host's memory instead.
    state = "warning" if facts.gpus else "absent"
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
