"""Jobs over several hosts that an ssh of our own only pretends to reach: what ranks learn, say."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from hora.errors import UsageError
from hora.launch.cli import parse
from launched import PACKAGE_ROOT, launcher_processes, wait_until_gone

REPORT = """
import json, os, sys
told = json.loads(open(int(os.environ["HORA_BOOTSTRAP_FD"]), "rb").read())
print("told", json.dumps({"document": told, "env": dict(os.environ), "input": sys.stdin.read()}))
"""
PAUSE = "import os, signal; print('pid', os.getpid()); signal.pause()"
# Each rank has a child in a session of its own.
FAMILY = """
import os, signal, subprocess, sys
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("pid", child.pid)
print("pid", os.getpid())
signal.pause()
"""


def python(code: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code)


def ask(launch, *words: str, **options) -> list[dict]:
    code, out, err = launch(*words, *python(REPORT), **options)
    assert code == 0, err
    told = [json.loads(line.split("told ", 1)[1]) for line in out]
    return sorted(told, key=lambda fields: fields["document"]["rank"])


def test_places_and_meeting_point(ssh, launch):
    told = ask(launch, "-H", "one:2,two:1,three:2", "--horovod")
    documents = [fields["document"] for fields in told]
    places = [
        tuple(document[name] for name in ("rank", "local_rank", "local_size", "cross_rank"))
        for document in documents
    ]
    assert places == [(0, 0, 2, 0), (1, 1, 2, 0), (2, 0, 1, 1), (3, 0, 2, 2), (4, 1, 2, 1)]
    assert [document["cross_size"] for document in documents] == [3, 2, 3, 3, 2]
    for document in documents:
        assert (document["size"], document["rendezvous"], document["listen_fd"]) == (5, "", None)
        assert all(document[name] == documents[0][name] for name in ("store", "key", "job_id"))
        assert document["store"].startswith("127.0.0.1:")
    for rank, fields in enumerate(told):
        env = fields["env"]
        assert (env["RANK"], env["WORLD_SIZE"]) == (str(rank), "5")
        assert env["GROUP_RANK"] == "00122"[rank]
        assert env["LOCAL_WORLD_SIZE"] == "22122"[rank]
        assert env["MASTER_ADDR"] == "127.0.0.1"
        assert env["MASTER_PORT"] == told[0]["env"]["MASTER_PORT"]
        assert env["HOROVOD_HOSTNAME"] == ("one", "one", "two", "three", "three")[rank]
        assert (env["HOROVOD_CROSS_RANK"], env["HOROVOD_SIZE"]) == (str(places[rank][3]), "5")
        assert fields["input"] == ""


def test_ssh_gets_an_argument_vector(ssh, launch):
    options = (
        "--ssh-port", "2222", "-i", "/keys/my key", "--ssh-option", "ProxyJump=a b",
        "--connect-timeout", "7",
    )  # fmt: skip
    assert launch("-H", "me@one:1,[::1%lo]:1", *options, "true")[0] == 0
    first, second = sorted(ssh.calls(), reverse=True)
    assert first[:15] == [
        "-T", "-o", "BatchMode=yes", "-o", "ProxyJump=a b", "-p", "2222", "-i", "/keys/my key",
        "-o", "ConnectTimeout=7", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
    ]  # fmt: skip
    end = first.index("--")
    assert first[end + 1 : end + 3] == ["me@one", sys.executable]
    assert first[-1] == str(PACKAGE_ROOT)
    assert second[end + 1] == "::1%lo"
    assert all("HORA" not in word and word != "true" for word in first)


def test_environment_by_list_and_by_option(ssh, launch):
    env = {"OMP_SCHEDULE": "static", "HORA_CACHE_CAPACITY": "77", "MY_TOKEN": "s3", "MINE": "a b;c"}
    words = ("-H", "one:1", "--env", "MINE", "-x", "GIVEN=$(id)", "--cache-capacity", "5")
    (told,) = ask(launch, *words, env=env)
    got = told["env"]
    assert (got["OMP_SCHEDULE"], got["MINE"], got["GIVEN"]) == ("static", "a b;c", "$(id)")
    assert got["HORA_CACHE_CAPACITY"] == "5"
    assert got["PATH"] == os.environ["PATH"]
    assert "MY_TOKEN" not in got
    assert told["document"]["store"] == ""
    assert told["document"]["rendezvous"].startswith("hora-")


def test_own_host_needs_no_ssh(ssh, launch):
    told = ask(launch, "-H", "localhost:1,one:1,127.0.0.1:1", env={"MY_TOKEN": "here"})
    assert [fields["document"]["local_size"] for fields in told] == [2, 2, 1]
    assert [call[call.index("--") + 1] for call in ssh.calls()] == ["one"]
    assert [fields["env"].get("MY_TOKEN") for fields in told] == ["here", "here", None]


def test_hosts_that_are_not_needed_are_left_alone(ssh, launch):
    assert len(ask(launch, "-np", "3", "-H", "one:2,two:2,three:2")) == 3
    assert len(ssh.calls()) == 2


def test_output_of_all_ranks_is_whole(ssh, launch, tmp_path):
    code = "import os; os.write(1, bytes(range(256)) * 4096); os.write(2, b'last ' + b'x' * 9)"
    words = ("-H", "one:1,noisy:1", "--output-dir", str(tmp_path), "--quiet")
    assert launch(*words, *python(code))[0] == 0
    for rank in range(2):
        folder = tmp_path / f"rank.{rank}"
        assert (folder / "stdout").read_bytes() == bytes(range(256)) * 4096
        assert (folder / "stderr").read_bytes() == b"last xxxxxxxxx"


def test_lines_are_marked_and_whole(ssh, launch):
    code, out, err = launch("-H", "one:1,two:1", "sh", "-c", "seq 1 30000; echo end >&2")
    assert code == 0
    for rank in range(2):
        mine = [line for line in out if line.startswith(f"[{rank}] ")]
        assert mine == [f"[{rank}] {number}" for number in range(1, 30001)]
    assert sorted(line for line in err.splitlines() if "end" in line) == ["[0]! end", "[1]! end"]


def test_a_slow_reader_holds_ranks_back_and_loses_nothing(ssh, start):
    job = start("-H", "one:2", "--no-prefix", *python("for _ in range(8000): print('y' * 999)"))
    job.wait_for(1, "y")
    code, _ = job.end()
    assert (code, len(job.lines)) == (0, 16000)


def test_the_failing_rank_is_named_with_its_host(ssh, launch):
    script = "[ $RANK = 2 ] || exec sleep 1000; echo why >&2; exit 7"
    words = ("-H", "one:2,two:2", "--grace-period", "0.2", "--quiet")
    code, _, err = launch(*words, "sh", "-c", script)
    lines = err.splitlines()
    assert code == 7
    assert "rank 2 (pid " in err and " on two) exited with code 7" in err
    assert "[2]! why" in lines
    assert lines[-1] == "hora: ranks 0-1,3: SIGTERM from the launcher; rank 2: exit 7"


def test_a_killed_rank_is_named(ssh, start):
    job = start("-H", "one:1,two:1", "--grace-period", "0.2", *python(PAUSE))
    pids = job.rank_pids(2)
    os.kill(pids[1], signal.SIGKILL)
    code, err = job.end()
    assert code == 128 + signal.SIGKILL
    assert f"rank 1 (pid {pids[1]} on two) was ended by SIGKILL" in err
    wait_until_gone(pids)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_all_hosts_once(ssh, start, signum):
    code = f"""
