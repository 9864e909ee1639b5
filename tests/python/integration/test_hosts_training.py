"""The digits example over network namespaces: every rank ends with the same, right bits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts, why_impossible

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("hora._core")
if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

from digits import check_training, training_words

DEADLINE_S = 110
GLOO = Path(sys.modules["hora._core"].__file__ or "").with_name("hora_gloo.so")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(4, tmp_path_factory.mktemp("four")) as hosts:
        yield hosts


@pytest.mark.parametrize(
    ("hosts", "ways"),
    [
        ("h1:2,h2:2", ["tcp", "tcp/auth", "gloo", "flat-tcp"]),
        ("h1:2,h2:1", ["tcp", "flat-tcp/auth"]),
        ("h1:1,h2:1,h3:1,h4:1", ["tcp", "gloo"]),
    ],
    ids=["two hosts", "unequal hosts", "four hosts"],
)
def test_every_rank_ends_with_the_same_right_bits(four, tmp_path, hosts, ways):
    if not GLOO.exists():  # Debian: libgloo-dev
        ways = [way for way in ways if way != "gloo"]
    words = ("-H", hosts, "-x", "OMP_NUM_THREADS=1", "--")
    launcher = four.horarun(*words, *training_words(tmp_path, *ways))
    code, out, err = four.run("h1", launcher, DEADLINE_S)
    assert code == 0, out + err
    check_training(tmp_path, sum(int(host.split(":")[1]) for host in hosts.split(",")), *ways)
