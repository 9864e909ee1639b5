"""What keeps a job over several hosts from starting: all said at once, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
from hora.launch.hosts import is_this_host, read_hosts
from hora.launch.ssh import SshOptions
from launched import DEADLINE_S, launcher_processes, wait_until_gone

FAILURES = {
    "refused": "refused: ssh exit 255: ssh: connect to host refused port 22: Connection refused",
    "denied": "denied: ssh exit 255: me@denied: Permission denied (publickey).",
    "keyless": "keyless: ssh exit 255: me@keyless: Permission denied (publickey). "
    "(Warning: Identity file k not accessible: ",
    "unknown": "unknown: ssh exit 255: ssh: Could not resolve hostname unknown",
    "changed": "changed: ssh exit 255: Host key verification failed. (log in once by hand",
    "old": "old: hora 0.0.1 is installed there, but ",
    "garbles": "garbles: the agent's output is garbled: 'Segmentation fault' instead of a message",
    "nonsense": "nonsense: the agent's output is garbled: a message without sense",
    "endless": "endless: the agent's output is garbled: 'xxxxx",
    "halfway": "halfway: ssh exit 255: Connection to halfway closed by remote host.",
}


@pytest.mark.parametrize("host", FAILURES)
def test_a_host_that_cannot_be_used(ssh, launch, host, tmp_path):
    words = ("-H", f"one:1,{host}:1", "sh", "-c", f"touch {tmp_path}/started")
    code, out, err = launch(*words)
    assert (code, out) == (126, [])
    assert f"hora: {FAILURES[host]}" in err
    assert "Traceback" not in err
    assert not (tmp_path / "started").exists()


def test_all_failures_at_once(ssh, launch):
    code, _, err = launch("-H", ",".join(["one", *FAILURES]), "true")
    assert code == 126
    for failure in FAILURES.values():
        assert failure in err


def test_silent_hosts_are_given_up(ssh, launch):
    """The one by ssh, whose limit is short, the other by horarun: a login may take its time."""
    begin = time.monotonic()
    words = ("-H", "one,hangs,dozes,refused", "--connect-timeout", "0.1", "true")
    code, _, err = launch(*words)
    assert 6 < time.monotonic() - begin < 30
    assert code == 126
    assert "hangs: ssh exit 255: Connection timed out during banner exchange" in err
    assert "dozes: no answer from hora there within 6.1 s (--connect-timeout 0.1, and 6 for" in err
    assert FAILURES["refused"] in err


def test_an_sshd_has_4_s_to_answer_and_a_login_6_more(ssh, launch):
    assert launch("-H", "one", "true")[0] == 0
    assert "ConnectTimeout=4" in ssh.calls()[0]
    assert SshOptions().hello_limit_s == 10


def test_two_names_of_one_host(ssh, launch, tmp_path):
    """The name of this machine, and one that only ssh knows for it."""
    words = ("-H", "localhost:1,again:2,two:1", "sh", "-c", f"touch {tmp_path}/started")
    code, _, err = launch(*words)
    assert code == 126
    assert "hora: again: this is the same host as localhost: name it once" in err
    assert "with all that it has room for (localhost:3)" in err
    assert not (tmp_path / "started").exists()


def test_no_interpreter_there(ssh, launch):
    code, _, err = launch("-H", "one", "--remote-python", "/no/python", "true")
    assert code == 126
    assert "one: ssh exit 127: " in err and "/no/python" in err
    code, _, err = launch("-H", "one", "--remote-python", "/usr/bin/true", "true")
    assert "one: ssh exit 0" in err


def test_no_hora_there(ssh, launch, tmp_path):
    lonely = tmp_path / "python"
    lonely.write_text(f"#!/bin/sh\nexec {sys.executable} -S -c 'import hora.launch.agent'\n")
    lonely.chmod(0o755)
    _, _, err = launch("-H", "one", "--remote-python", str(lonely), "true")
    assert "one: ssh exit 1: ModuleNotFoundError: No module named 'hora'" in err
    assert "--remote-python" in err


def test_no_such_interface(ssh, launch):
    words = ("-H", "one,two", "--network-interfaces", "nope0", "true")
    code, _, err = launch(*words)
    assert code == 126
    assert "nope0" in err and "lo" in err


def test_no_ssh_program(launch, monkeypatch, tmp_path):
    (tmp_path / "true").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = launch("-H", "one:1,two:1", "true")
    assert code == 126
    assert "one: ssh cannot be started: No such file or directory" in err


def test_the_folder_and_the_script_must_be_there(ssh, start, tmp_path):
    """The agent looks for itself: here the folder goes away while the connection is made."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "train.py").write_text("")
    go = tmp_path / "go"
    os.mkfifo(go)
    slow = ssh.folder / "ssh"
    slow.rename(ssh.folder / "real")
    slow.write_text(f'#!/bin/sh\nread line < {go}\nexec {ssh.folder}/real "$@"\n')
    slow.chmod(0o755)
    job = start("-H", "one:1", "train.py", cwd=folder)
    with go.open("w") as gate:
        (folder / "train.py").unlink()
        gate.write("\n")
    code, err = job.end()
    assert code == 126
    assert f"one: there is no file 'train.py' (looked in {folder})" in err


def test_interrupted_while_connecting(ssh, start):
    job = start("-H", "hangs,one", "--connect-timeout", "900", "true")
    deadline = time.monotonic() + DEADLINE_S
    while len(ssh.calls()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    launcher = launcher_processes(job.process.pid)
    children = Path(f"/proc/{launcher[1]}/task/{launcher[1]}/children").read_text().split()
    job.process.send_signal(signal.SIGINT)
    assert job.end()[0] == 128 + signal.SIGINT
    wait_until_gone([*launcher, *map(int, children)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:2,b:3", [("a", 2), ("b", 3)]),
        ("a,b", [("a", 1), ("b", 1)]),
        ("a:1, b:2, a:3", [("a", 4), ("b", 2)]),
        ("me@a.example:2", [("me@a.example", 2)]),
        ("[fe80::1]:2,[fe80::1%eth0]", [("[fe80::1]", 2), ("[fe80::1%eth0]", 1)]),
    ],
)
def test_hosts(text, expected):
    assert [(host.name, host.slots) for host in read_hosts(text, None)] == expected


def test_names_of_this_host():
    own = [info.address for infos in psutil.net_if_addrs().values() for info in infos]
    numbers = [address for address in own if "." in address]
    for name in ("localhost", "127.0.0.1", "127.3.2.1", "[::1]", socket.gethostname(), *numbers):
        assert is_this_host(name), name
    for name in ("192.0.2.99", "me@localhost", "no-such-host.invalid", "[fe80::99%lo]"):
        assert not is_this_host(name), name
