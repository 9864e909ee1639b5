"""Every rank runs the same tests in the same order:

horarun -np 2 python -m pytest tests/python/parallel
"""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def group():
    """``hora.torch``, initialised once for all tests."""
    # A test that fails on one rank leaves the others waiting for it: not for the default 300 s.
    os.environ.setdefault("HORA_STALL_ABORT_SECONDS", "30")
    torch.set_num_threads(1)
    import hora.torch as hvd

    hvd.init()
    yield hvd
    hvd.shutdown()


@pytest.fixture
def hvd(group):
    return group


@pytest.fixture(autouse=True)
def in_step(group):
    """Brings the ranks together after each test, so that one cannot disturb the next."""
    yield
    group.barrier()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("ranks"):
            item.fixturenames.insert(0, "enough_ranks")  # before others make sets of ranks


def pytest_configure(config):
    config.addinivalue_line("markers", "ranks(n): needs at least n ranks")
    config.addinivalue_line("markers", "any_backend: the same whatever moves the bytes")


@pytest.fixture
def enough_ranks(group, request):
    needed = request.node.get_closest_marker("ranks").args[0]
    if group.size() < needed:
        pytest.skip(f"needs {needed} ranks")
