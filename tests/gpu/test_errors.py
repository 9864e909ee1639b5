"""Mistakes with GPU tensors: each is explained on every rank, and the group lives on."""

from __future__ import annotations

import pytest
import torch
from hora.errors import HoraError, MismatchError, UsageError


def assert_alive(hvd):
    for device in ("cpu", "cuda"):
        one = torch.ones(3, device=device)
        assert hvd.allreduce(one, op=hvd.Sum).tolist() == [hvd.size()] * 3


def test_results_stay_on_the_device(hvd):
    one = torch.ones(2, 3, device="cuda")
    for result in (hvd.allreduce(one), hvd.allgather(one), hvd.broadcast(one, 0)):
        assert result.device == one.device


def test_choosing_again_changes_nothing_and_another_device_is_refused(hvd):
    own = hvd.device()
    for same in (own.index, f"cuda:{own.index}", own):
        assert hvd.set_device(same) == own
    for wrong in (99, "cuda:99"):
        with pytest.raises(UsageError, match="cuda:99"):
            hvd.set_device(wrong)
    with pytest.raises(UsageError):
        hvd.set_device("moon")
    assert_alive(hvd)


@pytest.mark.ranks(2)
def test_shapes_that_differ(hvd):
    for _ in range(2):
        with pytest.raises(MismatchError, match="differs"):
            hvd.allreduce(torch.ones(2 + hvd.rank(), device="cuda"), name="differs")
    assert_alive(hvd)


@pytest.mark.ranks(2)
def test_devices_that_differ_between_ranks(hvd):
    device = "cuda" if hvd.rank() == 0 else "cpu"
    with pytest.raises(MismatchError, match="mixed"):
        hvd.allreduce(torch.ones(2, device=device), name="mixed")
    assert_alive(hvd)


def test_devices_that_differ_in_a_group(hvd):
    with pytest.raises(HoraError):
        hvd.grouped_allreduce([torch.ones(2, device="cuda"), torch.ones(2)])
    assert_alive(hvd)


@pytest.mark.ranks(2)
def test_process_sets_have_their_own_lane(hvd):
    evens = hvd.add_process_set(range(0, hvd.size(), 2))
    if evens.included():
        own = torch.full((5,), float(hvd.rank()), device="cuda")
        total = float(sum(range(0, hvd.size(), 2)))
        assert hvd.allreduce(own, op=hvd.Sum, process_set=evens).tolist() == [total] * 5
    hvd.remove_process_set(evens)
    assert_alive(hvd)


def test_the_group_can_be_left_and_joined_again(hvd):
    for turn in range(3):
        handle = hvd.allreduce_async(torch.ones(1 << 20, device="cuda"), name="turn")
        handle.wait()
        hvd.shutdown()
        hvd.init()
        hvd.set_device()
        result = hvd.allreduce(torch.tensor([float(turn)], device="cuda"), op=hvd.Sum)
        assert result.item() == turn * hvd.size()


def test_objects_and_barriers_work_beside_gpu_tensors(hvd):
    handle = hvd.allreduce_async(torch.ones(1000, device="cuda"), op=hvd.Sum)
    assert hvd.broadcast_object({"root": hvd.rank()}, 0) == {"root": 0}
    hvd.barrier()
    assert (handle.wait() == hvd.size()).all()
