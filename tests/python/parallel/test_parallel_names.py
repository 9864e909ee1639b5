"""How operations of different ranks find each other, and what happens when they do not match."""

from __future__ import annotations

import random

import pytest
import torch
from hora.errors import MismatchError, UsageError, WaitTimeoutError

pytestmark = pytest.mark.any_backend


def test_ranks_may_submit_in_any_order(hvd):
    for round_ in range(5):
        order = list(range(100))
        random.Random(1000 * round_ + hvd.rank()).shuffle(order)
        handles = {
            k: hvd.allreduce_async(torch.full((k,), 1.0), op=hvd.Sum, name=f"t{k}") for k in order
        }
        random.Random(hvd.rank()).shuffle(order)
        for k in order:
            assert torch.equal(handles[k].wait(), torch.full((k,), float(hvd.size())))


def test_kinds_and_dtypes_mixed(hvd):
    order = list(range(40))
    random.Random(hvd.rank()).shuffle(order)
    handles = {}
    for k in order:
        if k % 4 == 0:
            handles[k] = hvd.allgather_async(torch.tensor([hvd.rank()] * k), name=f"g{k}")
        elif k % 4 == 1:
            handles[k] = hvd.broadcast_async(
                torch.tensor([hvd.rank() + k]), k % hvd.size(), name=f"b{k}"
            )
        else:
            dtype = torch.float64 if k % 4 == 2 else torch.int16
            handles[k] = hvd.allreduce_async(
                torch.full((k,), 2, dtype=dtype), op=hvd.Sum, name=f"r{k}"
            )
    for k, handle in handles.items():
        result = handle.wait()
        if k % 4 == 0:
            assert len(result) == k * hvd.size()
        elif k % 4 == 1:
            assert result.item() == k % hvd.size() + k
        else:
            assert result.tolist() == [2 * hvd.size()] * k


def test_unnamed_operations_meet_in_order(hvd):
    handles = [hvd.allreduce_async(torch.tensor([float(k)])) for k in range(600)]
    random.Random(hvd.rank()).shuffle(handles_order := list(range(600)))
    for k in handles_order:
        assert hvd.synchronize(handles[k]).item() == k


def test_a_call_refused_on_one_rank_leaves_the_others_in_step(hvd):
    for bad in (3.0, torch.ones(1).expand(2), torch.eye(2).to_sparse_csr()):
        if hvd.rank() == 0:
            with pytest.raises(UsageError):
                hvd.allreduce_(bad)
            with pytest.raises(UsageError, match="root_rank=None"):
                hvd.broadcast_(torch.ones(1), None)
            with pytest.raises(UsageError):
                hvd.broadcast(torch.ones(1), 99)  # the engine refuses this one
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()
        assert hvd.broadcast_(torch.tensor([hvd.rank()]), 0).item() == 0


def test_a_name_may_be_used_again_with_another_shape(hvd):
    for length in (4, 4, 9, 9, 4):
        assert len(hvd.allreduce(torch.ones(length), name="changing")) == length


def test_a_handle_waits_with_a_timeout(hvd):
    if hvd.rank() == 0:
        handle = hvd.allreduce_async(torch.ones(1), name="late")
        if hvd.size() > 1:
            assert not hvd.poll(handle)
            with pytest.raises(WaitTimeoutError):
                handle.wait(timeout=0.05)
        hvd.barrier()
    else:
        hvd.barrier()
        handle = hvd.allreduce_async(torch.ones(1), name="late")
    assert handle.wait(timeout=30).item() == 1
    assert handle.wait().item() == 1
    assert hvd.poll(handle)


@pytest.mark.ranks(2)
def test_a_name_in_use_is_refused_at_once(hvd):
    if hvd.rank() == 0:
        handle = hvd.allreduce_async(torch.ones(1), name="twice")
        with pytest.raises(ValueError, match="twice"):
            hvd.allreduce_async(torch.ones(1), name="twice")
        hvd.barrier()
    else:
        hvd.barrier()
        handle = hvd.allreduce_async(torch.ones(1), name="twice")
    assert handle.wait().item() == 1


def last(hvd):
    return hvd.rank() == hvd.size() - 1


# What the last rank does differently, and how the error must put each side.
MISMATCHES = {
    "shape": (
        lambda hvd, name: hvd.allreduce(torch.ones(3 if last(hvd) else 2), name=name),
        ["[2]", "[3]"],
    ),
    "dimensions": (
        lambda hvd, name: hvd.broadcast(torch.ones((2, 1) if last(hvd) else (2,)), 0, name=name),
        ["[2]", "[2, 1]"],
    ),
    "dtype": (
        lambda hvd, name: hvd.allreduce(
            torch.ones(2, dtype=torch.int32 if last(hvd) else torch.float16), name=name
        ),
        ["float16", "int32"],
    ),
    "kind": (
        lambda hvd, name: (
            hvd.allgather(torch.ones(2), name=name)
            if last(hvd)
            else hvd.allreduce(torch.ones(2), name=name)
        ),
        ["allreduce", "allgather"],
    ),
    "op": (
        lambda hvd, name: hvd.allreduce(
            torch.ones(2), op=hvd.Max if last(hvd) else hvd.Sum, name=name
        ),
        ["sum", "max"],
    ),
    "root": (
        lambda hvd, name: hvd.broadcast(torch.ones(2), 1 if last(hvd) else 0, name=name),
        ["root", "0", "1"],
    ),
    "rows": (
        lambda hvd, name: hvd.allgather(torch.ones(2, 5 if last(hvd) else 4), name=name),
        ["4]", "5]"],
    ),
    "prescale": (
        lambda hvd, name: hvd.allreduce(
            torch.ones(2), prescale_factor=0.25 if last(hvd) else 0.5, name=name
        ),
        ["0.5", "0.25"],
    ),
}


@pytest.mark.ranks(2)
@pytest.mark.parametrize("what", MISMATCHES)
def test_a_mismatch_is_an_error_on_every_rank(hvd, what):
    call, values = MISMATCHES[what]
    name = f"mismatch.{what}"
    for _ in range(3):  # the third time, what ranks agreed on is remembered
        with pytest.raises(MismatchError) as caught:
            call(hvd, name)
        text = str(caught.value)
        assert name in text
        for word in [*values, str(hvd.size() - 1), "rank"]:
            assert word in text, text
        # The engine goes on, also under this name.
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum, name=name).item() == hvd.size()


@pytest.mark.parametrize("root", [-1, 99])
def test_a_root_that_is_no_rank(hvd, root):
    with pytest.raises(UsageError, match=str(root)):
        hvd.broadcast(torch.ones(1), root)
