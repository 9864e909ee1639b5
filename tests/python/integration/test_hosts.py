"""horarun over network namespaces with real sshds: places, failures, and that nothing is left."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Hosts, why_impossible

if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

DEADLINE_S = 60.0
# What a start-up failure may take, from the command on; on a machine that has more to do.
PROMPT_S = 20.0

REPORT = """
import json, os, socket, sys
told = json.loads(open(int(os.environ["HORA_BOOTSTRAP_FD"]), "rb").read())
address, _, port = told["store"].rpartition(":")
socket.create_connection((address, int(port)), 5).close()
print("told", json.dumps({"document": told, "env": dict(os.environ), "host": os.uname().nodename}))
"""
ALONE = "\n".join(line for line in REPORT.splitlines() if "create_connection" not in line)
# Says where it is, has a child in a session of its own, and waits.
PAUSE = """
import os, signal, subprocess, sys
folder, rank = sys.argv[1], os.environ["RANK"]
subprocess.Popen(["sleep", "1000"], start_new_session=True)
with open(f"{folder}/ready.{rank}.tmp", "w") as file:
    file.write(str(os.getpid()))
os.rename(f"{folder}/ready.{rank}.tmp", f"{folder}/ready.{rank}")
signal.pause()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[Hosts]:
    with Hosts(2, tmp_path_factory.mktemp("two")) as hosts:
        yield hosts


