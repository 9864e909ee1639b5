"""The digits example as the ranks of a test run it, and what must come out of it.

Every rank runs ``training_words(folder, "tcp", "gloo")``: a training over each of these. Then
``check_training(folder, ranks, "tcp", "gloo")`` compares what they have left in the folder.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy
import torch

EXAMPLE = Path(__file__).parents[3] / "examples" / "02_mnist_mlp.py"
TOLERANCE = 1e-5
_SETTINGS = {"epochs": 2, "batch_size": 64, "lr": 0.05, "momentum": 0.9, "seed": 1}

# argv: example, folder, and over what to train, one after the other. The digits come from a file:
# importing scikit-learn takes longer than to train.
_PROGRAM = f"""
import argparse, importlib.util, os, sys, types
import numpy, torch
import hora.torch as hvd
example, folder, *ways = sys.argv[1:]
stored = numpy.load(f"{{folder}}/digits.npz")
made_up = types.SimpleNamespace(load_digits=lambda: types.SimpleNamespace(**stored))
sys.modules["sklearn"] = sys.modules["sklearn.datasets"] = made_up
spec = importlib.util.spec_from_file_location("digits", example)
digits = sys.modules["digits"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits)
del sys.modules["sklearn"], sys.modules["sklearn.datasets"]
torch.set_num_threads(1)
for way in ways:
    os.environ["HORA_BACKEND"], _, plane = way.partition("/")
    if plane or "tcp" in way:  # libraries have no protection of their own
        os.environ["HORA_DATA_PLANE"] = plane or "tls"
    else:
        os.environ.pop("HORA_DATA_PLANE", None)
    hvd.init()
    together = digits.train_together(argparse.Namespace(**{_SETTINGS!r}))
    parameters = [parameter.detach() for parameter in together.model.parameters()]
    way = way.replace("/", "-")
    torch.save(parameters, f"{{folder}}/{{way}}.{{hvd.rank()}}.pt")
    hvd.shutdown()
"""


def training_words(folder: Path, *ways: str) -> list[str]:
    """The command of each rank, which leaves its parameters in ``folder``.

    It trains once over each of the ``ways``: a backend, or backend/protection of the data.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    numpy.savez(folder / "digits.npz", data=digits.data, target=digits.target)
    return [sys.executable, "-c", _PROGRAM, str(EXAMPLE), str(folder), *ways]


def check_training(folder: Path, ranks: int, *ways: str) -> None:
    """Asserts that all ranks ended with the same bits, and near what one process ends with."""
    for way in ways:
        name = way.replace("/", "-")
        assert len(list(folder.glob(f"{name}.*.pt"))) == ranks, way
        first = torch.load(folder / f"{name}.0.pt")
        for rank in range(1, ranks):
            other = torch.load(folder / f"{name}.{rank}.pt")
            same = [torch.equal(ours, theirs) for ours, theirs in zip(first, other, strict=True)]
            assert all(same), f"rank {rank} over {way}"
        for ours, theirs in zip(first, _alone(ranks), strict=True):
            assert float((ours - theirs).abs().max()) <= TOLERANCE, way


@functools.cache
def _alone(ranks: int) -> list[torch.Tensor]:
    """What one process ends with, on the batches of so many ranks."""
    spec = importlib.util.spec_from_file_location("digits_example", EXAMPLE)
    assert spec and spec.loader
    example: Any = importlib.util.module_from_spec(spec)
    sys.modules["digits_example"] = example
    spec.loader.exec_module(example)
    example.hvd = _Size(example.hvd, ranks)
    torch.set_num_threads(1)
    outcome = example.train_alone(argparse.Namespace(**_SETTINGS))
    return [parameter.detach() for parameter in outcome.model.parameters()]


class _Size:
    """``hora.torch`` with another size."""

    def __init__(self, hvd: Any, ranks: int) -> None:
        self._hvd = hvd
        self._ranks = ranks

    def size(self) -> int:
        return self._ranks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hvd, name)
