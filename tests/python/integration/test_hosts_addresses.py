"""Jobs over IPv6 addresses that hold on one link only (fe80::…%eth0)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest
from bare import BARE
from hosts import Hosts, why_impossible

if not hasattr(pytest.importorskip("hora._core"), "StoreServer"):
    pytest.skip("this core cannot run over several hosts", allow_module_level=True)
if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

DEADLINE_S = 60.0
_SUM = (
    BARE
    + """
hvd.init()
print("sum", hvd.allreduce_(hvd.full(1000, hvd.rank() + 1.0), name="x", op=hvd.Sum).tolist()[0])
"""
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(2, tmp_path_factory.mktemp("two")) as hosts:
        yield hosts


def test_one_launcher_on_each_host_may_use_them(two, tmp_path):
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("7b" * 32)
    common = ("--nproc-per-node=2", "--nnodes=2", "--secret-file", str(secret))
    common = (*common, "--master-addr", two.link_local("h1"))
    words = [
        two.horarun(*common, f"--node-rank={node}", "--", sys.executable, "-c", _SUM)
        for node in range(2)
    ]
    second = two.start("h2", words[1])
    try:
        code, out, err = two.run("h1", words[0], DEADLINE_S)
        second_out, second_err = second.communicate(timeout=DEADLINE_S)
    finally:
        second.kill()
    assert (code, second.returncode) == (0, 0), err + second_err
    assert re.search(r"the store listens on \[fe80::\S+%eth0\]:29500", err), err
    assert (out + second_out).count("sum 10.0") == 4


def test_a_launcher_of_all_hosts_refuses_them(two):
    words = ("-H", "h1:1,h2:1", "--network-interfaces", "fe80::/10")
    code, _, err = two.run("h1", two.horarun(*words, "true"), DEADLINE_S)
    assert code == 126, err
    assert re.search(r"the way to h2 is link-local \(fe80::\S+%eth0\)", err), err
