"""Ranks that mpirun starts, of Open MPI and of MPICH, on this host and over network namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from hosts import SSH_PORT, Hosts
from hosts import why_impossible as why_no_hosts
from ranks import check_ranks, rank_words

pytest.importorskip("torch")
pytest.importorskip("hora._core")

DEADLINE_S = 100
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
OPTIONS = {"openmpi": ("--oversubscribe", "--bind-to", "none"), "mpich": ()}


@pytest.fixture(params=["openmpi", "mpich"])
def family(request):
    if not shutil.which(f"mpirun.{request.param}"):
        pytest.skip(f"mpirun.{request.param} missing (apt-get install openmpi-bin mpich)")
    return request.param


@pytest.fixture
def meeting(tmp_path):
    """The ranks' environment: a folder for their files."""
    folder = {"HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **AS_ROOT, **folder}


def run(words, env):
    return subprocess.run(
        words, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_ranks_of_mpirun_meet(family, tmp_path, meeting):
    words = [f"mpirun.{family}", *OPTIONS[family], "-np", "4", *rank_words(tmp_path)]
    done = run(words, meeting)
    assert done.returncode == 0, done.stdout + done.stderr
    check_ranks(tmp_path, [4], family)
    assert list((tmp_path / "jobs").iterdir()) == []


def test_horarun_starts_the_mpirun_that_is_found(family, tmp_path, meeting):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "mpirun").symlink_to(shutil.which(f"mpirun.{family}"))
    if proxy := shutil.which("hydra_pmi_proxy"):  # MPICH's mpirun looks for it beside itself
        (tools / "hydra_pmi_proxy").symlink_to(proxy)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    launcher = [sys.executable, "-m", "hora.launch", "--mpi", "-np", "4"]
    extra = ["--mpi-args", " ".join(OPTIONS[family])] if OPTIONS[family] else []
    done = run([*launcher, *extra, "--", *rank_words(tmp_path)], {**meeting, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    check_ranks(tmp_path, [4], family)


def over_ssh(family, folder):
    """The options with which mpirun uses the network's own keys; the folder gets a wrapper."""
    wrapper = folder / "ssh.sh"
    options = [
        f"-p {SSH_PORT} -i {folder}/id", f"-o UserKnownHostsFile={folder}/known_hosts",
        "-o GlobalKnownHostsFile=none -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
    ]  # fmt: skip
    wrapper.write_text(f'#!/bin/sh\nexec ssh {" ".join(options)} "$@"\n')
    wrapper.chmod(0o755)
    if family == "mpich":
        return ["-launcher", "ssh", "-launcher-exec", str(wrapper), "-hosts", "h1:2,h2:2"]
    forwarded = ("HORA_RENDEZVOUS_DIR", "OMP_NUM_THREADS", "PYTHONPATH")
    names = [word for name in forwarded if name in os.environ or name != "PYTHONPATH"
             for word in ("-x", name)]  # fmt: skip
    mca = ["--mca", "plm_rsh_agent", str(wrapper), "--mca", "oob_tcp_if_include", "10.77.0.0/24"]
    return ["--host", "h1:2,h2:2", *mca, "--mca", "plm_rsh_no_tree_spawn", "1", *names]


@pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts() or "hosts can be made")
def test_ranks_of_mpirun_meet_over_two_hosts(family, tmp_path, meeting):
    program = rank_words(tmp_path)
    with Hosts(2, tmp_path) as network:
        words = [shutil.which(f"mpirun.{family}"), *OPTIONS[family], *over_ssh(family, tmp_path)]
        code, out, err = network.run("h1", [*words, "-np", "4", *program], DEADLINE_S, meeting)
    assert code == 0, out + err
    check_ranks(tmp_path, [2, 2], family)


def test_ranks_that_go_round_the_hosts_are_refused(tmp_path, meeting):
    if not shutil.which("mpirun.openmpi") or why_no_hosts():
        pytest.skip(why_no_hosts() or "mpirun.openmpi missing (apt-get install openmpi-bin)")
    with Hosts(2, tmp_path) as network:
        words = ["mpirun.openmpi", *OPTIONS["openmpi"], *over_ssh("openmpi", tmp_path)]
        words += ["--map-by", "node", "-np", "4", *rank_words(tmp_path)]
        code, _, err = network.run("h1", words, DEADLINE_S, meeting)
    assert code != 0
    assert "mpirun --map-by slot does so" in err
