"""``horarun --mpi``: what mpirun is told, here by a program that only says whose it is."""

from __future__ import annotations

import os

import pytest
from hora.errors import UsageError
from hora.launch.cli import read_line


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The words of the command that a line becomes."""
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\necho HYDRA build details:\n")
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def words(*options: str) -> list[str]:
        return list(read_line(["--mpi", *options, "true"], "horarun").words)[1:-1]

    return words


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-np", "3"], ["-np", "3"]),
        (["--nproc-per-node=2"], ["-np", "2"]),
        (["-H", "h1:2,h2:1"], ["-np", "3", "-hosts", "h1:2,h2:1"]),
        (["-H", "h1,h2", "--nproc-per-node=2"], ["-np", "4", "-hosts", "h1:2,h2:2"]),
    ],
)
def test_ranks_are_counted_as_without_mpi(words, options, expected):
    assert words("--no-prefix", *options) == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["-H", "h1:2", "-np", "8"], "-np 8, but --hosts has room for 2"),
        (["-np", "2", "--ssh-port=23"], "--ssh-port cannot be combined with --mpi"),
        (["-np", "2", "--remote-python=/p"], "--remote-python cannot be combined with --mpi"),
        (["-np", "2", "--standalone"], "--standalone cannot be combined with --mpi"),
        ([], "how many ranks"),
    ],
)
def test_what_mpirun_would_not_do_is_refused(words, options, problem):
    with pytest.raises(UsageError, match=problem):
        words(*options)