import signal, sys
def stop(signum, frame):
    print("told", signum)
    sys.exit(0)
signal.signal({int(signum)}, stop)
print("ready")
signal.pause()
"""
    job = start("-H", "one:1,two:1", *python(code))
    job.wait_for(2, "ready")
    job.process.send_signal(signum)
    code, _ = job.end()
    assert code == 128 + signum
    assert sum("told" in line for line in job.lines) == 2


def test_a_second_interrupt_kills(ssh, start):
    code = "import signal; signal.signal(2, lambda *_: print('told')); print('ready')\n"
    job = start(
        "-H", "one:1,two:1", "--grace-period", "900", *python(code + "while 1: signal.pause()")
    )
    job.wait_for(2, "ready")
    job.process.send_signal(signal.SIGINT)
    job.wait_for(2, "told")
    job.process.send_signal(signal.SIGINT)
    code, err = job.end()
    assert code == 128 + signal.SIGINT
    assert "ranks 0-1: SIGKILL from the launcher" in err


@pytest.mark.parametrize("victim", [0, 1], ids=["guardian", "inner"])
def test_a_killed_launcher_leaves_no_orphan(ssh, start, victim):
    job = start("-H", "localhost:1,one:2", *python(FAMILY))
    pids = [int(pid) for pid in job.wait_for(6, "pid ")]
    launcher = launcher_processes(job.process.pid)
    os.kill(launcher[victim], signal.SIGKILL)
    wait_until_gone(pids + launcher)


def test_a_lost_connection_ends_the_job_and_the_ranks_beyond_it(ssh, start):
    job = start("-H", "one:1,two:1", "--grace-period", "0.2", *python(FAMILY))
    pids = [int(pid) for pid in job.wait_for(4, "pid ")]
    _, inner = launcher_processes(job.process.pid)
    children = Path(f"/proc/{inner}/task/{inner}/children").read_text().split()
    connection = next(
        int(pid)
        for pid in children
        if b"two" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    )
    os.kill(connection, signal.SIGKILL)
    code, err = job.end()
    assert code == 69
    assert "hora: two is lost with ranks 1: ssh was ended by SIGKILL" in err
    assert err.splitlines()[-1] == "hora: rank 0: SIGTERM from the launcher; rank 1: lost"
    wait_until_gone(pids)


def test_leftovers_on_a_host_are_ended(ssh, start):
    code = """
