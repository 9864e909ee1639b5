"""The tests that every rank runs, here by the ranks of two hosts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hosts import Hosts, why_impossible

pytest.importorskip("torch")
if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

DEADLINE_S = 110
PARALLEL = Path(__file__).parents[1] / "parallel"
BRIEF = ("operations", "exchanges")
FILES = (*BRIEF, "process_sets", "optimizer", "adasum")


@pytest.mark.parametrize(("hosts", "names"), [("h1:1,h2:1", BRIEF), ("h1:2,h2:2", FILES)])
def test_the_whole_api_over_hosts(tmp_path, hosts, names):
    files = [str(PARALLEL / f"test_parallel_{name}.py") for name in names]
    with Hosts(2, tmp_path) as network:
        words = ("-H", hosts, "-x", "OMP_NUM_THREADS=1", "--output-dir", str(tmp_path / "out"))
        # The sum of a host is rounded before it meets the others'.
        program = (
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "-k", "not 16_bit_sums", *files,
        )  # fmt: skip
        code, out, err = network.run("h1", network.horarun(*words, "--", *program), DEADLINE_S)
    assert code == 0, out[-4000:] + err[-4000:]
