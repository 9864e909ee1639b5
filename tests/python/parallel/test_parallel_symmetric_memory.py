"""Symmetric memory: allocated together, reduced where it lies, and ordinary memory otherwise."""

from __future__ import annotations

import gc
import os
import random

import pytest
import torch
from hora.errors import MismatchError, ResourceError, UsageError

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


pytestmark = [
    pytest.mark.cpu_only("ranks see each other's memory on the CPU only"),
    pytest.mark.skipif(
        os.environ.get("HORA_BACKEND", "").startswith("flat-"),
        reason="a flat backend has no memory that all ranks see",
    ),
]


def in_place_bytes(hvd) -> int:
    return hvd.metrics()["in_place_bytes"]


def values(shape, dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2 if dtype is torch.bool else 5, shape, generator=generator).to(dtype)


def test_the_tensor_is_like_any_other(hvd):
    tensor = hvd.symmetric_empty(3, 5)
    assert tensor.shape == (3, 5) and tensor.dtype == torch.float32
    assert tensor.is_contiguous() and tensor.device.type == "cpu" and not tensor._is_view()
    assert tensor.eq(0).all()
    assert hvd.symmetric_empty((2, 7), dtype=torch.bfloat16).shape == (2, 7)
    assert hvd.symmetric_empty(torch.Size([4])).shape == (4,)
    assert hvd.symmetric_empty(()).shape == ()
    assert hvd.symmetric_empty(0, 9).shape == (0, 9)
    tensor.requires_grad_()
    (tensor * 2).sum().backward()
    assert tensor.grad is not None and tensor.grad.eq(2).all()


@pytest.mark.ranks(2)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_are_those_of_ordinary_memory(hvd, dtype):
    shape = (173, 211)
    shared = hvd.symmetric_empty(shape, dtype=dtype)
    ops = [hvd.Sum, hvd.Min, hvd.Max, hvd.Product]
    ops += [hvd.Average] if dtype is not torch.bool else []
    for op in [hvd.Sum] if dtype.is_complex else ops:
        mine = values(shape, dtype, seed=hvd.rank())
        ordinary = hvd.allreduce(mine, op=op)
        shared.copy_(mine)
        before = in_place_bytes(hvd)
        assert hvd.allreduce_(shared, op=op) is shared
        assert torch.equal(shared, ordinary)
        assert in_place_bytes(hvd) - before == shared.nbytes


@pytest.mark.ranks(2)
def test_scales_and_averages(hvd):
    shared = hvd.symmetric_empty(50_000)
    mine = values(50_000, torch.float32, seed=hvd.rank())
    for op, before, after in ((hvd.Average, 1.0, 1.0), (hvd.Sum, 0.3, 1.7), (hvd.Average, 2, 0.1)):
        factors = {"op": op, "prescale_factor": before, "postscale_factor": after}
        shared.copy_(mine)
        hvd.allreduce_(shared, **factors)
        assert torch.equal(shared, hvd.allreduce(mine, **factors))


@pytest.mark.ranks(2)
def test_views_are_reduced_where_they_lie_and_nothing_else_is(hvd):
    shared = hvd.symmetric_empty(100_000)
    shared.fill_(hvd.rank())
    total = sum(range(hvd.size()))
    before = in_place_bytes(hvd)
    hvd.allreduce_(shared[1_001:30_001], op=hvd.Sum)
    parts = [shared[40_000:50_000].view(100, 100), shared[60_000:90_000]]
    hvd.grouped_allreduce_(parts, op=hvd.Sum)
    assert in_place_bytes(hvd) - before == (29_000 + 40_000) * 4
    expected = torch.full((100_000,), float(hvd.rank()))
    for begin, end in ((1_001, 30_001), (40_000, 50_000), (60_000, 90_000)):
        expected[begin:end] = total
    assert torch.equal(shared, expected)


@pytest.mark.ranks(2)
def test_ranks_may_differ_in_where_their_tensors_lie(hvd):
    shared = hvd.symmetric_empty(2, 20_000)
    for turn in range(20):
        places = [random.Random(100 * turn + r).randrange(3) for r in range(hvd.size())]
        choice = [shared[0], shared[1], torch.empty(20_000)]
        mine = choice[places[hvd.rank()]]
        mine.fill_(hvd.rank() + 1)
        before = in_place_bytes(hvd)
        hvd.allreduce_(mine, op=hvd.Sum)
        assert mine.eq(sum(range(1, hvd.size() + 1))).all()
        in_place = len(set(places)) == 1 and places[0] != 2
        assert in_place_bytes(hvd) - before == (mine.nbytes if in_place else 0)


