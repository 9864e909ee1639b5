"""How a rank finds out who it is, whatever started it and whatever it was told."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import hora
import pytest
from hora import bootstrap
from hora.bootstrap import Bootstrap, detect
from hora.errors import HoraError, UsageError
from hora.starters import torchrun
from hora.starters.board import ToldError

TIMEOUT_S = 5.0
KEY = "ab" * 32
DOCUMENT = {
    "version": 2, "job_id": "0123456789abcdef", "key": KEY, "rank": 1, "size": 4, "local_rank": 1,
    "local_size": 4, "cross_rank": 0, "cross_size": 1, "rendezvous": "hora-" + "0" * 32,
    "listen_fd": None, "store": "", "interfaces": [],
}  # fmt: skip
TORCHRUN = {
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Each test is a process that has not asked before."""
    monkeypatch.setattr(bootstrap, "_remembered", {})


def pipe_with(content: bytes) -> int:
    read_end, write_end = os.pipe()
    os.write(write_end, content)
    os.close(write_end)
    return read_end


def told(**changes: object) -> dict[str, str]:
    fd = pipe_with(json.dumps({**DOCUMENT, **changes}).encode())
    return {"HORA_BOOTSTRAP_FD": str(fd)}


def test_alone_without_a_launcher():
    found = detect({}, timeout=0)
    assert (found.rank, found.size, found.launcher) == (0, 1, "none")
    assert (found.rendezvous, found.listen_fd, len(found.key)) == ("", None, 32)
    assert detect({}, timeout=0) is found


def test_document_of_horarun():
    found = detect(told(), timeout=TIMEOUT_S)
    place = (0, 1, "hora-" + "0" * 32, bytes.fromhex(KEY), None, "horarun")
    assert found == Bootstrap(1, 4, 1, 4, *place, "0123456789abcdef")


def test_document_of_a_job_over_several_hosts():
    several = {"local_rank": 0, "local_size": 2, "cross_rank": 0, "cross_size": 2}
    where = {"rendezvous": "", "store": "10.0.0.1:4000", "interfaces": ["eth0", "10.0.0.0/24"]}
    found = detect(told(**several, **where), timeout=TIMEOUT_S)
    assert (found.rendezvous, found.store, found.listen_fd) == ("", "10.0.0.1:4000", None)
    assert found.interfaces == ("eth0", "10.0.0.0/24")


def test_the_key_is_not_in_core_dumps():
    """The kernel leaves out of them what has "dd" among the flags of its memory."""
    key = detect(told(), timeout=TIMEOUT_S).key
    assert key == bytes.fromhex(KEY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(key.obj))
    flags, inside = "", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line
    assert "dd" in flags.split()


def test_asking_again_needs_no_pipe():
    environ = told()
    first = detect(environ, timeout=TIMEOUT_S)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(int(environ["HORA_BOOTSTRAP_FD"]))
    assert detect(environ, timeout=0) is first


def test_children_do_not_inherit_the_listener():
    with socket.socket() as listener:
        listener.set_inheritable(True)
        found = detect(told(rank=0, local_rank=0, listen_fd=listener.fileno()), timeout=TIMEOUT_S)
        assert found.listen_fd == listener.fileno()
        assert not listener.get_inheritable()


def test_the_key_does_not_show():
    found = detect(told(), timeout=TIMEOUT_S)
    assert KEY not in repr(found)
    assert repr(found.key) not in repr(found)
    bootstrap._remembered.clear()  # the next pipe has the same number
    with pytest.raises(UsageError) as caught:
        detect(told(rank=4), timeout=TIMEOUT_S)
    error: BaseException | None = caught.value
    while error:
        assert KEY not in repr(error)
        error = error.__context__


@pytest.mark.parametrize("value", ["abc", "-1", "1e99", "", "2", "3.0", "٣", "9" * 5000])
def test_garbage_descriptor(value):
    with pytest.raises(UsageError, match="HORA_BOOTSTRAP_FD=") as caught:
        detect({"HORA_BOOTSTRAP_FD": value}, timeout=TIMEOUT_S)
    assert "whole number from 3 to 2147483647" in str(caught.value)


