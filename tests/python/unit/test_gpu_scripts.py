"""tools/gpu_build.sh and the scripts that source it, on machines without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
CHOOSE = ". tools/gpu_build.sh; choose_python torch pybind11; echo chosen: $python"
A_GPU = "GPU 0: Chip (UUID: GPU-aaaa)"


def bash(script: str, **environ: str) -> tuple[int, str]:
    """The code, and what was said to whomever."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT, env={**os.environ, **environ}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout.strip()


def program(path: Path, said: str, code: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("said", "built_for"),
    [("9.0\n9.0", "90-real"), ("10.0\n9.0", "100-real;90-real"), ("No devices were found", "")],
)
def test_kernels_are_built_for_the_gpus_that_are_here(tmp_path, said, built_for):
    program(tmp_path / "nvidia-smi", said)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert bash(". tools/gpu_build.sh; own_architecture", PATH=path) == (0, built_for)


def test_without_nvidia_smi_they_are_built_for_all(tmp_path):
    for name in ("sed", "sort", "paste"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    assert bash(f". tools/gpu_build.sh; PATH={tmp_path}; own_architecture") == (0, "")


@pytest.fixture
def machine(tmp_path):
    """Chooses among Pythons that say what they have; each is in a folder of the PATH."""

    def choose(has_gpu: bool, named: str = "", **said: str) -> tuple[int, str]:
        folders = []
        for name, words in said.items():
            program(tmp_path / name / "python3", words)
            folders.append(str(tmp_path / name))
        program(tmp_path / "smi" / "nvidia-smi", A_GPU if has_gpu else "none", int(not has_gpu))
        tools = tmp_path / "tools"
        tools.mkdir()
        for tool in ("bash", "awk", "grep", "cat", "realpath", "sh"):
            (tools / tool).symlink_to(f"/usr/bin/{tool}")
        path = ":".join([*folders, str(tmp_path / "smi"), str(tools)])
        code, text = bash(
            CHOOSE, PATH=path, HORA_PYTHON=named and str(tmp_path / named / "python3"),
            VENV=str(tmp_path / "venv"),
        )  # fmt: skip
        return code, text.replace(str(tmp_path), "")

    return choose


CUDA = "cuda|PyTorch 2.11.0+cu130|"
CPU = "cpu|PyTorch 2.13.0+cpu|"
NONE = "none|Python 3.11|torch, pybind11"


@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_first_python_with_pytorch_for_cuda_is_taken(machine, has_gpu):
    assert machine(has_gpu, a=NONE, b=CPU, c=CUDA, d=CUDA) == (0, "chosen: /c/python3")


def test_the_one_that_is_named_is_taken_and_no_other(machine):
    assert machine(False, "b", a=CUDA, b=CPU) == (0, "chosen: /b/python3")


def test_where_the_named_one_lacks_something_it_is_said(machine):
    code, said = machine(False, "a", a=NONE, b=CUDA)
    assert code == 1 and "/a/python3: Python 3.11, lacks torch, pybind11" in said
    assert "/b/python3" not in said


def test_a_name_of_nothing_is_an_error():
    code, said = bash(CHOOSE, HORA_PYTHON="/nowhere/python")
    assert (code, said) == (1, "gpu: HORA_PYTHON is /nowhere/python: there is no such program")


def test_beside_a_gpu_pytorch_for_cpus_will_not_do(machine):
    code, said = machine(True, a=CPU)
    assert code == 1 and "there is a GPU, and no Python with PyTorch for CUDA" in said
    assert said.endswith("/a/python3: PyTorch 2.13.0+cpu")


def test_without_one_it_will(machine):
    assert machine(False, a=NONE, b=CPU) == (0, "chosen: /b/python3")


def test_what_pytorch_for_cuda_lacks_is_named_rather_than_another_python_taken(machine):
    code, said = machine(False, a=CPU, b=CUDA + "pybind11, pytest-timeout")
    assert code == 1 and "/b/python3 -m pip install pybind11 pytest-timeout" in said


def test_where_nothing_has_pytorch_it_says_how_to_get_there(machine):
    code, said = machine(False, a=NONE)
    assert code == 1 and "make setup installs it into" in said and "HORA_PYTHON" in said


def test_what_this_python_has_is_found_out():
    code, said = bash(
        '. tools/gpu_build.sh; $HORA_PYTHON -c "$describe_python" torch yaml no_such_module',
        HORA_PYTHON=sys.executable,
    )
    kind = "cuda" if torch.version.cuda else "cpu"
    assert (code, said) == (0, f"{kind}|PyTorch {torch.__version__}|no_such_module")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_built_or_measured():
    assert bash("tools/run_gpu_benchmarks.sh", HORA_PYTHON=sys.executable) == (
        0, "bench-gpu: there is no GPU here that PyTorch can use: nothing was measured",
    )  # fmt: skip


def test_the_steps_are_listed_without_running_any():
    code, said = bash("tools/run_gpu_tests.sh --list", HORA_PYTHON=sys.executable, PARTS="cpp np4")
    assert code == 0
    parts, names, _ = zip(*(line.split(": ", 2) for line in said.splitlines()), strict=True)
    assert set(parts) == {"cpp", "np4"} and {"kernels", "pack_bench", "np4-staged"} <= set(names)


def test_make_hands_on_the_python_that_somebody_named():
    words = "make --no-print-directory -n test-gpu -f Makefile -f /dev/stdin"
    rule = r"'test-gpu: ; @:\n$(info named: [$(HORA_PYTHON)])\n'"
    script = f"unset HORA_PYTHON PYTHON MAKEFLAGS MAKEOVERRIDES MFLAGS; printf {rule} | {words}"
    for more, named in (("", ""), (" PYTHON=/a/python", "/a/python"), (" HORA_PYTHON=b", "b")):
        code, said = bash(script + more + " 2>/dev/null")
        assert code == 0 and f"named: [{named}]" in said
