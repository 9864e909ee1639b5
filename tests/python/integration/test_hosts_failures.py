"""What survivors on all hosts see when something dies, hangs, disagrees or was set wrongly."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hosts import Hosts, why_impossible

pytest.importorskip("torch")
if not hasattr(pytest.importorskip("hora._core"), "StoreServer"):
    pytest.skip("this core cannot run over several hosts", allow_module_level=True)
if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

import hora
from bare import BARE, TORCH

DEADLINE_S = 60.0  # for a whole job, start-up of torch included
LIMIT_S = 5.0  # from an event to the error of everybody who can still see it
RANKS = 4  # two on each host

# Follows BARE or TORCH.
TRAIN_FOREVER = """
import os, sys, time
def tell(what, text):
    path = f"{sys.argv[1]}/{what}.{hvd.rank() if hvd.is_initialized() else os.environ['RANK']}"
    with open(path + ".tmp", "w") as out:
        out.write(text)
    os.rename(path + ".tmp", path)
hvd.init()
tensors = [ones(size) for size in (1, 1000, 300_000)]
begun = False
try:
    while True:
        for handle in [hvd.allreduce_async_(t, name=str(len(t)), op=hvd.Max) for t in tensors]:
            hvd.synchronize(handle)
        if not begun:
            tell("pid", str(os.getpid()))
            begun = True
except hvd.PeerFailedError as error:
    tell("error", f"{time.monotonic()} {error}")
    sys.exit(3)
"""

# Follows BARE. argv: folder, then host (or *), name, value, …: what ranks set before they start.
START = """
import os, sys, time
folder, settings = sys.argv[1], sys.argv[2:]
for host, name, value in zip(*[iter(settings)] * 3):
    if host in ("*", os.uname().nodename):
        os.environ[name] = value
path = f"{folder}/error.{os.environ['RANK']}"
begun = time.monotonic()
try:
    hvd.init()
except hvd.HoraError as error:
    draft = f"{path}.{os.getpid()}.tmp"
    with open(draft, "w") as out:
        out.write(f"{time.monotonic() - begun} {error}")
    os.rename(draft, path)
    # Stay until all have spoken: whoever leaves first makes the launcher end the others.
    while len([n for n in os.listdir(folder) if n[:5] == "error" and n[-1] != "p"]) < 4:
        time.sleep(0.02)
        if time.monotonic() - begun > 4:
            break
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(2, tmp_path_factory.mktemp("two")) as hosts:
        yield hosts


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(two: Hosts) -> Iterator[Start]:
    """Starts horarun on h1 in the background; it is killed at the end of the test."""
    running = []

    def start(code: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        words = (
            "-H",
            "h1:2,h2:2",
            *options,
            "-x",
            "OMP_NUM_THREADS=1",
            "-x",
            "CUDA_VISIBLE_DEVICES=",
        )
        program = ("--", sys.executable, "-c", code, *arguments)
        running.append(two.start("h1", two.horarun(*words, *program)))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], object], what: str, limit_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s:g} s"
        time.sleep(0.02)


def assert_nothing_left(hosts: Hosts) -> None:
    """No process, and no listener but those of the hosts' sshds (port 2222)."""
    wait_until(lambda: not any(map(hosts.processes, hosts.names)), "the end of all processes")
    for name in hosts.names:
        assert listening_ports(hosts, name) == {2222}


def listening_ports(hosts: Hosts, name: str) -> set[int]:
    _, text, _ = hosts.run(name, ["cat", "/proc/net/tcp", "/proc/net/tcp6"])
    rows = [line.split() for line in text.splitlines()]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A"}


def training(
    start: Start, folder: Path, engine: str = BARE, **options: tuple[str, ...]
) -> list[int]:
    """Starts the job; the ranks' process ids, once each of them has trained a little."""
    job = start(engine + TRAIN_FOREVER, str(folder), **options)
    files = [folder / f"pid.{rank}" for rank in range(RANKS)]
    wait_until(
        lambda: job.poll() is not None or all(file.exists() for file in files), "the training"
    )
    assert job.poll() is None, job.communicate()
    return [int(file.read_text()) for file in files]


def errors(folder: Path, ranks: set[int]) -> dict[int, tuple[float, str]]:
    """When and with which words each of the ranks failed."""
    files = {rank: folder / f"error.{rank}" for rank in ranks}
    wait_until(lambda: all(file.exists() for file in files.values()), "everybody's error", 20)
    parts = {rank: file.read_text().partition(" ") for rank, file in files.items()}
    return {rank: (float(when), words) for rank, (when, _, words) in parts.items()}


