"""What is told of GPUs: over a plugin and an NCCL of a few lines, and an nvidia-smi of two."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hora import gpus, plugins
from hora.cli import check_gpus
from hora.errors import ResourceError

ROOT = Path(__file__).resolve().parents[3]
# Two devices, the second a slice; compiled against the very header of the real one.
PLUGIN = r"""
#include <stdio.h>
#include "hora/cuda/cuda_abi.h"
static int describe(char* text, size_t bytes, int32_t* devices, hora_cuda_error* error) {
  snprintf(text, bytes, "CUDA 13.0, driver 13.1");
  *devices = DEVICES;
  snprintf(error->text, sizeof(error->text), "the driver sleeps");
  return DEVICES < 0;
}
static int facts(int32_t device, hora_cuda_facts* facts, hora_cuda_error* error) {
  snprintf(facts->name, sizeof(facts->name), device ? "Chip MIG 1g.18gb" : "Chip");
  snprintf(facts->uuid, sizeof(facts->uuid), "GPU-%d", device);
  facts->compute_major = 9, facts->compute_minor = device;
  facts->memory_bytes = 141ull << 30;
  return 0;
}
static const hora_cuda table = {.abi = ABI, .describe = describe, .facts = facts};
const hora_cuda* hora_cuda_get(void) { return &table; }
"""
NCCL = "int ncclGetVersion(int* version) { *version = VERSION; return CODE; }\n"
LISTED = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb)
  MIG 3g.40gb     Device  0: (UUID: MIG-cccc)
  MIG 3g.40gb     Device  1: (UUID: MIG-dddd)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-eeee)
"""


OWN, OTHER = "HORA_CUDA_ABI", "(HORA_CUDA_ABI+1)"


def compiled(path: Path, source: str, **macros: int | str) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    words = ["cc", "-shared", "-fPIC", "-x", "c", "-", f"-I{ROOT / 'csrc'}", "-o", str(path)]
    words += [f"-D{name}={value}" for name, value in macros.items()]
    subprocess.run(words, input=source.encode(), check=True)
    return path


