"""Fixtures for the tests of ``hora.torch`` in one process."""

from __future__ import annotations

import pytest


@pytest.fixture
def core():
    """A fake engine in place of ``hora._core``; every other rank submits what this one does."""
    from fake_core import FakeCore

    return FakeCore()


@pytest.fixture
def hvd(core):
    """``hora.torch``, freshly imported over the fake engine and initialised."""
    from fake_core import hora_over

    with hora_over(core) as module:
        module.init()
        yield module
        core.release()
        module.shutdown()