def check_errors(
    folder: Path, begun: float, named: dict[int, str], record: Callable[[str, object], None]
) -> None:
    """Each of the ranks failed in time with words like those given."""
    found = errors(folder, set(named))
    slowest = max(when for when, _ in found.values()) - begun
    record("seconds until every survivor had its error", slowest)
    print(f"slowest error after {slowest:.3f} s: {sorted(found.items())}")
    for rank, pattern in named.items():
        assert re.search(pattern, found[rank][1]), f"rank {rank}: {found[rank][1]}"
    assert slowest < LIMIT_S


def agents(hosts: Hosts, name: str) -> list[int]:
    def is_agent(pid: int) -> bool:
        try:
            return b"hora.launch.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    return sorted(filter(is_agent, hosts.processes(name)))


# --- what happens to a running job ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("victim", "engine"),
    [*((victim, BARE) for victim in range(RANKS)), (RANKS - 1, TORCH)],
    ids=[*map(str, range(RANKS)), "with torch"],
)
def test_a_killed_rank(two, start, tmp_path, record_property, victim, engine):
    pids = training(start, tmp_path, engine)
    begun = time.monotonic()
    os.kill(pids[victim], signal.SIGKILL)
    named = {rank: rf"\brank {victim}\b" for rank in range(RANKS) if rank != victim}
    check_errors(tmp_path, begun, named, record_property)
    assert_nothing_left(two)


@pytest.mark.parametrize("which", ["first", "last", "all"])
def test_a_killed_agent(two, start, tmp_path, record_property, which):
    training(start, tmp_path)
    found = agents(two, "h2")
    assert found
    begun = time.monotonic()
    for pid in {"first": found[:1], "last": found[-1:], "all": found}[which]:
        os.kill(pid, signal.SIGKILL)
    check_errors(tmp_path, begun, dict.fromkeys((0, 1), r"\brank [23]\b|\bh2\b"), record_property)
    assert_nothing_left(two)


def test_a_connection_of_ssh_that_breaks(two, start, tmp_path, record_property):
    training(start, tmp_path)
    begun = time.monotonic()
    two.stop_sshd("h2")
    try:
        named = dict.fromkeys((0, 1), r"\brank [23]\b|\bh2\b")
        check_errors(tmp_path, begun, named, record_property)
        wait_until(lambda: not any(map(two.processes, two.names)), "the end of all processes")
    finally:
        two.start_sshd("h2")
    assert_nothing_left(two)


HEARTBEAT = ("-x", "HORA_HEARTBEAT_SECONDS=1", "--grace-period", "0.5")


def test_a_cable_that_is_pulled(two, start, tmp_path, record_property):
    """Launcher and agents, too, give each other up: ten heartbeats later, not half a minute."""
    training(start, tmp_path, options=("-x", "HORA_HEARTBEAT_SECONDS=0.8", "--grace-period", "0.5"))
    begun = time.monotonic()
    two.set_link("h2", "down")
    try:
        named = {rank: r"\bh2\b" if rank < 2 else r"\bh1\b" for rank in range(RANKS)}
        check_errors(tmp_path, begun, named, record_property)
        gone = "the end of all processes"
        wait_until(lambda: not any(map(two.processes, two.names)), gone, 11)
    finally:
        two.set_link("h2", "up")
    assert_nothing_left(two)


@pytest.mark.parametrize(("stopped", "host"), [((2, 3), "h2"), ((0, 1), "h1")])
def test_a_host_that_is_stopped(two, start, tmp_path, record_property, stopped, host):
    pids = training(start, tmp_path, options=HEARTBEAT)
    begun = time.monotonic()
    for rank in stopped:
        os.kill(pids[rank], signal.SIGSTOP)
    named = {rank: rf"\b{host}\b" for rank in range(RANKS) if rank not in stopped}
    check_errors(tmp_path, begun, named, record_property)
    assert_nothing_left(two)


# --- what keeps a job from starting --------------------------------------------------------------


def fail_to_start(two: Hosts, start: Start, folder: Path, *settings: str) -> dict[int, str]:
    """The words of all ranks that said why; nothing hangs and nothing is left."""
    job = start(BARE + START, str(folder), *settings, options=("--grace-period", "0.5"))
    out, err = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 3, out + err
    found = {rank: (folder / f"error.{rank}").read_text().partition(" ")
             for rank in range(RANKS) if (folder / f"error.{rank}").exists()}  # fmt: skip
    assert found, out + err
    print({rank: words for rank, (_, _, words) in found.items()})
    for rank, (seconds, _, words) in found.items():
        assert float(seconds) < LIMIT_S, f"rank {rank}: {seconds} s: {words}"
    assert_nothing_left(two)
    return {rank: words for rank, (_, _, words) in found.items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HORA_BACKEND", "carrier-pigeon"),
        ("HORA_DATA_PLANE", "plain"),
        ("HORA_CONTROL_PLANE", "none"),
        ("HORA_HEARTBEAT_SECONDS", "-1"),
        ("HORA_HEARTBEAT_SECONDS", "nan"),
        ("HORA_HEARTBEAT_SECONDS", "soon"),
    ],
)
def test_garbage_is_named_with_what_is_allowed(two, start, tmp_path, name, value):
    found = fail_to_start(two, start, tmp_path, "*", name, value)
    assert set(found) == set(range(RANKS))
    for words in found.values():
        assert name in words and value in words


