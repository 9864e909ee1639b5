"""``hora test`` on real ranks, for a few seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from hosts import Hosts, why_impossible

pytest.importorskip("torch")

DEADLINE_S = 90
TEST = [sys.executable, "-m", "hora.cli", "test", "-np", "2", "--seconds", "2"]
MEMBERS = 2


def run(*words, **variables):
    return subprocess.run(
        [*TEST, *words],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_every_part_passes():
    done = run("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] and (report["ranks"], report["hosts"]) == (2, 1)
    assert {part["state"] for part in report["parts"].values()} == {"passed"}, report["parts"]
    assert {"allreduce", "process sets", "join", "optimizer", "a dying rank", "speed"} <= set(
        report["parts"]
    )
    assert all(value > 0 for value in report["figures"].values())


def test_a_setting_without_sense_fails_before_any_rank_starts():
    done = run(HORA_WINDOW_BYTES="many")
    assert done.returncode == 1
    assert "HORA_WINDOW_BYTES" in done.stdout and "'many'" in done.stdout
    assert "FAILED: installation" in done.stdout


def test_ranks_that_cannot_meet_fail_with_the_reason(tmp_path):
    # What this process finds in order, the ranks do not: their torch is another.
    (tmp_path / "torch.py").write_text("raise ImportError('no torch for ranks')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("-x", f"PYTHONPATH={path}")
    assert done.returncode == 1
    assert "FAILED   start" in done.stdout and "no torch for ranks" in done.stdout


def test_a_mistake_in_an_option_is_explained():
    done = run("--bakend", "gloo")
    assert done.returncode == 2
    assert "did you mean --backend?" in done.stderr


@pytest.mark.skipif(bool(why_impossible()), reason=why_impossible() or "possible")
def test_over_two_hosts(tmp_path):
    with Hosts(2, tmp_path) as hosts:
        flags = hosts.horarun()[3:]  # after python -m hora.launch
        words = [sys.executable, "-m", "hora.cli", "test", "--seconds", "2", "--json", *flags]
        code, out, err = hosts.run("h1", [*words, "-H", "h1:1,h2:1"], limit_s=DEADLINE_S)
    assert code == 0, out + err
    report = json.loads(out)
    assert (report["ranks"], report["hosts"]) == (2, 2)
    assert report["parts"]["a dying rank"]["state"] == "passed"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process(signum):
    words = [*TEST[:-1], "1000"]
    test = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    family: list[psutil.Process] = []
    try:
        assert "installation" in test.stdout.readline()
        assert "2 ranks" in test.stdout.readline()
        family = psutil.Process(test.pid).children(recursive=True)
        assert len(family) >= MEMBERS
        test.send_signal(signum)
        assert test.wait(timeout=DEADLINE_S) == 128 + signum
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
    finally:
        test.kill()
        test.wait()
        test.stdout.close()
