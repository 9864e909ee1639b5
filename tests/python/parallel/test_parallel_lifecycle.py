"""Joining and leaving the group."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
from hora.errors import HoraError, NotInitializedError, ShutDownError
from torch.distributed import TCPStore


@pytest.mark.cpu_only("every turn makes a communicator anew")
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


@pytest.fixture(scope="module")
def store(group):
    """Another way to meet, for while the group is not there; all ranks are on one host."""

    def join(port, is_master):
        limit = timedelta(seconds=30)
        return TCPStore(
            "127.0.0.1", port, is_master=is_master, wait_for_workers=False, timeout=limit
        )

    own = join(0, True) if group.rank() == 0 else None
    port = group.broadcast_object(own and own.port, 0)
    return own or join(port, False)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("failing", ["first", "last"])
def test_a_failed_init_is_tried_again(hvd, store, monkeypatch, failing):
    is_failing = hvd.rank() == (0 if failing == "first" else hvd.size() - 1)
    size = hvd.size()
    hvd.shutdown()
    with monkeypatch.context() as environment:
        if is_failing:
            environment.setenv("HORA_TREE_FAN_OUT", "nonsense")
        else:
            environment.setenv("HORA_START_TIMEOUT_SECONDS", "1")
        cause = "HORA_TREE_FAN_OUT" if is_failing else "rank 0|missing"
        with pytest.raises(HoraError, match=cause):
            hvd.init()
        assert not hvd.is_initialized()
    if store.add(f"{failing}/failed", 1) == size:
        store.set(f"{failing}/all", "failed")
    store.wait([f"{failing}/all"])
    hvd.init()
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()