import subprocess
left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("pid", left.pid)
"""
    job = start("-H", "one:1,two:1", "--grace-period", "0.2", *python(code))
    pids = [int(pid) for pid in job.wait_for(2, "pid ")]
    assert job.end()[0] == 0
    wait_until_gone(pids)


def test_the_key_is_nowhere_to_be_seen(ssh, start, tmp_path):
    code = REPORT + "\nsys.stdout.flush(); import signal; signal.pause()"
    (tmp_path / "ask.py").write_text(code)
    words = ("-H", "localhost:1,one:1", "--verbose", "--output-dir", "out", "ask.py")
    job = start(*words, cwd=tmp_path)
    told = [json.loads(text) for text in job.wait_for(2, "told ")]
    key = told[0]["document"]["key"]
    raw = bytes.fromhex(key)
    forms = (key.encode(), raw, base64.b64encode(raw), base64.urlsafe_b64encode(raw))
    seen = 0
    for entry in Path("/proc").iterdir():
        for name in ("cmdline", "environ"):
            try:
                content = (entry / name).read_bytes()
            except OSError:
                continue
            seen += 1
            assert not any(form in content for form in forms), f"{entry}/{name}"
    assert seen > 10
    assert not any(form in (ssh.folder / "log").read_bytes() for form in forms)
    assert {path.name for path in tmp_path.iterdir()} == {"ask.py", "out"}
    job.process.send_signal(signal.SIGTERM)
    _, err = job.end()
    assert key not in err


def test_a_hostfile(ssh, launch, tmp_path):
    (tmp_path / "hosts").write_text("# ours\none slots=2 # two\ntwo:1\n\n\tthree\n")
    told = ask(launch, "--hostfile", str(tmp_path / "hosts"), "-np", "4")
    assert [fields["env"]["GROUP_RANK"] for fields in told] == ["0", "0", "1", "2"]


def test_ranks_per_node_over_hosts(ssh):
    spec = parse(["-H", "one,two:7", "--nproc_per_node", "3", "true"])
    assert spec.placement.sizes == (3, 3)


def test_a_function_stays_on_this_host():
    from hora.launch.function import run

    with pytest.raises(UsageError, match="on this host only"):
        run(print, hosts="far.invalid:1")