@pytest.mark.ranks(2)
def test_a_burst_of_named_tensors_in_and_out_of_it(hvd):
    shared = hvd.symmetric_empty(64, 3_000)
    for turn in range(5):
        tensors = [shared[i] if i % (turn + 2) else torch.empty(3_000) for i in range(64)]
        for i, tensor in enumerate(tensors):
            tensor.fill_(i + hvd.rank())
        order = list(range(64))
        random.Random(hvd.rank() + turn).shuffle(order)
        handles = [hvd.allreduce_async_(tensors[i], name=f"{i}", op=hvd.Sum) for i in order]
        for handle in handles:
            handle.wait()
        for i, tensor in enumerate(tensors):
            assert tensor.eq(i * hvd.size() + sum(range(hvd.size()))).all()


@pytest.mark.ranks(2)
def test_out_of_place_and_other_operations_take_it_as_ordinary_memory(hvd):
    shared = hvd.symmetric_empty(1_000, 7)
    shared.fill_(hvd.rank())
    before = in_place_bytes(hvd)
    assert hvd.allreduce(shared, op=hvd.Sum).eq(sum(range(hvd.size()))).all()
    assert hvd.allgather(shared).shape == (1_000 * hvd.size(), 7)
    assert shared.eq(hvd.rank()).all()
    hvd.broadcast_(shared, 1)
    assert shared.eq(1).all()
    strided = hvd.symmetric_empty(300, 300).t()
    assert hvd.allreduce_(strided.fill_(1.0), op=hvd.Sum).eq(hvd.size()).all()
    assert in_place_bytes(hvd) == before


@pytest.mark.ranks(3)
def test_a_set_of_some_ranks_has_its_own(hvd):
    pair = hvd.add_process_set([0, 1])
    if pair.included():
        shared = hvd.symmetric_empty(9_000, process_set=pair)
        before = in_place_bytes(hvd)
        assert hvd.allreduce_(shared.fill_(1.0), op=hvd.Sum, process_set=pair).eq(2).all()
        assert in_place_bytes(hvd) - before == shared.nbytes
    else:
        with pytest.raises(UsageError, match="not in"):
            hvd.symmetric_empty(9_000, process_set=pair)
    hvd.remove_process_set(pair)
    if hvd.rank() < 2:  # the tensor outlives the set
        assert shared.eq(2).all()


@pytest.mark.ranks(2)
def test_ranks_that_want_different_things_are_told_and_go_on(hvd):
    for sizes, dtypes in (((5, 6), (None, None)), ((4, 4), (torch.int32, torch.float32))):
        which = min(hvd.rank(), 1)
        with pytest.raises(MismatchError, match=r"rank 0: .*\[[45]\] .*; rank 1: "):
            hvd.symmetric_empty(sizes[which], dtype=dtypes[which])
    with pytest.raises(ResourceError, match=r"float32 .* rank 0: "):
        hvd.symmetric_empty(1 << 37)
    for bad in ((-1,), (2.5,), ("a",)):
        with pytest.raises(UsageError, match="size"):
            hvd.symmetric_empty(*bad)
    shared = hvd.symmetric_empty(5_000)
    assert hvd.allreduce_(shared.fill_(1.0), op=hvd.Sum).eq(hvd.size()).all()


@pytest.mark.ranks(2)
def test_memory_is_given_back(hvd):
    def shared_kib() -> int:
        with open("/proc/self/smaps_rollup", encoding="utf-8") as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Shmem"))

    hvd.symmetric_empty(1_000_000)
    gc.collect()
    hvd.barrier()
    before = shared_kib()
    for _ in range(20):
        tensor = hvd.symmetric_empty(1_000_000)
        hvd.allreduce_(tensor, op=hvd.Sum)
        del tensor
        gc.collect()
    hvd.barrier()
    assert shared_kib() - before < 20 * 4_000 / 4


@pytest.mark.ranks(2)
def test_a_forked_child_shares_it_and_frees_nothing(hvd):
    shared = hvd.symmetric_empty(10_000)
    child = os.fork()
    if child == 0:
        try:
            shared[7] = 7.0
            del shared
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert shared[7] == 7.0
    assert hvd.allreduce_(shared, op=hvd.Sum)[7] == 7 * hvd.size()
