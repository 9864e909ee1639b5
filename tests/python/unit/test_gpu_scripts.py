"""tools/gpu_build.sh and what starts it, on machines without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


def bash(script: str, **environ: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("said", "built_for"),
    [("9.0\n9.0", "90-real"), ("10.0\n9.0", "100-real;90-real"), ("No devices were found", "")],
)
def test_kernels_are_built_for_the_gpus_that_are_here(tmp_path, said, built_for):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert bash(". tools/gpu_build.sh; own_architecture", PATH=path) == built_for


def test_without_nvidia_smi_they_are_built_for_all(tmp_path):
    for name in ("sed", "sort", "paste"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    assert bash(f". tools/gpu_build.sh; PATH={tmp_path}; own_architecture") == ""


def test_a_python_that_has_everything_is_taken_as_it_is():
    assert bash(". tools/gpu_build.sh; choose_python; echo $python", PYTHON=sys.executable) == (
        sys.executable
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_built_or_measured():
    said = bash("tools/run_gpu_benchmarks.sh", PYTHON=sys.executable)
    assert said == "bench-gpu: there is no GPU here that PyTorch can use: nothing was measured"
