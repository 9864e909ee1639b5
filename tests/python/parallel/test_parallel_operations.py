"""Every operation, dtype and shape."""

from __future__ import annotations

import pytest
import torch
from rank_values import FLOATS, MOVABLE, REDUCIBLE, reduced, same_bits, values_of

SHAPES = [(), (1,), (0,), (3, 0, 2), (17,), (5, 7), (3, 1, 4, 2), (70001,)]


def by_rank(hvd, shape, dtype, **limits):
    return [values_of(rank, shape, dtype, **limits) for rank in range(hvd.size())]


@pytest.mark.parametrize("op", ["Average", "Sum", "Min", "Max", "Product"])
@pytest.mark.parametrize("dtype", REDUCIBLE, ids=str)
def test_allreduce(hvd, dtype, op):
    if dtype is torch.bool and op == "Average":
        pytest.skip("booleans have no average")
    for shape in SHAPES:
        tensors = by_rank(hvd, shape, dtype, high=3)
        mine = tensors[hvd.rank()]
        expected = reduced(tensors, op)
        options = {"op": getattr(hvd, op)}
        result = hvd.allreduce(mine, **options)
        # The mean of 16-bit floats is rounded once; everything else is exact.
        torch.testing.assert_close(
            result.cpu(), expected.cpu(), rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=0
        )
        assert result.dtype == dtype
        assert result.shape == shape
        assert same_bits(mine, tensors[hvd.rank()])
        assert same_bits(hvd.synchronize(hvd.allreduce_async(mine, **options)), result)
        in_place = mine.clone()
        assert hvd.allreduce_(in_place, **options) is in_place
        assert same_bits(in_place, result)
        in_place = mine.clone()
        assert hvd.allreduce_async_(in_place, **options).wait() is in_place
        assert same_bits(in_place, result)


@pytest.mark.parametrize("dtype", MOVABLE, ids=str)
def test_broadcast(hvd, dtype):
    for shape in SHAPES:
        tensors = by_rank(hvd, shape, dtype)
        for root in range(hvd.size()):
            mine = tensors[hvd.rank()].clone()
            assert same_bits(hvd.broadcast(mine, root), tensors[root])
            assert same_bits(mine, tensors[hvd.rank()])
            assert same_bits(hvd.broadcast_async(mine, root).wait(), tensors[root])
            assert hvd.broadcast_(mine, root) is mine
            assert same_bits(mine, tensors[root])
            mine = tensors[hvd.rank()].clone()
            assert hvd.synchronize(hvd.broadcast_async_(mine, root)) is mine
            assert same_bits(mine, tensors[root])


@pytest.mark.parametrize("dtype", MOVABLE, ids=str)
def test_allgather(hvd, dtype):
    for row in [(), (1,), (3, 2), (0,), (2, 0)]:
        for rows in (
            lambda rank: 3,
            lambda rank: rank,
            lambda rank: 0,
            lambda rank: 9000 * rank + 1,
        ):
            tensors = [values_of(r, (rows(r), *row), dtype) for r in range(hvd.size())]
            mine = tensors[hvd.rank()]
            expected = torch.cat(
                [t.view(torch.uint8) if dtype.itemsize == 1 else t for t in tensors]
            )
            expected = expected.view(dtype)
            assert same_bits(hvd.allgather(mine), expected)
            assert same_bits(hvd.allgather_async(mine).wait(), expected)


def test_allgather_of_scalars(hvd):
    result = hvd.allgather(torch.tensor(hvd.rank() * 2))
    assert result.tolist() == [rank * 2 for rank in range(hvd.size())]


def test_a_gathered_tensor_outlives_its_handle_and_can_be_written(hvd):
    result = hvd.allgather_async(torch.full((1000,), float(hvd.rank()))).wait()
    again = hvd.allgather(torch.full((1000,), -1.0))
    result += 1
    assert result.sum().item() == 1000 * sum(range(1, hvd.size() + 1))
    assert again.sum().item() == -1000 * hvd.size()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_factors(hvd, dtype):
    tensors = by_rank(hvd, (100,), dtype)
    result = hvd.allreduce(
        tensors[hvd.rank()], op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0
    )
    torch.testing.assert_close(result, reduced(tensors, "Sum") * 2)


def test_factors_of_integers_truncate(hvd):
    result = hvd.allreduce(torch.tensor([3, -3]), op=hvd.Sum, prescale_factor=0.5)
    assert result.tolist() == [hvd.size(), -hvd.size()]


def test_16_bit_sums_accumulate_in_32_bits(hvd):
    # 2048 + 1 is 2048 in float16: rank after rank would lose every one.
    mine = torch.tensor([2048.0 if hvd.rank() == 0 else 1.0], dtype=torch.float16)
    result = hvd.allreduce(mine, op=hvd.Sum)
    assert result.item() == torch.tensor(2047.0 + hvd.size()).half().item()


def test_infinities_and_nan(hvd):
    mine = torch.tensor([float("inf"), float("nan"), -float("inf"), 1.0])
    for op in (hvd.Sum, hvd.Average, hvd.Max, hvd.Min):
        result = hvd.allreduce(mine, op=op)
        assert result[0] == float("inf")
        assert result[1].isnan()
        assert result[2] == -float("inf")


def test_random_floats_have_the_same_bits_everywhere_and_always(hvd):
    torch.manual_seed(hvd.rank())
    mine = torch.randn(100_003)
    first = hvd.allreduce(mine)
    assert same_bits(hvd.allreduce(mine), first)
    everyones = hvd.allgather(first.reshape(1, -1))
    assert all(same_bits(row, first) for row in everyones)


def test_barrier(hvd):
    for _ in range(20):
        hvd.barrier()


def test_topology(hvd):
    assert hvd.allgather(torch.tensor(hvd.rank())).tolist() == list(range(hvd.size()))
    assert hvd.local_size() * hvd.cross_size() == hvd.size()
    assert 0 <= hvd.local_rank() < hvd.local_size()
    assert 0 <= hvd.cross_rank() < hvd.cross_size()
