"""What survivors see when a rank dies, leaves, raises or never comes: real jobs of horarun."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("hora._core")

from bare import BARE, TORCH

DEADLINE_S = 60  # for a whole job, start-up of torch included

# Follows BARE or TORCH.
TRAIN_FOREVER = """
import os, sys, time
hvd.init()
ready = os.path.join({directory!r}, f"pid.{{hvd.rank()}}")
with open(ready + ".tmp", "w") as out:
    out.write(str(os.getpid()))
os.rename(ready + ".tmp", ready)
tensors = [ones(size) for size in (1, 1000, 300_000)]
try:
    while True:
        for handle in [hvd.allreduce_async_(t, name=str(len(t)), op=hvd.Max) for t in tensors]:
            hvd.synchronize(handle)
except hvd.PeerFailedError as error:
    with open(os.path.join({directory!r}, f"error.{{hvd.rank()}}"), "w") as out:
        out.write(f"{{time.monotonic()}} {{error}}")
    sys.exit(3)
"""


def start(script: str, ranks: int, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "hora.launch",
        "-np",
        str(ranks),
        *options,
        "--",
        sys.executable,
        "-c",
        script,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )


def wait_for(path: Path, job: subprocess.Popen[str]) -> str:
    """The file's text, once it is there; fails when the job ends or the deadline passes before."""
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert job.poll() is None, job.stdout.read() if job.stdout else ""
        assert time.monotonic() < deadline, f"{path.name} never appeared"
        time.sleep(0.005)
    return path.read_text()


def run(script: str, ranks: int, *options: str) -> tuple[int, str]:
    job = start(script, ranks, *options)
    try:
        output, _ = job.communicate(timeout=DEADLINE_S)
    finally:
        job.kill()
    return job.returncode, output


@pytest.mark.parametrize("attempt", range(16))
def test_killed_rank_is_named_by_every_survivor(attempt: int, tmp_path: Path) -> None:
    """kill -9 of a random rank at a random moment."""
    chance = random.Random(attempt)
    ranks = 2 + attempt % 3
    victim = chance.randrange(ranks)
    job = start(BARE + TRAIN_FOREVER.format(directory=str(tmp_path)), ranks)
    pids = [int(wait_for(tmp_path / f"pid.{rank}", job)) for rank in range(ranks)]
    # What has no name there cannot be left there.
    assert not [pid for pid in pids if "/dev/shm/" in Path(f"/proc/{pid}/maps").read_text()]
    time.sleep(chance.random() * 0.2)  # the random moment
    killed_at = time.monotonic()
    os.kill(pids[victim], signal.SIGKILL)
    output, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 128 + signal.SIGKILL, output
    assert "SIGKILL" in output
    for rank in set(range(ranks)) - {victim}:
        raised_at, _, message = (tmp_path / f"error.{rank}").read_text().partition(" ")
        assert re.search(rf"\brank {victim}\b", message), message
        assert str(pids[victim]) in message
        assert float(raised_at) - killed_at < 1.0, f"rank {rank} took too long"
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_exception_of_one_rank_reaches_the_others() -> None:
    code, output = run(
        "import torch, hora.torch as hvd\n"
        "hvd.init()\n"
        "if hvd.rank() == 1: raise ValueError('no data on this rank')\n"
        "hvd.allreduce(torch.ones(1), name='x')\n",
        2,
    )
    assert code != 0
    assert re.search(r"\[0\].*PeerFailedError.*rank 1.*ValueError.*no data on this rank", output), (
        output
    )


def test_rank_that_exits_cleanly_is_named_by_those_that_need_it() -> None:
    code, output = run(
        BARE + "hvd.init()\nif hvd.rank() == 0: hvd.allreduce_(ones(1), name='x')\n",
        2,
    )
    assert code != 0
    assert re.search(r"\[0\].*ShutDownError.*rank 1", output), output


def test_a_rank_without_its_pipe_is_told_to_all() -> None:
    """Alone it would be a job of one; with what torchrun sets as well, it would wait in vain."""
    code, output = run(
        BARE + "import os, time\n"
        "if os.environ['RANK'] == '1': del os.environ['HORA_BOOTSTRAP_FD']\n"
        "begun = time.monotonic()\n"
        "try: hvd.init()\n"
        "except hvd.HoraError as error:\n"
        "    print('after', time.monotonic() - begun, error, flush=True)\n"
        "    raise SystemExit(3)\n",
        3,
    )
    assert code == 3
    assert re.search(r"\[1\].*HORA_BOOTSTRAP_FD is not set, although horarun", output), output
    told = r"rank 1 on \S+ ended before all ranks had met \(exit code 3\)"
    # Who comes when rank 0 has heard it and has ended is told that.
    for rank in (0, 2):
        assert re.search(rf"\[{rank}\] after .*({told}|rank 0 .*has ended)", output), output
    assert max(float(seconds) for seconds in re.findall(r"after (\S+)", output)) < 5, output


def test_stall_is_reported_by_every_rank_and_ends() -> None:
    code, output = run(
        BARE + "import time\n"
        "hvd.init()\n"
        "if hvd.rank() == 2: time.sleep(2)  # busy elsewhere\n"
        "else: hvd.allreduce_(ones(1), name='lost')\n"
        "hvd.allreduce_(ones(1), name='late')\n",
        3,
        "--stall-warning=0.3",
        "--stall-abort=1.2",
    )
    assert code != 0
    for rank in range(3):
        assert re.search(rf"rank {rank}\] warning.*'lost'.*missing on rank 2", output), output
        assert re.search(rf"\[{rank}\].*StallError.*rank 2 never submitted.*'lost'", output), output


def test_data_loader_workers_do_not_hide_a_death(tmp_path: Path) -> None:
    """A forked child that outlives its parent must not keep the parent's connection open."""
    script = TRAIN_FOREVER.replace(
        "tensors = [",
        "child = os.fork() if hvd.rank() == 1 else 1\n"
        "if child == 0:\n"
        "    time.sleep(20)\n"
        "    os._exit(0)\n"
        "tensors = [",
    )
    job = start(TORCH + script.format(directory=str(tmp_path)), 2)
    pids = [int(wait_for(tmp_path / f"pid.{rank}", job)) for rank in range(2)]
    time.sleep(0.3)  # the random moment
    os.kill(pids[1], signal.SIGKILL)
    output, _ = job.communicate(timeout=DEADLINE_S)
    assert "rank 1" in (tmp_path / "error.0").read_text(), output


def test_forked_child_is_told_that_it_cannot_use_hora() -> None:
    code, output = run(
        BARE + "import os\n"
        "hvd.init()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: hvd.allreduce_(ones(1), name='x')\n"
        "    except hvd.NotInitializedError as error: print('child:', error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "assert hvd.allreduce_(ones(1), name='x').tolist() == [2]\n",
        2,
    )
    assert code == 0, output
    assert re.search(r"child:.*forked", output), output


def test_idle_ranks_cost_nothing() -> None:
    """At most 0.5 % of a core each over two seconds, after some work."""
    code, output = run(
        BARE + "import time\n"
        "hvd.init()\n"
        "for _ in range(100): hvd.allreduce_(ones(10), name='x')\n"
        "before = time.process_time()\n"
        "time.sleep(2)\n"
        "print('used', time.process_time() - before, flush=True)\n"
        "hvd.allreduce_(ones(1), name='end')\n",
        2,
    )
    assert code == 0, output
    used = [float(seconds) for seconds in re.findall(r"used ([0-9.e-]+)", output)]
    assert len(used) == 2
    assert max(used) <= 0.005 * 2, used