def program(path: Path, text: str, code: int = 0) -> None:
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    path.chmod(0o755)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Plugins, programs and NCCL are only what a test puts there."""
    monkeypatch.setenv("HORA_PLUGIN_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("HORA_NCCL_LIBRARY", str(tmp_path / "libnccl.so.2"))
    return tmp_path


def test_a_look_at_devices_and_nccl(folder):
    compiled(folder / plugins.CUDA_FILE, PLUGIN, DEVICES=2, ABI=OWN)
    compiled(folder / "libnccl.so.2", NCCL, VERSION=22809, CODE=0)
    found = gpus.look()
    assert found == gpus.GpuFacts(
        cuda="CUDA 13.0, driver 13.1",
        gpus=(
            gpus.Gpu("Chip", "GPU-0", "9.0", 141 << 30),
            gpus.Gpu("Chip MIG 1g.18gb", "GPU-1", "9.1", 141 << 30),
        ),
        problem="",
        nccl_version=22809,
        nccl_path=str(folder / "libnccl.so.2"),
    )
    assert [gpu.is_slice for gpu in found.gpus] == [False, True]
    assert gpus.nccl_text(found.nccl_version) == "2.28.9"


@pytest.mark.parametrize(
    ("macros", "problem"),
    [
        ({"DEVICES": -1, "ABI": OWN}, "the driver sleeps"),
        ({"DEVICES": 0, "ABI": OWN}, "none is visible"),
        ({"DEVICES": 1, "ABI": OTHER}, "of another version of hora"),
    ],
)
def test_why_no_device_can_be_used(folder, macros, problem):
    compiled(folder / plugins.CUDA_FILE, PLUGIN, **macros)
    found = gpus.look()
    assert problem in found.problem and found.gpus == ()


def test_without_plugin_and_nccl(folder):
    found = gpus.look()
    assert "there is no" in found.problem and found.nccl_version == 0
    assert "libnccl.so.2" in found.nccl_problem
    (folder / plugins.CUDA_FILE).write_text("no library")
    assert "invalid ELF header" in gpus.look().problem or "too short" in gpus.look().problem


def test_a_library_that_is_no_nccl(folder):
    compiled(folder / "libnccl.so.2", "int other;\n")
    assert "ncclGetVersion" in gpus.look().nccl_problem
    compiled(folder / "libnccl.so.2", NCCL, VERSION=1, CODE=3)
    assert "does not tell its version" in gpus.look().nccl_problem


def test_a_look_that_fails_says_how(folder, monkeypatch):
    monkeypatch.setattr(gpus, "ask", lambda words: (139, ""))
    assert gpus.look().problem == "the look at the GPUs ended with code 139: nothing"


def test_the_plugin_of_this_build_answers():
    found = gpus.look()
    if gpus.has_cuda_plugin():
        assert "CUDA" in found.cuda and bool(found.gpus) != bool(found.problem)
    else:
        assert "there is no" in found.problem


def test_slices_are_listed_instead_of_their_gpu(folder):
    program(folder / "nvidia-smi", LISTED)
    assert gpus.listed_gpus() == ["GPU-aaaa", "MIG-cccc", "MIG-dddd", "GPU-eeee"]


def test_why_gpus_cannot_be_listed(folder, monkeypatch):
    program(folder / "nvidia-smi", "NVIDIA-SMI has failed\nbecause", 9)
    with pytest.raises(ResourceError, match=r"nvidia-smi -L: NVIDIA-SMI has failed$"):
        gpus.listed_gpus()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ResourceError, match="no nvidia-smi on the PATH"):
        gpus.listed_gpus()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("__version__ = '2.11.0'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None", "13.0"),
        ("cuda = '12.8'\n", "12.8"),
        ("__version__ = '2.13.0+cpu'\ncuda: str | None = None\n", ""),
    ],
)
def test_the_cuda_of_pytorch(tmp_path, monkeypatch, text, version):
    (tmp_path / "version.py").write_text(text)
    (tmp_path / "__init__.py").touch()

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: Spec)
    assert gpus.cuda_of_torch() == version
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
    assert gpus.cuda_of_torch() is None


def test_nccl_is_where_the_user_says_else_in_pytorchs_wheel(tmp_path, monkeypatch):
    assert gpus.nccl_libraries({"HORA_NCCL_LIBRARY": "/opt/libnccl.so"}) == ["/opt/libnccl.so"]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libnccl.so.2").touch()

    class Spec:
        submodule_search_locations = (str(tmp_path), "/nowhere")

    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: Spec)
    wheel = str(tmp_path / "lib/libnccl.so.2")
    assert gpus.nccl_libraries({}) == [wheel, "libnccl.so.2"]


# --- hora check ----------------------------------------------------------------------------------

CHIP = gpus.Gpu("Chip", "GPU-0", "9.0", 141 << 30)
READY = gpus.GpuFacts("CUDA 13.0, driver 13.0", (CHIP,), "", 22809, "/nccl")


def rows(monkeypatch, facts, driver="580.95", torch_cuda="13.0", environ=None, plugin=True):
    monkeypatch.setattr(check_gpus, "look", lambda: facts)
    monkeypatch.setattr(check_gpus, "driver_version", lambda: driver)
    monkeypatch.setattr(check_gpus, "cuda_of_torch", lambda: torch_cuda)
    monkeypatch.setattr(check_gpus, "has_cuda_plugin", lambda: plugin)
    return {one.key: one for one in check_gpus.gpu_findings(environ or {})}


def test_check_where_all_is_there(monkeypatch):
    found = rows(monkeypatch, READY)
    assert {one.state for one in found.values()} == {"ok"}
    assert found["gpus"].detail == "1 visible; CUDA 13.0, driver 13.0"
    assert found["gpu_0"].detail == "Chip, 144384 MiB, compute 9.0, GPU-0"
    assert found["nccl"].detail == "2.28.9 (/nccl)"
    assert found["gpu_backend"].detail.startswith("auto: NCCL where each rank has a GPU of its own")


def test_check_where_hora_was_built_without_nvcc(folder, monkeypatch):
    found = rows(monkeypatch, gpus.look(), plugin=False)
    assert found["gpus"].state == "warning" and "nvcc 12.8 or newer" in found["gpus"].advice
    assert rows(monkeypatch, gpus.look(), None, plugin=False)["gpus"].state == "absent"
    monkeypatch.undo()
    monkeypatch.setenv("HORA_PLUGIN_DIRECTORY", str(folder))
    plugin = check_gpus.check_cuda_plugin()
    assert plugin.state == "absent" and "nvcc 12.8 or newer" in plugin.advice


def test_check_where_nothing_of_gpus_is_there(monkeypatch):
    nothing = gpus.GpuFacts("CUDA 13.0, driver 0.0", (), "no driver", 0, "", "no libnccl")
    found = rows(monkeypatch, nothing, driver=None, torch_cuda="")
    assert {one.state for one in found.values()} == {"absent"}


def test_check_says_what_keeps_a_gpu_from_being_used(monkeypatch):
    lost = gpus.GpuFacts("CUDA 13.0, driver 13.0", (), "none is visible", 0, "", "no libnccl")
    assert "--gpus all" in rows(monkeypatch, lost)["gpus"].advice
    no_nccl = gpus.GpuFacts(READY.cuda, READY.gpus, "", 0, "", "no libnccl")
    found = rows(monkeypatch, no_nccl, torch_cuda="", environ={"HORA_GPU_BACKEND": "nccl"})
    assert found["torch_cuda"].state == "warning" and "for CUDA" in found["torch_cuda"].advice
    assert found["nccl"].state == "warning" and "nvidia-nccl-cu13" in found["nccl"].advice
    assert found["gpu_backend"].state == "warning"
    old = gpus.GpuFacts(READY.cuda, READY.gpus, "", 21503, "/nccl")
    assert "2.15.3 (/nccl) is too old" in rows(monkeypatch, old)["nccl"].detail


@pytest.mark.parametrize(
    ("cuda", "problem", "advice"),
    [
        (
            "CUDA 13.0, driver 12.8", "cudaErrorInsufficientDriver",
            "install a driver for CUDA 13 (580 or newer), or hora again with the nvcc of CUDA 12.8",
        ),
        ("CUDA 12.8, driver 13.0", "no device", "look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ("CUDA 13.0, driver 0.0", "no driver", "look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ("", "hora_cuda.so is of another version of hora", "install hora again, on this machine"),
    ],
)  # fmt: skip
def test_check_says_what_to_install_for_a_gpu_that_cannot_be_used(
    monkeypatch, cuda, problem, advice
):
    found = rows(monkeypatch, gpus.GpuFacts(cuda, (), problem, 22809, "/nccl"))
    assert found["gpus"].state == "warning" and problem in found["gpus"].detail
    assert found["gpus"].advice.startswith(advice)


@pytest.mark.parametrize(
    ("torch_cuda", "driver", "state"),
    [("13.0", "12.8", "warning"), ("12.8", "13.0", "ok"), ("13.2", "13.0", "ok")],
)
def test_check_compares_the_cuda_of_pytorch_with_the_driver(monkeypatch, torch_cuda, driver, state):
    facts = gpus.GpuFacts(f"CUDA 12.8, driver {driver}", (CHIP,), "", 22809, "/nccl")
    found = rows(monkeypatch, facts, torch_cuda=torch_cuda)["torch_cuda"]
    assert found.state == state
    if state == "warning":
        assert found.advice == (
            "install PyTorch for CUDA 12, or a driver for CUDA 13 (580 or newer)"
        )


def test_check_names_the_nccl_that_belongs_to_pytorch(monkeypatch):
    nothing = gpus.GpuFacts("", (), "there is no plugin", 0, "", "no libnccl")
    found = rows(monkeypatch, nothing, torch_cuda="12.8", plugin=False)["nccl"]
    assert found.state == "warning" and "nvidia-nccl-cu12, " in found.advice


def test_the_probe_needs_nothing_of_hora(tmp_path):
    probe = ROOT / "python/hora/gpu_probe.py"
    code, text = plugins.ask(["python3", "-I", str(probe), str(tmp_path / "no.so")])
    assert code == 0 and "there is no" in json.loads(text)["problem"]
