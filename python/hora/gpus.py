"""The GPUs of this machine, and what hora needs in order to use them.

Nothing here opens CUDA in the calling process: that would keep memory on a GPU, and a process that
has done so must not fork.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hora.errors import ResourceError
from hora.plugins import CUDA_FILE, ask, first_line, plugin_folder

__all__ = [
    "NO_PLUGIN",
    "Gpu",
    "GpuFacts",
    "cuda_of_torch",
    "driver_version",
    "has_cuda_plugin",
    "listed_gpus",
    "look",
    "nccl_libraries",
    "nccl_text",
]

# What to do about a build without CUDA.
NO_PLUGIN = "pip install --no-binary hora hora, with nvcc 12.8 or newer on the PATH (or CUDA_HOME)"
_NCCL = "libnccl.so.2"
_LISTED = re.compile(r"^(?P<indent>\s*)(?:GPU|MIG)\b.*\(UUID:\s*(?P<uuid>[^\s)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """One device as a process sees it: a GPU, or a MIG slice of one. ``compute`` is "9.0"."""

    name: str
    uuid: str
    compute: str
    memory_bytes: int

    @property
    def is_slice(self) -> bool:
        """Whether it is a part of a GPU (MIG)."""
        return " MIG " in f"{self.name} "


@dataclass(frozen=True)
class GpuFacts:
    """What a process here would have. ``problem`` says why it could use no GPU; else empty.

    ``cuda`` is of the plugin and the driver ("CUDA 13.0, driver 13.0"). ``nccl_version`` is 22809
    for 2.28.9, and 0 where there is none; then ``nccl_problem`` says what was tried.
    """

    cuda: str
    gpus: tuple[Gpu, ...]
    problem: str
    nccl_version: int
    nccl_path: str
    nccl_problem: str = ""


def has_cuda_plugin() -> bool:
    """Whether hora was built with nvcc."""
    return (plugin_folder() / CUDA_FILE).exists()


def look() -> GpuFacts:
    """Asks the plugin and NCCL, in a process of their own; takes a second where there are GPUs."""
    probe = str(Path(__file__).with_name("gpu_probe.py"))
    plugin = str(plugin_folder() / CUDA_FILE)
    code, text = ask([sys.executable, "-I", probe, plugin, *nccl_libraries(os.environ)])
    try:
        found = json.loads(text.strip().splitlines()[-1])
        gpus = tuple(Gpu(**one) for one in found.pop("gpus"))
        return GpuFacts(gpus=gpus, **found)
    except (ValueError, TypeError, KeyError, IndexError):
        said = f"the look at the GPUs ended with code {code}: {first_line(text)}"
        return GpuFacts("", (), said, 0, "", said)


def nccl_libraries(environ: Mapping[str, str]) -> list[str]:
    """Where NCCL may be, the best place first: as told, as PyTorch brings it, as installed."""
    if told := environ.get("HORA_NCCL_LIBRARY"):
        return [told]
    try:
        spec = importlib.util.find_spec("nvidia.nccl")
    except (ImportError, ValueError):
        spec = None
    folders = (spec.submodule_search_locations if spec else None) or []
    wheels = [str(Path(folder) / "lib" / _NCCL) for folder in folders]
    return [*(path for path in wheels if Path(path).exists()), _NCCL]


def nccl_text(version: int) -> str:
    """``22809`` as "2.28.9"."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def cuda_of_torch() -> str | None:
    """The CUDA that the installed PyTorch is for ("13.0"), "" when for none; None: no PyTorch.

    It is not imported.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def driver_version() -> str | None:
    """NVIDIA's driver ("580.95.05"); None when none is loaded."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    if found:
        return found[1]
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    code, text = ask(words)
    return first_line(text) if code == 0 else None


def listed_gpus() -> list[str]:
    """All GPUs of this host by their unique names ("GPU-…"), slices instead of those that are cut.

    As nvidia-smi lists them, whatever CUDA_VISIBLE_DEVICES says. Raises ``ResourceError``.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise ResourceError("the GPUs cannot be listed: there is no nvidia-smi on the PATH")
    code, text = ask([program, "-L"])
    if code != 0:
        raise ResourceError(f"the GPUs cannot be listed: {program} -L: {first_line(text)}")
    found: list[str] = []
    whole: str | None = None  # the GPU whose slices may follow
    for line in text.splitlines():
        match = _LISTED.match(line)
        if match is None:
            continue
        if match["indent"]:
            if whole is not None:
                found.remove(whole)
            whole = None
        else:
            whole = match["uuid"]
        found.append(match["uuid"])
    return found
