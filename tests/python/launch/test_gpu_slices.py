"""``--gpus-per-rank``: what each rank sees, with and without CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os

import pytest
from hora.errors import ResourceError, UsageError
from hora.launch.cli import parse, read_line
from hora.launch.gpu_slices import gpus_of_ranks, visible_gpus

SEES = 'echo sees "${CUDA_VISIBLE_DEVICES-all}"'
LISTED = "GPU 0: Chip (UUID: GPU-a)\nGPU 1: Chip (UUID: GPU-b)\nGPU 2: Chip (UUID: GPU-c)\n"


def slices(visible: str | None, each: str, ranks: int) -> list[str]:
    environ = {"HORA_GPUS_PER_RANK": each}
    if visible is not None:
        environ["CUDA_VISIBLE_DEVICES"] = visible
    return [one["CUDA_VISIBLE_DEVICES"] for one in gpus_of_ranks(environ, ranks)]


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A program in its place that lists three GPUs; returns the PATH."""
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    return path


@pytest.mark.parametrize(
    ("visible", "each", "expected"),
    [
        ("0,1", "1", ["0", "1"]),
        ("3, 2,1,0", "2", ["3,2", "1,0"]),
        ("GPU-x,GPU-y,7", "1", ["GPU-x", "GPU-y"]),
        ("MIG-p,MIG-q", "1", ["MIG-p", "MIG-q"]),
    ],
)
def test_each_rank_gets_its_slice_of_what_is_visible(visible, each, expected):
    assert slices(visible, each, len(expected)) == expected


def test_else_of_all_gpus_by_their_unique_names(nvidia_smi):
    assert slices(None, "1", 2) == ["GPU-a", "GPU-b"]
    assert slices(None, "3", 1) == ["GPU-a,GPU-b,GPU-c"]


@pytest.mark.parametrize("unset", [{}, {"HORA_GPUS_PER_RANK": ""}])
def test_without_the_option_nothing_changes(unset):
    assert gpus_of_ranks({"CUDA_VISIBLE_DEVICES": "0", **unset}, 2) == [{}, {}]


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0", "none"])
def test_the_variable_is_read_as_cuda_reads_it(hidden):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": hidden}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": f"1,{hidden}"}) == ["1"]


def test_too_few_gpus_are_an_error(nvidia_smi):
    with pytest.raises(UsageError, match=r"takes 4 GPUs, but it has 3 \(nvidia-smi lists no more"):
        slices(None, "2", 2)
    with pytest.raises(UsageError, match=r"it has 1 \(CUDA_VISIBLE_DEVICES is '5'\)"):
        slices("5", "1", 2)


def test_a_process_sees_one_slice_at_most():
    with pytest.raises(UsageError, match=r"one MIG slice at most \(MIG-p, MIG-q\)"):
        slices("MIG-p,MIG-q", "2", 1)


def test_a_number_without_sense(monkeypatch):
    with pytest.raises(UsageError, match="--gpus-per-rank: 'two' is not a whole number"):
        slices("0", "two", 1)
    with pytest.raises(UsageError, match="'0' is not a whole number"):
        parse(["-np", "1", "--gpus-per-rank", "0", "true"])


def test_gpus_that_cannot_be_listed(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ResourceError, match="no nvidia-smi"):
        slices(None, "1", 1)


def test_ranks_see_their_own(launch, nvidia_smi):
    words = ("-np", "2", "--gpus-per-rank", "1", "sh", "-c", SEES)
    environ = {"PATH": nvidia_smi}
    _, out, _ = launch(*words, env=environ)
    assert sorted(out) == ["[0] sees GPU-a", "[1] sees GPU-b"]
    _, out, _ = launch(*words, env=environ | {"CUDA_VISIBLE_DEVICES": "2,0"})
    assert sorted(out) == ["[0] sees 2", "[1] sees 0"]


def test_ranks_see_all_unless_it_is_asked_for(launch):
    _, out, _ = launch("-np", "2", "sh", "-c", SEES, env={"CUDA_VISIBLE_DEVICES": "2,0"})
    assert sorted(out) == ["[0] sees 2,0", "[1] sees 2,0"]


def test_a_job_without_enough_gpus_does_not_start(launch):
    code, out, err = launch(
        "-np", "2", "--gpus-per-rank", "1", "sh", "-c", SEES, env={"CUDA_VISIBLE_DEVICES": "0"}
    )
    assert code == 126 and not out
    assert "it has 1 (CUDA_VISIBLE_DEVICES is '0')" in err


def test_who_else_starts_ranks_gives_them_their_gpus():
    line = ["--mpi", "-np", "2", "--gpus-per-rank=1", "true"]
    with pytest.raises(UsageError, match="--gpus-per-rank cannot be combined with --mpi"):
        read_line(line, "horarun")


def test_what_moves_gpu_tensors_is_an_option():
    assert parse(["-np", "1", "--gpu-backend", "staged", "true"]).settings == {
        "HORA_GPU_BACKEND": "staged"
    }
