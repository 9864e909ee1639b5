"""The digits example over network namespaces: every rank ends with the same, right bits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hosts import Hosts, why_impossible

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("hora._core")
if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

DEADLINE_S = 110
GLOO = Path(sys.modules["hora._core"].__file__ or "").with_name("hora_gloo.so")
EXAMPLE = Path(__file__).parents[3] / "examples" / "02_mnist_mlp.py"

TRAIN = """
import argparse, importlib.util, sys
import torch
import hora.torch as hvd
spec = importlib.util.spec_from_file_location("digits", sys.argv[1])
digits = sys.modules["digits"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits)
torch.set_num_threads(1)
hvd.init()
arguments = argparse.Namespace(epochs=2, batch_size=64, lr=0.05, momentum=0.9, seed=1)
together = digits.train_together(arguments)
parameters = [parameter.detach() for parameter in together.model.parameters()]
torch.save(parameters, f"{sys.argv[2]}/rank{hvd.rank()}.pt")
if hvd.rank() == 0:
    alone = digits.train_alone(arguments)
    torch.save([p.detach() for p in alone.model.parameters()], f"{sys.argv[2]}/alone.pt")
"""


@pytest.mark.parametrize(
    ("hosts", "options"),
    [
        ("h1:2,h2:2", ()),
        ("h1:2,h2:1", ()),
        ("h1:2,h2:2", ("-x", "HORA_DATA_PLANE=auth")),
        ("h1:1,h2:1,h3:1,h4:1", ()),
        ("h1:2,h2:2", ("--backend", "gloo")),
        ("h1:1,h2:2", ("--backend", "flat-tcp")),
    ],
    ids=["two hosts", "unequal hosts", "authenticated", "four hosts", "gloo", "flat"],
)
def test_every_rank_ends_with_the_same_right_bits(tmp_path, hosts, options):
    if "gloo" in options and not GLOO.exists():
        pytest.skip("the Gloo plugin is not built (Debian: libgloo-dev)")
    size = sum(int(host.split(":")[1]) for host in hosts.split(","))
    with Hosts(len(hosts.split(",")), tmp_path) as network:
        words = ("-H", hosts, *options, "-x", "OMP_NUM_THREADS=1", "--")
        program = (sys.executable, "-c", TRAIN, str(EXAMPLE), str(tmp_path))
        code, out, err = network.run("h1", network.horarun(*words, *program), DEADLINE_S)
    assert code == 0, out + err
    first = torch.load(tmp_path / "rank0.pt")
    for rank in range(1, size):
        other = torch.load(tmp_path / f"rank{rank}.pt")
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, other, strict=True))
    alone = torch.load(tmp_path / "alone.pt")
    for ours, theirs in zip(first, alone, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5
