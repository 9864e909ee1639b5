"""``hora bench`` and the driver of benchmarks/peers, on real ranks, for a few seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch")

DEADLINE_S = 90
RUN = Path(__file__).resolve().parents[3] / "benchmarks" / "peers" / "run.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def test_bench_measures_and_checks_every_collective(tmp_path):
    target = tmp_path / "figures.jsonl"
    words = ["all", "-np", "2", "-b", "8", "-e", "8K", "-f", "1024", "-n", "2", "--peers", "gloo"]
    done = subprocess.run(
        [sys.executable, "-m", "hora.cli", "bench", *words, "--json", str(target)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(records) == 5 * 2 * 2  # collectives, sizes, libraries
    assert {record["library"] for record in records} == {"hora", "gloo"}
    figures = [r[form] for r in records for form in ("in_place", "out_of_place") if form in r]
    assert all(f["wrong"] == 0 and f["time_us"] > 0 for f in figures)
    assert "# Out of bounds values : 0 OK" in done.stdout


def test_the_peers_driver_measures_hora_alone(tmp_path):
    target = tmp_path / "run.jsonl"
    words = ["--section", "sizes", "--ranks", "2", "--sizes", "4,64K", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, str(RUN), *words, "--peers", "hora", "--output", str(target)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in target.read_text().splitlines()]
    measured = [(r["bytes"], r["mode"]) for r in records if r.get("peer") == "hora"]
    assert measured == [(4, "default"), (4, "zero"), (65536, "default"), (65536, "zero")]
    assert all(r["wrong"] == 0 for r in records if r.get("peer") == "hora")
    assert "| P2 | 4 B, Python, by name |" in (tmp_path / "goals.md").read_text()


def test_an_interrupt_leaves_no_process():
    words = ["--section", "sizes", "--ranks", "2", "--rounds", "1000", "--peers", "hora"]
    run = subprocess.Popen(
        [sys.executable, str(RUN), *words], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    family: list[psutil.Process] = []
    try:
        parent = psutil.Process(run.pid)
        while len(family) < 3:  # the launcher and two ranks; the test's own timeout bounds this
            family = parent.children(recursive=True)
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 130
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
    finally:
        run.kill()
        run.wait()