def test_descriptor_that_is_closed_or_no_pipe(tmp_path):
    with pytest.raises(UsageError, match="HORA_BOOTSTRAP_FD=987654 is not an open pipe"):
        detect({"HORA_BOOTSTRAP_FD": "987654"}, timeout=TIMEOUT_S)
    with (
        (tmp_path / "file").open("wb") as file,
        pytest.raises(UsageError, match="is not an open pipe"),
    ):
        detect({"HORA_BOOTSTRAP_FD": str(file.fileno())}, timeout=TIMEOUT_S)


def test_a_rank_that_lost_its_pipe_hears_what_to_unset():
    rest = {**TORCHRUN, "HORA_LAUNCHER": "horarun"}
    with pytest.raises(UsageError, match="HORA_BOOTSTRAP_FD is not set, although") as caught:
        detect(rest, timeout=0)
    for name in str(caught.value).partition("unset as well ")[2].split(", "):
        del rest[name]
    assert detect(rest, timeout=0).launcher == "none"


def test_pipe_that_another_process_has_read():
    with pytest.raises(UsageError, match="already read"):
        detect({"HORA_BOOTSTRAP_FD": str(pipe_with(b""))}, timeout=TIMEOUT_S)


def test_pipe_that_never_ends():
    read_end, write_end = os.pipe()
    os.write(write_end, b'{"version":')
    with pytest.raises(HoraError, match=r"did not end within 0\.05 s"):
        detect({"HORA_BOOTSTRAP_FD": str(read_end)}, timeout=0.05)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("content", [b"nonsense", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 9999])
def test_document_that_is_none(content):
    with pytest.raises(UsageError, match="not one this hora understands"):
        detect({"HORA_BOOTSTRAP_FD": str(pipe_with(content))}, timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1}, {"rank": 4}, {"rank": -1}, {"rank": "1"}, {"rank": True}, {"size": 0},
        {"size": 1 << 30}, {"local_rank": 4}, {"cross_rank": 1}, {"key": "ab"}, {"key": "zz" * 32},
        {"key": None}, {"rendezvous": 3}, {"listen_fd": "7"}, {"listen_fd": -1}, {"extra": 1},
        {"store": None}, {"store": "10.0.0.1:4000"}, {"interfaces": None}, {"interfaces": [3]},
    ],
)  # fmt: skip
def test_document_with_a_wrong_field(change):
    with pytest.raises(UsageError, match="not one this hora understands"):
        detect(told(**change), timeout=TIMEOUT_S)


def test_a_document_without_end_is_not_read_for_ever():
    read_end, write_end = os.pipe()
    writer = subprocess.Popen(["yes"], stdout=write_end)
    os.close(write_end)
    try:
        with pytest.raises(UsageError, match="over 65536 B"):
            detect({"HORA_BOOTSTRAP_FD": str(read_end)}, timeout=TIMEOUT_S)
    finally:
        os.close(read_end)
        writer.wait(TIMEOUT_S)


