"""Ranks that torchrun starts, on this host and on two."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hosts import Hosts, why_impossible
from ranks import check_ranks, rank_words

pytest.importorskip("torch")
pytest.importorskip("hora._core")

DEADLINE_S = 100
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--no-python")


def test_ranks_of_torchrun_meet(tmp_path):
    words = [*TORCHRUN, "--standalone", "--nproc-per-node", "4", *rank_words(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_ranks(tmp_path, [4], "torchrun")


@pytest.mark.parametrize("secret", [False, True], ids=["key through the store", "secret file"])
@pytest.mark.skipif(bool(why_impossible()), reason=why_impossible() or "hosts can be made")
def test_ranks_of_two_torchruns_meet(tmp_path, secret):
    env = {"OMP_NUM_THREADS": "1"}
    if secret:
        file = tmp_path / "secret"
        file.touch(0o600)
        file.write_text(os.urandom(32).hex())
        env["HORA_SECRET_FILE"] = str(file)
    with Hosts(2, tmp_path) as network:
        common = (*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "2", "--master-port", "29500")
        node = [
            (*common, "--master-addr", network.address("h1"), "--node-rank", str(rank))
            for rank in range(2)
        ]
        second = network.start("h2", [*node[1], *rank_words(tmp_path)], env)
        try:
            code, out, err = network.run("h1", [*node[0], *rank_words(tmp_path)], DEADLINE_S, env)
            _, second_err = second.communicate(timeout=DEADLINE_S)
        finally:
            second.kill()
    assert (code, second.returncode) == (0, 0), out + err + second_err
    check_ranks(tmp_path, [2, 2], "torchrun")
