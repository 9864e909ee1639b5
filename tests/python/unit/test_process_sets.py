"""Process sets over a fake engine: how they are described, registered, used and forgotten."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from hora.errors import MismatchError, NotInitializedError, UsageError


@pytest.fixture
def four(core, hvd):
    hvd.shutdown()
    core.size = 4
    hvd.init()
    return hvd


def test_the_global_set(four):
    everyone = four.global_process_set
    assert (everyone.process_set_id, everyone.ranks) == (0, [0, 1, 2, 3])
    assert (everyone.size(), everyone.rank(), everyone.included()) == (4, 0, True)
    assert repr(everyone) == "<ProcessSet 0: all ranks>"
    assert not four.remove_process_set(everyone)
    four.shutdown()
    assert (everyone.process_set_id, everyone.ranks, everyone.size()) == (0, [], None)


@pytest.mark.parametrize("ranks", [[2, 0], range(0, 4, 2), (0, 2), torch.tensor([0, 2])])
def test_a_set_is_described_registered_and_removed(four, ranks):
    one = four.ProcessSet(ranks)
    assert (one.process_set_id, one.ranks, one.size(), one.rank()) == (None, [0, 2], None, None)
    assert one.included()
    assert repr(one) == "<ProcessSet not registered: ranks [0, 2]>"
    assert four.add_process_set(one) is one
    assert (one.process_set_id, one.size(), one.rank()) == (1, 2, 0)
    assert repr(one) == "<ProcessSet 1: ranks [0, 2]>"
    assert four.remove_process_set(one)
    assert one.process_set_id is None
    assert not four.remove_process_set(one)
    assert four.add_process_set(one).process_set_id == 2


def test_a_set_without_this_rank(four):
    others = four.add_process_set([1, 3])
    assert (others.size(), others.rank(), others.included()) == (2, None, False)
    with pytest.raises(UsageError, match=r"rank 0 is not in <ProcessSet 1: ranks \[1, 3\]>"):
        four.reducescatter(torch.ones(2), process_set=others)


def test_a_communicator_stands_for_its_ranks(four):
    class Communicator:
        def Get_group(self):
            raise NotImplementedError

        def allgather(self, rank):
            return [rank, 3]

    assert four.ProcessSet(Communicator()).ranks == [0, 3]


@pytest.mark.parametrize("ranks", [3, "ab", [0, 0], [1.5], None])
def test_what_is_no_list_of_ranks(four, ranks):
    with pytest.raises(ValueError, match="process set"):
        four.ProcessSet(ranks)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([], "at least one rank"),
        ([3, 4], "there is no rank 4, ranks are 0 to 3"),
        ([-1], "there is no rank -1"),
        (range(4), "use hvd.global_process_set"),
        ([1, 0], r"ranks \[0, 1\] are those of process set 1"),
    ],
)
def test_sets_that_cannot_be_added(four, core, ranks, words):
    four.add_process_set([0, 1])
    with pytest.raises(UsageError, match=words):
        four.add_process_set(ranks)
    assert list(core.sets) == [0, 1]


def test_a_registered_set_is_not_added_twice(four):
    one = four.add_process_set([0, 1])
    with pytest.raises(UsageError, match="registered already"):
        four.add_process_set(one)


def test_ranks_that_disagree(four, core):
    def gather(rows, size):
        other = torch.tensor(list(json.dumps([["add", [0, 3]]]).encode()), dtype=torch.uint8)
        return [rows, rows, rows, other]

    core.gather = gather
    with pytest.raises(MismatchError) as caught:
        four.add_process_set([0, 1])
    assert "rank 0: add [0, 1]; rank 1: add [0, 1]" in str(caught.value)
    assert "rank 3: add [0, 3]" in str(caught.value)
    assert list(core.sets) == [0]
    core.gather = None
    assert four.add_process_set([0, 1]).process_set_id == 1


def test_operations_go_to_their_set_and_count_in_it(four, core):
    pair = four.add_process_set([0, 1])
    core.calls.clear()
    ones = torch.ones(3)
    assert four.allreduce(ones, op=four.Sum, process_set=pair).tolist() == [2] * 3
    four.allreduce(ones)
    four.allreduce_(ones.clone(), process_set=pair)
    assert len(four.allgather(ones, process_set=pair)) == 6
    four.barrier(pair)
    four.broadcast(ones, 1, process_set=pair)
    four.broadcast_(ones, 1, process_set=pair)
    assert [(call.process_set, call.name) for call in core.calls] == [
        (1, "allreduce.noname.0"),
        (0, "allreduce.noname.0"),
        (1, "allreduce.noname.1"),
        (1, "allgather.noname.0"),
        (1, "barrier.noname.0"),
        (1, "broadcast.noname.0"),
        (1, "broadcast.noname.1"),
    ]


@pytest.mark.parametrize("call", ["allreduce", "allreduce_", "allgather", "alltoall", "barrier"])
def test_sets_that_are_not_registered(four, call):
    arguments = () if call == "barrier" else (torch.ones(4),)
    operation = getattr(four, call)
    with pytest.raises(UsageError, match=r"ranks \[0, 1\]>: call hvd.add_process_set"):
        operation(*arguments, process_set=four.ProcessSet([0, 1]))
    with pytest.raises(UsageError, match=r"\[0, 1\] is no ProcessSet"):
        operation(*arguments, process_set=[0, 1])
    four.shutdown()
    with pytest.raises(NotInitializedError):
        operation(*arguments, process_set=four.ProcessSet([0, 1]))


def test_sets_given_to_init(core, hvd):
    hvd.shutdown()
    core.size = 4
    pair, rest = hvd.ProcessSet([0, 1]), hvd.ProcessSet([2, 3])
    hvd.init(process_sets=[pair, rest])
    assert (pair.process_set_id, rest.process_set_id) == (1, 2)
    hvd.init(process_sets=[pair, rest])
    third = hvd.ProcessSet([0, 3])
    hvd.init(process_sets=[pair, third])
    assert third.process_set_id == 3
    hvd.shutdown()
    assert pair.process_set_id is rest.process_set_id is third.process_set_id is None
    hvd.init(process_sets="dynamic")
    assert hvd.add_process_set(pair).process_set_id == 1


def test_init_with_bad_sets_leaves_the_process_as_before(core, hvd):
    hvd.shutdown()
    core.size = 4
    for bad in ([hvd.ProcessSet([9])], [hvd.ProcessSet([1]), hvd.ProcessSet([1])], [[0, 1]]):
        with pytest.raises(UsageError):
            hvd.init(process_sets=bad)
        assert not hvd.is_initialized()
    hvd.init()


def test_ranks_given_to_init(core, hvd):
    hvd.shutdown()
    for good in (None, [], [0], range(1)):
        hvd.init(good)
        hvd.shutdown()

    class Communicator:
        def Get_size(self):
            return 2

    for bad in ([0, 1], Communicator()):
        with pytest.raises(UsageError, match=r"all 1 ranks.*hvd.add_process_set"):
            hvd.init(bad)


def test_equality_copies_and_pickles(four):
    one, other = four.ProcessSet([0, 1]), four.ProcessSet([1, 0])
    assert one == other
    assert hash(one) == hash(other)
    assert one != four.ProcessSet([0, 2])
    assert four.ProcessSet(range(4)) != four.global_process_set
    assert one != [0, 1]
    for original in (four.add_process_set(one), four.global_process_set):
        assert copy.deepcopy(original) is copy.copy(original) is original
        assert pickle.loads(pickle.dumps(original)) is original
    assert pickle.loads(pickle.dumps(four.ProcessSet([2, 3]))) == four.ProcessSet([2, 3])
