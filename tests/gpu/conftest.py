"""Tests on a GPU; every rank runs the same ones in the same order:

horarun -np 2 python -m pytest tests/gpu

Where there is no GPU they are skipped. ``make test-gpu`` runs them on 1 rank over NCCL, and on 2
and 4 ranks that share a GPU, through the host's memory.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hora.gpus import has_cuda_plugin

HERE = Path(__file__).parent


def what_is_missing() -> str:
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU here"
    return "" if has_cuda_plugin() else "hora was built without nvcc"


def pytest_collection_modifyitems(items):
    own = [item for item in items if HERE in item.path.parents]
    missing = what_is_missing()
    for item in own:
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))
        elif item.get_closest_marker("ranks"):
            item.fixturenames.insert(0, "right_ranks")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "ranks(least, most): needs so many ranks; most may be left out"
    )


@pytest.fixture(scope="session")
def group():
    """``hora.torch``, initialised once for all tests, on this rank's GPU."""
    os.environ.setdefault("HORA_STALL_ABORT_SECONDS", "60")
    torch.set_num_threads(1)
    import hora.torch as hvd

    hvd.init()
    hvd.set_device()
    yield hvd
    torch.cuda.synchronize()
    hvd.shutdown()


@pytest.fixture
def hvd(group):
    return group


@pytest.fixture(autouse=True)
def in_step(group):
    """Brings the ranks together after each test, and lets no test find the work of another."""
    yield
    torch.cuda.synchronize()
    group.barrier()


@pytest.fixture
def right_ranks(group, request):
    least, *most = request.node.get_closest_marker("ranks").args
    if group.size() < least or (most and group.size() > most[0]):
        pytest.skip(f"is for {least} to {most[0]} ranks" if most else f"needs {least} ranks")