@pytest.fixture
def start(two) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts horarun on h1 in the background; it is killed at the end of the test."""
    running = []

    def start(*words: str) -> subprocess.Popen[str]:
        running.append(two.start("h1", two.horarun(*words)))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code, *arguments)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def wait_for_ranks(folder: Path, count: int) -> None:
    wait_until(lambda: len(list(folder.glob("ready.?"))) == count, f"{count} ranks")


def assert_nothing_left(hosts: Hosts) -> None:
    wait_until(lambda: not any(map(hosts.processes, hosts.names)), "the end of all processes")


def reports(out: str) -> list[dict]:
    told = [json.loads(line.split("told ", 1)[1]) for line in out.splitlines()]
    return sorted(told, key=lambda fields: fields["document"]["rank"])


def check_places(told: list[dict], sizes: list[int]) -> None:
    place = [(host, local) for host, size in enumerate(sizes) for local in range(size)]
    for rank, (host, local) in enumerate(place):
        document, env = told[rank]["document"], told[rank]["env"]
        assert told[rank]["host"] == f"h{host + 1}"
        assert (document["rank"], document["size"]) == (rank, len(place))
        assert (document["local_rank"], document["local_size"]) == (local, sizes[host])
        assert (env["GROUP_RANK"], env["LOCAL_RANK"]) == (str(host), str(local))
        assert env["MASTER_ADDR"] == "10.77.0.1"
        assert env["MASTER_PORT"] == told[0]["env"]["MASTER_PORT"]
        assert document["store"].startswith("10.77.0.1:")


def test_two_hosts(two):
    code, out, err = two.run("h1", two.horarun("-H", "h1:2,h2:2", *python(REPORT)))
    assert code == 0, err
    check_places(reports(out), [2, 2])
    assert "2 hosts; the store listens on 10.77.0.1:" in err


def test_four_hosts_of_different_sizes(tmp_path):
    (tmp_path / "hosts").write_text("h1 slots=2\nh2:1 # small\nh3 slots=3\nh4\n")
    words = ("--hostfile", str(tmp_path / "hosts"), "--network-interfaces", "none0,eth0")
    with Hosts(4, tmp_path) as hosts:
        code, out, err = hosts.run("h1", hosts.horarun(*words, *python(REPORT)))
        assert code == 0, err
        told = reports(out)
        check_places(told, [2, 1, 3, 1])
        assert told[0]["document"]["interfaces"] == ["none0", "eth0"]
        assert_nothing_left(hosts)


def test_a_launcher_outside_the_job(two):
    code, out, err = two.run("h1", two.horarun("-H", "h2:2", *python(ALONE)))
    assert code == 0, err
    told = reports(out)
    assert [fields["host"] for fields in told] == ["h2", "h2"]
    assert told[0]["document"]["store"] == ""
    assert told[0]["document"]["rendezvous"].startswith("hora-")


def test_one_launcher_per_host(two, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("5a" * 32 + "\n")
    secret.chmod(0o600)
    common = (
        "--nproc_per_node=2", "--nnodes=2", "--master_addr", "h1", "--master_port=29501",
        "--secret-file", str(secret),
    )  # fmt: skip
    jobs = [
        two.start(name, two.horarun(*common, f"--node_rank={node}", *python(ALONE)))
        for node, name in enumerate(two.names)
    ]
    results = [job.communicate(timeout=DEADLINE_S) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], results
    told = reports("".join(out for out, _ in results))
    assert [fields["document"]["rank"] for fields in told] == [0, 1, 2, 3]
    assert [fields["host"] for fields in told] == ["h1", "h1", "h2", "h2"]
    assert {fields["document"]["key"] for fields in told} == {"5a" * 32}
    assert {fields["document"]["store"] for fields in told} == {"10.77.0.1:29501"}
    assert {fields["env"]["MASTER_PORT"] for fields in told} == {"29502"}


def test_a_failing_rank_elsewhere_ends_all(two, start, tmp_path):
    code = PAUSE.replace("signal.pause()", "signal.pause() if rank != '3' else sys.exit(9)")
    job = start("-H", "h1:2,h2:2", "--grace-period", "0.3", *python(code, str(tmp_path)))
    _, err = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 9
    assert " on h2) exited with code 9" in err
    assert err.splitlines()[-1] == "hora: ranks 0-2: SIGTERM from the launcher; rank 3: exit 9"
    assert_nothing_left(two)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_launcher_is_the_end_of_all(two, start, tmp_path, signum):
    job = start("-H", "h1:1,h2:2", "--grace-period", "0.3", *python(PAUSE, str(tmp_path)))
    wait_for_ranks(tmp_path, 3)
    job.send_signal(signum)
    job.communicate(timeout=DEADLINE_S)
    assert job.returncode == (-9 if signum == signal.SIGKILL else 128 + signum)
    assert_nothing_left(two)


def test_a_session_that_ends(two, start, tmp_path):
    job = start("-H", "h1:1,h2:1", "--grace-period", "0.3", *python(PAUSE, str(tmp_path)))
    wait_for_ranks(tmp_path, 2)
    two.stop_sshd("h2")
    _, err = job.communicate(timeout=DEADLINE_S)
    two.start_sshd("h2")
    assert job.returncode == 69
    assert "hora: h2 is lost with ranks 1: ssh exit 255: " in err
    assert "rank 0: SIGTERM from the launcher; rank 1: lost" in err
    assert_nothing_left(two)


def test_a_cable_that_is_pulled(two, start, tmp_path):
    """Neither side is told: ssh notices here after 15 s, and the agent there after 30 s."""
    job = start("-H", "h1:1,h2:1", "--grace-period", "0.3", *python(PAUSE, str(tmp_path)))
    wait_for_ranks(tmp_path, 2)
    two.set_link("h2", "down")
    try:
        _, err = job.communicate(timeout=DEADLINE_S)
        assert job.returncode == 69
        assert "h2 is lost with ranks 1: ssh exit 255: Timeout, server h2 not responding" in err
        assert_nothing_left(two)
    finally:
        two.set_link("h2", "up")


# --- what keeps a job from starting ----------------------------------------------------------


def fail_to_start(hosts: Hosts, *words: str) -> str:
    """Runs a job that must not start; returns what it says."""
    begin = time.monotonic()
    code, out, err = hosts.run("h1", hosts.horarun(*words))
    assert (code, out) == (126, ""), err
    assert time.monotonic() - begin < PROMPT_S
    assert "Traceback" not in err
    assert_nothing_left(hosts)
    return err


def test_a_closed_port_and_an_unknown_host(two):
    err = fail_to_start(two, "-H", "h1:1,h2:1,h9:1", "--ssh-port", "2223", "true")
    assert "h2: ssh exit 255: ssh: connect to host h2 port 2223: Connection refused" in err
    assert "h9: ssh exit 255: ssh: Could not resolve hostname h9" in err


def test_an_address_where_nobody_is(two):
    err = fail_to_start(two, "-H", "h1:1,10.77.0.99:1", "true")
    assert "10.77.0.99: " in err
    assert "No route to host" in err or "timed out" in err or "no answer" in err


def test_a_key_that_is_not_accepted(two, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", str(tmp_path / "id")], check=True)
    options = ("--ssh-identity-file", str(tmp_path / "id"))
    err = fail_to_start(two, "-H", "h1:1,h2:1", *options, "true")
    assert "h2: ssh exit 255: " in err and "Permission denied (publickey" in err


def test_a_host_key_that_is_not_known(two):
    first = ("--ssh-option", "HostKeyAlias=stranger")
    err = fail_to_start(two, "-H", "h1:1,h2:1", *first, "true")
    assert "h2: ssh exit 255: Host key verification failed. (log in once by hand" in err


def test_an_sshd_that_hangs(two):
    name = f"{two.namespace('h2')}"
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
    daemons = [int(pid) for pid in pids.stdout.split()]
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        err = fail_to_start(two, "-H", "h1:1,h2:1", "--connect-timeout", "1", "true")
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)
    assert "h2: ssh exit 255: " in err and "timed out" in err


def test_no_such_interface_and_no_way_to_the_store(two):
    err = fail_to_start(two, "-H", "h1:1,h2:1", "--network-interfaces", "wlan7", "true")
    assert "h1 (this host): " in err and "wlan7" in err
    err = fail_to_start(two, "-H", "h1:1,h2:1", "--network-interfaces", "lo", "true")
    assert "h2: the store at 127.0.0.1:" in err
    assert "cannot be reached from 127.0.0.1: Connection refused" in err


def test_the_secret_is_kept_and_only_the_network_is_listened_on(two, start, tmp_path):
    code = REPORT + PAUSE
    job = start(
        "-H",
        "h1:1,h2:1",
        "--grace-period",
        "0.3",
        "--output-dir",
        str(tmp_path),
        *python(code, str(tmp_path)),
    )
    wait_for_ranks(tmp_path, 2)
    told = (tmp_path / "rank.0" / "stdout").read_text().split("told ", 1)[1]
    raw = bytes.fromhex(json.loads(told)["document"]["key"])
    forms = (raw, raw.hex().encode(), base64.b64encode(raw))
    for name in two.names:
        for pid in two.processes(name):
            for file in ("cmdline", "environ"):
                content = Path(f"/proc/{pid}/{file}").read_bytes()
                assert not any(form in content for form in forms), f"{pid} {file}"
        _, sockets, _ = two.run(name, ["cat", "/proc/net/tcp", "/proc/net/tcp6"])
        rows = [line.split() for line in sockets.splitlines()]
        listening = [row[1].split(":")[0] for row in rows if len(row) > 3 and row[3] == "0A"]
        own = bytes(reversed([int(part) for part in two.address(name).split(".")])).hex().upper()
        assert set(listening) == {own}
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=DEADLINE_S)
    assert raw.hex() not in err