@pytest.mark.parametrize(
    ("name", "value"),
    [("HORA_HEARTBEAT_SECONDS", "soon"), ("HORA_START_TIMEOUT_SECONDS", "later")],
)
def test_garbage_of_one_host(two, start, tmp_path, name, value):
    found = fail_to_start(two, start, tmp_path, "h2", name, value)
    assert set(found) == set(range(RANKS)), found
    for rank, words in found.items():
        assert name in words and value in words, f"rank {rank}: {words}"
        assert rank > 1 or re.search("rank [23] on h2 cannot join", words), f"rank {rank}: {words}"


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("HORA_BACKEND", "tcp", "flat-tcp"),
        ("HORA_DATA_PLANE", "tls", "auth"),
    ],
)
def test_hosts_that_differ(two, start, tmp_path, name, ours, theirs):
    found = fail_to_start(two, start, tmp_path, "h1", name, ours, "h2", name, theirs)
    assert set(found) == set(range(RANKS)), found
    for rank, words in found.items():
        assert name in words, f"rank {rank}: {words}"


def test_a_host_with_another_control_plane(two, start, tmp_path):
    """The store turns it away, and tells those who wait for it."""
    found = fail_to_start(two, start, tmp_path, "h2", "HORA_CONTROL_PLANE", "mac")
    assert set(found) == set(range(RANKS)), found
    for rank, words in found.items():
        assert "HORA_CONTROL_PLANE" in words, f"rank {rank}: {words}"
        assert rank > 1 or "10.77.0.2:" in words, f"rank {rank}: {words}"


@pytest.mark.parametrize(("backend", "plane"), [("gloo", "tls"), ("flat-mpi", "auth")])
def test_a_protection_that_a_library_cannot_keep(two, start, tmp_path, backend, plane):
    settings = ("*", "HORA_BACKEND", backend, "h2", "HORA_DATA_PLANE", plane)
    found = fail_to_start(two, start, tmp_path, *settings)
    assert set(found) == set(range(RANKS)), found
    library = backend.rpartition("-")[2]
    for rank, words in found.items():
        assert f"HORA_DATA_PLANE={plane}" in words, f"rank {rank}: {words}"
        assert f"cannot be kept by {library}" in words, f"rank {rank}: {words}"


@pytest.mark.parametrize("backend", ["gloo", "flat-gloo"])
def test_a_library_that_one_host_has_not(two, start, tmp_path, backend):
    settings = ("*", "HORA_BACKEND", backend, "h2", "HORA_PLUGIN_DIRECTORY", "/nowhere")
    found = fail_to_start(two, start, tmp_path, *settings)
    assert set(found) == set(range(RANKS)), found
    for rank, words in found.items():
        assert "/nowhere/hora_gloo.so" in words, f"rank {rank}: {words}"
        assert rank > 1 or "rank 2 on h2 cannot join" in words, f"rank {rank}: {words}"


