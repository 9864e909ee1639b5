"""A running job among strangers: it stays exact and in time, and keeps its secrets."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import packets
import pytest
import stranger
from hosts import Hosts, why_impossible

pytest.importorskip("torch")
if not hasattr(pytest.importorskip("hora._core"), "StoreServer"):
    pytest.skip("this core cannot run over several hosts", allow_module_level=True)
if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

DEADLINE_S = 60.0
ATTACK_S = 6.0
RANKS = 4
SSH_PORT = 2222
PATTERN = b"the quick brown fox of this job jumps over the lazy network. "

# Sums of small whole numbers are exact in any order. New sets make new connections meanwhile.
CHECK = """
import os, sys, time
import torch
import hora.torch as hvd
from hora import bootstrap
folder, pattern = sys.argv[1], sys.argv[2].encode()
hvd.init()
rank, size = hvd.rank(), hvd.size()
def tell(what, text):
    path = f"{folder}/{what}.{rank}"
    with open(path + ".tmp", "w", opener=lambda p, f: os.open(p, f, 0o600)) as out:
        out.write(text)
    os.rename(path + ".tmp", path)
tell("key", bootstrap.detect(os.environ, timeout=5).key.hex())
sent = torch.tensor(list(pattern * 40), dtype=torch.uint8)
steps = wrong = 0
slowest = 0.0
bases = [torch.arange(n) * 7 % 1000 for n in (1, 1000, 300_000)]
while True:
    begun = time.monotonic()
    for base in bases:
        mine = ((base + 13 * steps) * (rank + 1)).float()
        right = (base + 13 * steps).float() * (size * (size + 1) // 2)
        wrong += not torch.equal(hvd.allreduce(mine, op=hvd.Sum, name=str(len(base))), right)
    heard = hvd.broadcast(sent if rank == 0 else torch.zeros_like(sent), 0, name="pattern")
    wrong += not torch.equal(heard, sent)
    if steps % 5 == 0:
        ends = hvd.add_process_set([0, size - 1])
        if rank in (0, size - 1):
            alone = hvd.allreduce(torch.ones(9), op=hvd.Sum, name="ends", process_set=ends)
            wrong += not torch.equal(alone, torch.full((9,), 2.0))
        hvd.remove_process_set(ends)
    steps += 1
    slowest = max(slowest, time.monotonic() - begun)
    if steps % 5 == 0:
        tell("steps", str(steps))
    stop = torch.tensor([float(os.path.exists(f"{folder}/stop"))])
    if hvd.allreduce(stop, op=hvd.Max, name="stop").item():
        break
tell("result", f"{steps} {wrong} {slowest}")
"""


@pytest.fixture
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The job is on h1 and h2; the stranger on h3, and on a second network with h1."""
    with Hosts(3, tmp_path_factory.mktemp("three")) as hosts:
        ours, theirs = (hosts.namespace(name) for name in ("h1", "h3"))
        ip = ["ip", "-n", ours]
        peer = ["type", "veth", "peer", "name", "eth1", "netns", theirs]
        subprocess.run([*ip, "link", "add", "eth1", *peer], check=True)
        for namespace, number in ((ours, 1), (theirs, 3)):
            ip = ["ip", "-n", namespace]
            subprocess.run([*ip, "addr", "add", f"10.78.0.{number}/24", "dev", "eth1"], check=True)
            subprocess.run([*ip, "link", "set", "eth1", "up"], check=True)
        yield hosts


class Job:
    """A job over h1 and h2 that checks all it receives, and what h1's network saw of it."""

    def __init__(self, hosts: Hosts, folder: Path, bytes_per_stream: int, *options: str) -> None:
        self.hosts = hosts
        self.folder = folder
        self._recording = folder / "recording"
        words = [sys.executable, packets.__file__, str(self._recording), str(bytes_per_stream)]
        self._recorder = hosts.start("h1", words)
        assert self._recorder.stdout
        assert self._recorder.stdout.readline() == "recording\n"
        words = ["-H", "h1:2,h2:2", "-x", "OMP_NUM_THREADS=1", *options, "--"]
        words += [sys.executable, "-c", CHECK, str(folder), PATTERN.decode()]
        self.process = hosts.start("h1", hosts.horarun(*words))

    def wait_for_steps(self, count: int) -> None:
        def done() -> bool:
            files = [self.folder / f"steps.{rank}" for rank in range(RANKS)]
            return all(file.exists() and int(file.read_text()) >= count for file in files)

        wait_until(lambda: done() or self.process.poll() is not None, f"{count} steps")
        assert self.process.poll() is None, self.process.communicate()

    def steps(self) -> int:
        return int((self.folder / "steps.0").read_text())

    def listeners(self) -> list[str]:
        """Every address that the job listens on, on both hosts."""
        found = []
        for name in ("h1", "h2"):
            _, text, _ = self.hosts.run(name, ["cat", "/proc/net/tcp", "/proc/net/tcp6"])
            rows = [line.split() for line in text.splitlines()]
            for row in (row for row in rows if len(row) > 3 and row[3] == "0A"):
                address, _, port = row[1].rpartition(":")
                if int(port, 16) == SSH_PORT:
                    continue
                assert len(address) == 8, f"{name} listens on IPv6: {row[1]}"
                dotted = ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
                assert dotted == self.hosts.address(name), f"{name} listens on {dotted}"
                found.append(f"{dotted}:{int(port, 16)}")
        return found

    def recorded(self) -> dict[packets.Endpoints, bytes]:
        """What was on the wire; the recording ends."""
        if self._recorder.poll() is None:
            for pid in self.hosts.processes("h1"):
                if packets.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGTERM)
            out, err = self._recorder.communicate(timeout=DEADLINE_S)
            assert self._recorder.returncode == 0, out + err
        return packets.read(self._recording)

    def finish(self) -> tuple[str, list[str]]:
        """Ends the job in order: its output, and "steps wrong slowest" of each rank."""
        (self.folder / "stop").touch()
        out, err = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, out + err
        return out + err, [(self.folder / f"result.{rank}").read_text() for rank in range(RANKS)]

    def close(self) -> None:
        for process in (self.process, self._recorder):
            process.kill()
            process.communicate()


