"""Whether CUDA is built: cmake/CudaPlugin.cmake without nvcc, and what a build has kernels for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hora.plugins import CUDA_FILE, plugin_folder

ROOT = Path(__file__).resolve().parents[3]
PROJECT = f"""
cmake_minimum_required(VERSION 3.24)
project(tiny CXX)
list(APPEND CMAKE_MODULE_PATH "{ROOT}/cmake")
include(CudaPlugin)
hora_cuda_plugin()
"""


def configure(tmp_path: Path, *options: str) -> tuple[int, str, str]:
    """CMake's code, its output and what it says to be left out, where there is no nvcc."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    folders = {*os.environ["PATH"].split(":"), "/usr/local/cuda/bin"}
    hidden = ";".join(folder for folder in folders if (Path(folder) / "nvcc").exists())
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CUDACXX", "CUDA_HOME", "CUDA_PATH")
    }
    done = subprocess.run(
        ["cmake", "-S", ".", "-B", "build", f"-DCMAKE_IGNORE_PATH={hidden}", *options],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    left_out = tmp_path / "build/left_out.txt"
    said = left_out.read_text() if left_out.exists() else ""
    return done.returncode, " ".join((done.stdout + done.stderr).split()), said


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "no nvcc (CUDA's toolkit 12.8 or newer; set CUDA_HOME)"),
        (("-DHORA_CUDA=ON",), "no nvcc (CUDA's toolkit 12.8 or newer; set CUDA_HOME)"),
        (("-DHORA_CUDA=OFF",), "HORA_CUDA is OFF"),
        (("-DHORA_SANITIZE=address",), "sanitizers do not know CUDA"),
    ],
)
def test_a_build_without_the_plugin_says_why(tmp_path, options, why):
    code, said, left_out = configure(tmp_path, *options)
    assert code == 0 and f"hora: the CUDA plugin is not built: {why}" in said
    assert left_out == f"the CUDA plugin is not built: {why}\n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-DHORA_CUDA=REQUIRED",), "HORA_CUDA is REQUIRED, but: no nvcc"),
        (("-DHORA_CUDA=perhaps",), "HORA_CUDA is perhaps; it can be AUTO, REQUIRED or OFF"),
    ],
)
def test_a_build_that_must_have_it_fails(tmp_path, options, why):
    code, said, _ = configure(tmp_path, *options)
    assert code != 0 and why in said


def kernel_targets():
    spec = importlib.util.spec_from_file_location("targets", ROOT / "tools/kernel_targets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_build_has_kernels_for_every_gpu():
    plugin = plugin_folder() / CUDA_FILE
    if not plugin.exists():
        assert os.environ.get("HORA_CUDA") != "REQUIRED", f"there is no {plugin}"
        pytest.skip("hora was built without nvcc")
    found = kernel_targets().targets(plugin)
    if os.environ.get("HORA_CUDA") == "REQUIRED":
        assert found.code >= {80, 90, 100} and max(found.ptx) >= 100
    assert found.code, f"{plugin} has no kernels"


def entry(kind: int, architecture: int, code: bytes) -> bytes:
    return struct.pack("<HHIQ12xI", kind, 1, 64, len(code), architecture).ljust(64, b"\0") + code


def test_targets_are_read_from_any_place_of_a_library(tmp_path):
    bodies = [entry(2, 80, b"x" * 24) + entry(1, 90, b"y" * 8), entry(2, 90, b"z" * 16)]
    magic = struct.pack("<I", 0xBA55ED50)
    fat = [magic + struct.pack("<HHQ", 1, 16, len(body)) + body for body in bodies]
    path = tmp_path / "library.so"
    path.write_bytes(b"\x7fELF....." + fat[0] + b"....." + fat[1] + magic + b"cut")
    found = kernel_targets().targets(path)
    assert (found.code, found.ptx) == ({80, 90}, {90})
    path.write_bytes(b"nothing")
    assert kernel_targets().targets(path) == (frozenset(), frozenset())