def test_a_launcher_whose_first_host_never_comes_says_so(two, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("7b" * 32 + "\n")
    secret.chmod(0o600)
    words = two.horarun(
        "--nproc-per-node=1", "--nnodes=2", "--node-rank=1", "--master-addr=10.77.0.1",
        "--master-port=29502", "--secret-file", str(secret), "-x", "HORA_START_TIMEOUT_SECONDS=4",
        "--", sys.executable, "-c", BARE + "hvd.init()",
    )  # fmt: skip
    code, _, err = two.run("h2", words)
    assert code != 0
    lines = [line for line in err.splitlines() if "rank 1 still waits for the job's store" in line]
    assert len(lines) == 1, err
    assert "10.77.0.1:29502 refuses connections" in lines[0] and "gives up in 2 s" in lines[0]
    assert_nothing_left(two)


def test_interfaces_that_do_not_exist(two):
    begun = time.monotonic()
    words = ("-H", "h1:1,h2:1", "-x", "HORA_NETWORK_INTERFACES=no/such,0.0.0.0/99", "true")
    code, _, err = two.run("h1", two.horarun(*words))
    assert code == 126, err
    assert "no/such" in err and "eth0" in err
    assert time.monotonic() - begun < LIMIT_S
    assert_nothing_left(two)


def test_another_version_elsewhere(two, tmp_path):
    folder = Path(hora.__file__).parent
    shutil.copytree(folder, tmp_path / "hora", ignore=shutil.ignore_patterns("__pycache__"))
    init = tmp_path / "hora" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{hora.__version__}"', '"99.1.2"'))
    python = tmp_path / "python"
    # It is told where this hora lies ("-c", code, folder), and takes the other.
    words = f'export PYTHONPATH={tmp_path}; exec {sys.executable} "$1" "$2" {tmp_path}'
    python.write_text(f"#!/bin/sh\n{words}\n")
    python.chmod(0o755)
    begun = time.monotonic()
    options = ("-H", "h1:1,h2:1", "--remote-python", str(python))
    code, _, err = two.run("h1", two.horarun(*options, "true"))
    assert code == 126, err
    assert f"h2: hora 99.1.2 is installed there, but {hora.__version__} here" in err
    assert time.monotonic() - begun < LIMIT_S
    assert_nothing_left(two)


def test_a_rank_twice(two, tmp_path):
    """Two launchers claim to be node 1; node 2 never comes."""
    secret = tmp_path / "secret"
    secret.write_text("7b" * 32 + "\n")
    secret.chmod(0o600)
    words = two.horarun(
        "--nproc_per_node=1", "--nnodes=3", "--master_addr", "h1", "--master_port=29501",
        "--secret-file", str(secret), "--grace-period", "1",
    )  # fmt: skip
    program = ("--", sys.executable, "-c", BARE + START, str(tmp_path))
    begun = time.monotonic()
    jobs = [
        two.start(name, [*words, f"--node_rank={node}", *program])
        for name, node in (("h1", 0), ("h2", 1), ("h2", 1))
    ]
    results = [job.communicate(timeout=DEADLINE_S) for job in jobs]
    print(time.monotonic() - begun, results)
    assert [job.returncode for job in jobs] == [3, 3, 3]
    for rank in (0, 1):
        seconds, _, text = (tmp_path / f"error.{rank}").read_text().partition(" ")
        assert re.search(r"rank 1 is claimed by two processes: one at 10\.77\.0\.2:\d+ and", text)
        assert float(seconds) < LIMIT_S
    assert_nothing_left(two)


def secret_file(folder: Path, name: str, digits: str) -> str:
    """A key's file, as --secret-file wants it."""
    path = folder / name
    path.write_text(digits * 32 + "\n")
    path.chmod(0o600)
    return str(path)


def run_both(two: Hosts, ours: Sequence[str], theirs: Sequence[str]) -> tuple[float, list[str]]:
    """A launcher of two ranks on each host, which both fail: after how long, and what they said."""
    common = ("--nproc-per-node=2", "--nnodes=2", "--master-addr=10.77.0.1", "--grace-period=1")
    begun = time.monotonic()
    jobs = [
        two.start(f"h{node + 1}", two.horarun(*common, f"--node-rank={node}", *words))
        for node, words in enumerate((ours, theirs))
    ]
    said = [job.communicate(timeout=DEADLINE_S)[1] for job in jobs]
    print(time.monotonic() - begun, said)
    assert all(job.returncode for job in jobs), said
    return time.monotonic() - begun, said


def test_a_rank_that_dies_under_another_launcher(two, tmp_path):
    secret = ("--secret-file", secret_file(tmp_path, "secret", "7b"), "--master-port=29503")
    program = (*secret, "--", sys.executable, "-c", BARE + START, str(tmp_path))
    seconds, _ = run_both(two, program, (*secret, "--", "sh", "-c", "exit 7"))
    for rank in (0, 1):
        _, _, text = (tmp_path / f"error.{rank}").read_text().partition(" ")
        assert re.search("rank [23] on h2 ended before all ranks had met", text), text
    assert seconds < LIMIT_S + 4  # in which START waits for all four
    assert_nothing_left(two)


def test_another_secret_on_one_host(two, tmp_path):
    """Who has the wrong key hears it at once; it must not end the job of those who have the right
    one, but is named where the store is.
    """
    program = ("--", sys.executable, "-c", BARE + START, str(tmp_path))
    files = [secret_file(tmp_path, f"secret{digits}", digits) for digits in ("7b", "7c")]
    options = ("--master-port=29504", "-x", "HORA_START_TIMEOUT_SECONDS=6", "--secret-file")
    _, said = run_both(two, *((*options, file, *program) for file in files))
    for rank in (2, 3):
        seconds, _, text = (tmp_path / f"error.{rank}").read_text().partition(" ")
        assert float(seconds) < LIMIT_S
        assert "must be the same on all hosts (--secret-file)" in text
    warning = r"turned away a connection to 10\.77\.0\.1:29504 from 10\.77\.0\.2:"
    assert re.search(warning, said[0])
    for rank in (0, 1):
        _, _, text = (tmp_path / f"error.{rank}").read_text().partition(" ")
        assert "missing 2-3" in text and "turned away" in text, text
    assert_nothing_left(two)
