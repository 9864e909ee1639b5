"""Process sets: agreement, overlapping sets, errors that leave the group usable."""

from __future__ import annotations

import random

import pytest
import torch
from hora.errors import MismatchError, UsageError


@pytest.fixture
def halves(hvd):
    """The set of even ranks and that of odd ones, and the one with this rank."""
    evens = hvd.add_process_set(range(0, hvd.size(), 2))
    odds = hvd.add_process_set(range(1, hvd.size(), 2))
    yield evens, odds, odds if hvd.rank() % 2 else evens
    assert hvd.remove_process_set(evens)
    assert hvd.remove_process_set(odds)
    assert evens.process_set_id is odds.process_set_id is None


@pytest.mark.ranks(2)
def test_every_operation_stays_in_its_set(hvd, halves):
    mine = halves[2]
    ranks, place = mine.ranks, mine.rank()
    assert (mine.size(), ranks[place]) == (len(ranks), hvd.rank())
    own = torch.tensor([float(hvd.rank())])
    assert hvd.allreduce(own, op=hvd.Sum, process_set=mine).item() == sum(ranks)
    assert hvd.allreduce(own, process_set=mine).item() == sum(ranks) / len(ranks)
    assert hvd.allgather(own, process_set=mine).tolist() == ranks
    assert hvd.broadcast(own, ranks[-1], process_set=mine).item() == ranks[-1]
    rows = torch.arange(len(ranks)) + 100 * hvd.rank()
    assert hvd.alltoall(rows, process_set=mine).tolist() == [100 * r + place for r in ranks]
    assert hvd.reducescatter(rows.float(), op=hvd.Min, process_set=mine).tolist() == [
        100 * ranks[0] + place
    ]
    a, b = hvd.grouped_allreduce([own, rows], op=hvd.Max, process_set=mine)
    assert (a.item(), b[0].item()) == (ranks[-1], 100 * ranks[-1])
    assert hvd.allgather_object(hvd.rank(), process_set=mine) == ranks
    assert hvd.broadcast_object(hvd.rank(), ranks[0], process_set=mine) == ranks[0]
    hvd.barrier(mine)


@pytest.mark.ranks(2)
def test_sets_count_unnamed_operations_for_themselves(hvd, halves):
    mine = halves[2]
    for _ in range(hvd.rank() % 2 * 7):  # the odd set has seen seven more
        hvd.allreduce(torch.ones(1), process_set=mine)
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum, process_set=mine).item() == mine.size()


@pytest.mark.ranks(3)
def test_overlapping_sets_in_any_order(hvd):
    rings = [hvd.add_process_set({r, (r + 1) % hvd.size()}) for r in range(hvd.size())]
    for turn in range(20):
        work = [(one, k) for one in rings if one.included() for k in range(5)]
        random.Random(turn * 100 + hvd.rank()).shuffle(work)
        handles = [
            hvd.allreduce_async(torch.ones(k + 1), op=hvd.Sum, name=f"{k}", process_set=one)
            for one, k in work
        ]
        random.Random(hvd.rank()).shuffle(handles)
        assert all(handle.wait()[0].item() == 2 for handle in handles)
    for one in rings:
        hvd.remove_process_set(one)


@pytest.mark.ranks(2)
def test_ranks_that_disagree_are_told_and_go_on(hvd):
    for _ in range(3):
        with pytest.raises(MismatchError) as caught:
            hvd.add_process_set([0] if hvd.rank() == 0 else [0, 1])
        assert "rank 0: add [0]; rank 1: add [0, 1]" in str(caught.value)
    one = hvd.add_process_set([1])
    other = hvd.add_process_set([0])
    with pytest.raises(MismatchError, match=r"remove \[0\].*remove \[1\]|remove \[1\].*remove"):
        hvd.remove_process_set(one if hvd.rank() == 0 else other)
    for bad, words in (([0], "those of process set"), ([99], "no rank 99"), ([], "at least one")):
        with pytest.raises(UsageError, match=words):
            hvd.add_process_set(bad)
    assert hvd.remove_process_set(one)
    assert hvd.remove_process_set(other)
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()


@pytest.mark.ranks(2)
def test_who_is_not_in_the_set_is_told(hvd):
    one = hvd.add_process_set([1])
    if hvd.rank() != 1:
        for call in (hvd.allreduce, hvd.allreduce_, hvd.allgather, hvd.alltoall, hvd.reducescatter):
            with pytest.raises(UsageError, match=r"process set|ProcessSet"):
                call(torch.ones(2), process_set=one)
        with pytest.raises(UsageError, match=r"process set|ProcessSet"):
            hvd.barrier(one)
    else:
        with pytest.raises(UsageError, match=r"root_rank 0.*ranks 1"):
            hvd.broadcast(torch.ones(2), 0, process_set=one)
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum, process_set=one).item() == 1
    hvd.remove_process_set(one)


@pytest.mark.ranks(3)
def test_a_mismatch_in_a_set_names_global_ranks(hvd):
    mine = hvd.add_process_set([hvd.size() - 2, hvd.size() - 1])
    if mine.included():
        with pytest.raises(MismatchError) as caught:
            hvd.allreduce(torch.ones(2 + hvd.rank()), name="differs", process_set=mine)
        assert str(hvd.size() - 1) in str(caught.value)
        assert "differs" in str(caught.value)
    hvd.remove_process_set(mine)


def test_sets_come_and_go_with_the_group(hvd):
    size = hvd.size()
    hvd.shutdown()
    everyone, first = hvd.ProcessSet(range(size)), hvd.ProcessSet([0])
    with pytest.raises(UsageError, match="global process set"):
        hvd.init(process_sets=[everyone])
    assert not hvd.is_initialized()
    for turn in range(5):
        hvd.init(process_sets=[first] if size > 1 else None)
        if size > 1 and first.included():
            assert hvd.allreduce(torch.tensor([turn]), process_set=first).item() == turn
        hvd.shutdown()
        assert first.process_set_id is None
    hvd.init()
