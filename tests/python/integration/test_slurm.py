"""Ranks that srun starts, on one and on two nodes of a real Slurm."""

from __future__ import annotations

import sys

import pytest
from bare import BARE
from ranks import check_ranks, rank_words
from slurm import Slurm, why_impossible

pytest.importorskip("torch")
pytest.importorskip("hora._core")
if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def meeting(tmp_path):
    """The ranks' environment: a folder for their files."""
    return {"HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs"), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (("-N", "1", "-n", "2"), [2]),
        (("-N", "2", "-n", "4", "-m", "block"), [2, 2]),
        (("-N", "2", "-n", "3", "-m", "block"), [2, 1]),
    ],
    ids=["one node", "two nodes", "unequal nodes"],
)
def test_ranks_of_srun_meet(slurm, tmp_path, meeting, options, sizes):
    words = ("srun", "--overcommit", *options, *rank_words(tmp_path))
    code, out, err = slurm.run(*words, env=meeting)
    assert code == 0, out + err
    check_ranks(tmp_path, sizes, "slurm")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_ranks_of_srun_train_on_two_nodes(slurm, tmp_path, meeting):
    pytest.importorskip("sklearn")
    from digits import check_training, training_words

    options = ("--overcommit", "-N", "2", "-n", "4", "-m", "block")
    code, out, err = slurm.run("srun", *options, *training_words(tmp_path, "tcp"), env=meeting)
    assert code == 0, out + err
    check_training(tmp_path, 4, "tcp")


_WITH_GARBAGE = f"""
import os, sys, time
{BARE}
if os.environ["SLURM_PROCID"] == "3":
    name, _, value = sys.argv[2].partition("=")
    del os.environ[name]
    if value:
        os.environ[name] = value
number, begun = os.environ["SLURM_LOCALID"] + os.environ["SLURM_NODEID"], time.monotonic()
try:
    hvd.init()
except hvd.HoraError as error:
    with open(f"{{sys.argv[1]}}/error.{{number}}", "w") as out:
        out.write(f"{{time.monotonic() - begun}} {{error}}")
"""


@pytest.mark.parametrize(
    "garbage",
    ["SLURM_NTASKS=many", "SLURM_PROCID=x", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_STEP_ID=9",
     "SLURM_JOB_ID=4242", "SLURM_RESTART_COUNT=3", "HORA_RENDEZVOUS_DIR=/tmp",
     "HORA_RENDEZVOUS_DIR=elsewhere", "HORA_HEARTBEAT_SECONDS=soon", "another key"],
)  # fmt: skip
def test_garbage_of_one_rank_is_told_to_all(slurm, tmp_path, meeting, garbage):
    """By a note in the folder, and from there through the store to those who have gone on.

    Who looks for the others in another place leaves it where those of its host do find it.
    """
    garbage = garbage.replace("elsewhere", str(tmp_path / "elsewhere"))
    meeting |= {"HORA_HEARTBEAT_SECONDS": "3", "SLURM_RESTART_COUNT": "0"}
    if garbage == "another key":
        for name, digits in (("key", "7b"), ("other", "7c")):
            (tmp_path / name).touch(0o600)
            (tmp_path / name).write_text(digits * 32)
        meeting |= {"HORA_SECRET_FILE": str(tmp_path / "key")}
        garbage = f"HORA_SECRET_FILE={tmp_path / 'other'}"
    program = (sys.executable, "-c", _WITH_GARBAGE, str(tmp_path), garbage)
    options = ("--overcommit", "-N", "2", "-n", "4", "-m", "block")
    slurm.run("srun", *options, *program, env=meeting)
    found = [path.read_text().partition(" ") for path in tmp_path.glob("error.*")]
    print(found)
    assert len(found) == 4
    assert max(float(seconds) for seconds, _, _ in found) < 5
    name, _, value = garbage.partition("=")
    told = ("was told", value) if value in ("3", str(tmp_path / "elsewhere")) else (name, value)
    assert all(told[0] in words and told[1] in words for _, _, words in found)


def test_ranks_that_go_round_the_nodes_are_refused(slurm, tmp_path, meeting):
    options = ("--overcommit", "-N", "2", "-n", "4", "-m", "cyclic")
    code, _, err = slurm.run("srun", *options, *rank_words(tmp_path), env=meeting)
    assert code != 0
    assert "srun --distribution=block does so" in err


def test_horarun_starts_srun_in_an_allocation(slurm, tmp_path, meeting):
    launcher = (sys.executable, "-m", "hora.launch", "--slurm", "-np", "4", "--slurm-options")
    words = (*launcher, "--overcommit -N 2", "--", *rank_words(tmp_path))
    code, out, err = slurm.run("salloc", "-N", "2", "-n", "2", *words, env=meeting)
    assert code == 0, out + err
    check_ranks(tmp_path, [2, 2], "slurm")


def test_horarun_returns_a_ranks_exit_code(slurm, meeting):
    launcher = (sys.executable, "-m", "hora.launch", "--slurm", "-np", "1")
    code, _, err = slurm.run("salloc", "-n", "1", *launcher, "sh", "-c", "exit 7", env=meeting)
    assert code == 7, err
