"""What happens to symmetric memory when ranks die or leave: real jobs of horarun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

DEADLINE_S = 60  # for a whole job, start-up of torch included

REDUCE_FOREVER = """
import os, sys
import torch
import hora.torch as hvd
hvd.init()
shared = hvd.symmetric_empty(4_000_000)
hvd.allreduce_(shared, op=hvd.Max, name="first")
assert hvd.metrics()["in_place_bytes"] == shared.nbytes
ready = os.path.join({directory!r}, f"pid.{{hvd.rank()}}")
with open(ready + ".tmp", "w") as out:
    out.write(str(os.getpid()))
os.rename(ready + ".tmp", ready)
try:
    while True:
        hvd.allreduce_(shared, op=hvd.Max)
except hvd.PeerFailedError as error:
    assert shared.eq(0).all()  # still there
    with open(os.path.join({directory!r}, f"error.{{hvd.rank()}}"), "w") as out:
        out.write(str(error))
    sys.exit(3)
"""

TWO_JOBS = """
import torch
import hora.torch as hvd
kept = []
for job in range(3):
    hvd.init()
    for old in kept:  # memory of another job is ordinary memory
        old.fill_(hvd.rank())
        assert hvd.allreduce_(old, op=hvd.Sum).eq(sum(range(hvd.size()))).all()
    assert hvd.metrics()["in_place_bytes"] == 0
    shared = hvd.symmetric_empty(10_000)
    assert shared.eq(0).all()
    assert hvd.allreduce_(shared.fill_(1.0), op=hvd.Sum).eq(hvd.size()).all()
    assert hvd.metrics()["in_place_bytes"] == shared.nbytes
    hvd.shutdown()
    assert shared.add_(1).eq(3).all()
    kept.append(shared)
print("done", flush=True)
"""


def start(script: str, ranks: int) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "hora.launch", "-np", str(ranks), "--"]
    return subprocess.Popen(
        [*launcher, sys.executable, "-c", script],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, job: subprocess.Popen[str]) -> str:
    """The file's text, once it is there; fails when the job ends or the deadline passes before."""
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert job.poll() is None, job.stdout.read() if job.stdout else ""
        assert time.monotonic() < deadline, f"{path.name} never appeared"
        time.sleep(0.005)
    return path.read_text()


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_killed_while_it_reduces_in_place_is_named(ranks: int, tmp_path: Path) -> None:
    job = start(REDUCE_FOREVER.format(directory=str(tmp_path)), ranks)
    try:
        pids = [int(wait_for(tmp_path / f"pid.{rank}", job)) for rank in range(ranks)]
        os.kill(pids[1], signal.SIGKILL)
        output, _ = job.communicate(timeout=DEADLINE_S)
    finally:
        job.kill()
    assert job.returncode != 0
    for rank in range(ranks):
        if rank != 1:
            assert "rank 1" in (tmp_path / f"error.{rank}").read_text(), output


def test_memory_outlives_its_job_as_ordinary_memory() -> None:
    job = start(TWO_JOBS, 2)
    try:
        output, _ = job.communicate(timeout=DEADLINE_S)
    finally:
        job.kill()
    assert job.returncode == 0, output
    assert output.count("done") == 2