@pytest.fixture
def start(three: Hosts, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def start(bytes_per_stream: int, *options: str) -> Job:
        jobs.append(Job(three, tmp_path, bytes_per_stream, *options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.close()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def memory_kib(hosts: Hosts) -> dict[int, int]:
    """The resident memory of every process of the job."""
    found = {}
    for pid in [*hosts.processes("h1"), *hosts.processes("h2")]:
        if size := re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()):
            found[pid] = int(size[1])
    return found


def run_on(hosts: Hosts, code: str, *arguments: str) -> str:
    status, out, err = hosts.run("h3", [sys.executable, "-c", code, *arguments])
    assert status == 0, err
    return out.strip()


CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
    print("connected")
except ConnectionRefusedError:
    print("refused")
"""


@pytest.mark.parametrize("options", [(), ("-x", "HORA_DATA_PLANE=auth")], ids=["tls", "auth"])
def test_strangers_change_nothing(three, start, tmp_path, record_property, options):
    job = start(8 << 10, *options)
    job.wait_for_steps(5)
    targets = job.listeners()
    assert len(targets) >= 1 + RANKS, targets  # the store's, and each rank's
    said = [content for (_, to), content in job.recorded().items() if to in targets]
    hellos = [content for content in said if len(content) > stranger.HELLO_BYTES]
    assert len(hellos) >= RANKS
    plan = tmp_path / "plan"
    recorded = [content.hex() for content in sorted(hellos, key=len)[:: len(hellos) // 4 or 1]]
    plan.write_text(
        json.dumps(
            {
                "source": three.address("h3"),
                "targets": targets,
                "seconds": ATTACK_S,
                "recorded": recorded,
            }
        )
    )
    before, steps = memory_kib(three), job.steps()
    words = [sys.executable, stranger.__file__, str(plan)]
    code, out, err = three.run("h3", words, limit_s=DEADLINE_S)
    assert code == 0, err
    attacks = json.loads(out)
    during, after = job.steps() - steps, memory_kib(three)
    job.wait_for_steps(job.steps() + 5)  # and it goes on
    output, results = job.finish()
    print(attacks, during, results, {pid: after[pid] - before[pid] for pid in before})
    record_property("attacks", attacks)
    record_property("steps wrong slowest", results)
    assert during > 0
    for result in results:
        _, wrong, slowest = result.split()
        assert wrong == "0"
        assert float(slowest) < 5.0
    assert all(after[pid] - before[pid] < 200 << 10 for pid in before)
    assert "Traceback" not in output
    assert len(output) < 100_000  # strangers do not fill the disk with log lines


def test_only_the_chosen_interface_answers(three, start):
    job = start(1)
    job.wait_for_steps(5)
    on_h1 = [one.split(":") for one in job.listeners() if one.startswith(three.address("h1"))]
    for address, port in on_h1:
        assert run_on(three, CONNECT, address, port) == "connected"
        assert run_on(three, CONNECT, "10.78.0.1", port) == "refused"
        _, out, _ = three.run("h1", [sys.executable, "-c", CONNECT, "127.0.0.1", port])
        assert out.strip() == "refused"
    _, results = job.finish()
    assert all(result.split()[1] == "0" for result in results)


def forms_of(key: bytes) -> tuple[bytes, ...]:
    return (key, key.hex().encode(), key.hex().upper().encode(), base64.b64encode(key)[:-2])


@pytest.mark.parametrize("plane", ["tls", "auth"])
def test_secrets_stay_inside(three, start, tmp_path, plane):
    logs = tmp_path / "logs"
    settings = ("-x", f"HORA_DATA_PLANE={plane}", "-x", "HORA_LOG_LEVEL=debug")
    job = start(4 << 20, *settings, "-x", f"TMPDIR={tmp_path}", "--output-dir", str(logs))
    job.wait_for_steps(5)
    key = bytes.fromhex((tmp_path / "key.0").read_text())
    forms = forms_of(key)

    def leaks(content: bytes) -> bool:
        return any(form in content for form in forms)

    for pid in filter(str.isdigit, os.listdir("/proc")):
        for file in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{pid}/{file}").read_bytes()
            except OSError:  # it has ended
                continue
            assert not leaks(content), f"{pid} {file}"
    wire = job.recorded()
    output, results = job.finish()
    assert all(result.split()[1] == "0" for result in results)
    assert not leaks(output.encode())
    readable = [*logs.rglob("*"), *Path("/dev/shm").glob("hora*"), *tmp_path.iterdir()]
    for path in filter(Path.is_file, readable):
        if path.is_relative_to(logs) or path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            assert not leaks(path.read_bytes()), path
    assert sum(map(len, wire.values())) > 1 << 20
    between = "".join(f"{source} {to}\n" for source, to in wire)
    assert not any(leaks(content) for content in wire.values()), between
    seen = any(PATTERN in content for content in wire.values())
    assert seen == (plane == "auth"), between