def test_torchrun_with_one_rank_needs_no_torch():
    found = detect(TORCHRUN, timeout=0)
    assert (found.rank, found.size, found.launcher) == (0, 1, "torchrun")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("RANK", "from 0 to 3"),
        ("WORLD_SIZE", "from 1 to"),
        ("LOCAL_RANK", "from 0 to 3"),
        ("LOCAL_WORLD_SIZE", "from 1 to 4"),
        ("MASTER_PORT", "from 1 to 65535"),
    ],
)
@pytest.mark.parametrize("value", ["abc", "-1", "1e99", "", "99999999999", "1.5", " "])
def test_garbage_in_torchruns_variables(name, allowed, value):
    environ = {**TORCHRUN, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", name: value}
    with pytest.raises(UsageError) as caught:
        detect(environ, timeout=0)
    assert f"{name}={value!r} is not a whole number {allowed}" in str(caught.value)


def test_rank_beyond_the_world():
    environ = {**TORCHRUN, "RANK": "2", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(UsageError, match="RANK='2' is not a whole number from 0 to 1"):
        detect(environ, timeout=0)


@pytest.mark.parametrize("name", TORCHRUN)
def test_one_of_torchruns_variables_missing(name):
    environ = {key: value for key, value in TORCHRUN.items() if key != name}
    with pytest.raises(UsageError, match=f"{name} not set although"):
        detect(environ, timeout=0)


def test_master_addr_alone_is_no_launcher():
    assert detect({"MASTER_ADDR": "a", "MASTER_PORT": "1"}, timeout=0).launcher == "none"


def test_empty_master_addr():
    with pytest.raises(UsageError, match="MASTER_ADDR=''"):
        detect({**TORCHRUN, "MASTER_ADDR": ""}, timeout=0)


RANK_SCRIPT = """
import json, os, socket, sys
from hora.bootstrap import detect
found = detect(timeout=60)
assert detect(timeout=0) is found
if "--group" in sys.argv:  # torch.distributed uses the same port
    import torch.distributed as dist
    dist.init_process_group("gloo")
    dist.barrier()
if found.rank == 0:
    listener = socket.socket(fileno=found.listen_fd)
    greetings = []
    for _ in range(found.size - 1):
        peer, _ = listener.accept()
        greetings.append(peer.recv(64, socket.MSG_WAITALL).decode())
    assert greetings == [found.key.hex()] * (found.size - 1)
else:
    assert found.listen_fd is None
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(chr(0) + found.rendezvous)
        peer.sendall(found.key.hex().encode())
store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
print(json.dumps(["met", found.rank, found.launcher, store]))
"""
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def run_ranks(tmp_path: Path, *launcher: str, **variables: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "rank.py"
    script.write_text(RANK_SCRIPT)
    root = str(Path(hora.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", *launcher[:-1], str(script), *launcher[-1:]],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@needs_torch
@pytest.mark.parametrize("agent_store", ["True", "False"])
def test_ranks_of_torchrun_meet(tmp_path, agent_store):
    # Without the agent's store, rank 0 hosts one.
    switch = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(agent_store == "False"))}
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=3", "--group")
    done = run_ranks(tmp_path, *launcher, **switch)
    assert done.returncode == 0, done.stderr
    for rank in range(3):
        assert f'["met", {rank}, "torchrun", "{agent_store}"]' in done.stdout


@needs_torch
@pytest.mark.parametrize("option", ["--alone", "--group"])
def test_ranks_of_horarun_meet(tmp_path, option):
    done = run_ranks(tmp_path, "hora.launch", "-np", "3", option)
    assert done.returncode == 0, done.stderr
    for rank in range(3):
        assert f'["met", {rank}, "horarun", null]' in done.stdout


@needs_torch
def test_a_peer_that_never_comes_is_named_in_time():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**TORCHRUN, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    environ.update(LOCAL_WORLD_SIZE="2", MASTER_PORT=str(port))
    with pytest.raises(
        HoraError, match=f"rank 1 of 2 could not meet .*127.0.0.1:{port} within 1 s"
    ):
        detect(environ, timeout=1)


@needs_torch
def test_a_store_that_torchrun_has_not_is_given_up_soon(monkeypatch):
    """It is there before the ranks are; a rank 0 that hosts it itself may be late."""
    monkeypatch.setattr(torchrun, "_AGENT_LIMIT_S", 0.1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environ = {**TORCHRUN, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
        environ.update(LOCAL_WORLD_SIZE="2", MASTER_PORT=str(probe.getsockname()[1]))
        environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        begun = time.monotonic()
        with pytest.raises(HoraError, match=r"Connection refused.*is torchrun running there"):
            detect(environ, timeout=60)
    assert time.monotonic() - begun < 50


def timed_out(*_: object, **__: object) -> None:
    raise TimeoutError("timed out")


def test_a_store_that_is_slow_is_not_given_up(monkeypatch):
    """But for the job's own limit, or where a rank beside this one knows better."""
    monkeypatch.setattr(torchrun, "_AGENT_LIMIT_S", 0.0)
    monkeypatch.setattr(socket, "create_connection", timed_out)
    said = iter(("", "", "no disk"))
    with pytest.raises(ToldError, match="no disk"):
        torchrun._await_listener("h", 1, 60, True, lambda: next(said))
    with pytest.raises(RuntimeError, match="timed out"):
        torchrun._await_listener("h", 1, 0.2, True, str)
