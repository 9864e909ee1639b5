"""Joining and leaving the group."""

from __future__ import annotations

import pytest
import torch
from hora.errors import HoraError, NotInitializedError, ShutDownError


def test_init_and_shutdown_100_times(hvd):
    for turn in range(100):
        hvd.shutdown()
        assert not hvd.is_initialized()
        hvd.init()
        hvd.init()
        assert hvd.allreduce(torch.tensor([turn]), op=hvd.Sum).item() == turn * hvd.size()


def test_shutdown_twice(hvd):
    hvd.shutdown()
    hvd.shutdown()
    with pytest.raises(NotInitializedError, match=r"hvd\.init\(\)"):
        hvd.allreduce(torch.ones(1))
    hvd.init()


@pytest.mark.ranks(2)
def test_open_operations_end_with_shutdown(hvd):
    # Rank 0 waits for what the others will never submit.
    handle = hvd.allreduce_async(torch.ones(1), name="never") if hvd.rank() == 0 else None
    hvd.barrier()
    hvd.shutdown()
    if handle is not None:
        with pytest.raises(ShutDownError):
            handle.wait(timeout=30)
    hvd.init()


@pytest.mark.ranks(2)
@pytest.mark.parametrize("failing", ["first", "last"])
def test_a_failed_init_is_tried_again(hvd, monkeypatch, failing):
    is_failing = hvd.rank() == (0 if failing == "first" else hvd.size() - 1)
    hvd.shutdown()
    with monkeypatch.context() as environment:
        if is_failing:
            environment.setenv("HORA_TREE_FAN_OUT", "nonsense")
        else:
            environment.setenv("HORA_START_TIMEOUT_SECONDS", "1")
        with pytest.raises(
            HoraError, match="HORA_TREE_FAN_OUT" if is_failing else "missing|rank 0"
        ):
            hvd.init()
        assert not hvd.is_initialized()
    hvd.init()
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()
