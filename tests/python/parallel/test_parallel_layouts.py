"""Tensors that are not row-major: read, reduced and written as any other."""

from __future__ import annotations

import pytest
import torch
from hora.errors import UsageError
from rank_values import values_of

# Each makes a view of fresh memory that holds the values 0, 1, … in its own order.
LAYOUTS = {
    "transposed": lambda: torch.empty(6, 5).t(),
    "sliced": lambda: torch.empty(9, 12)[1::2, ::3],
    "channels_last": lambda: torch.empty(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "one column": lambda: torch.empty(7, 3)[:, 1],
    "offset": lambda: torch.empty(20)[3:9],
    "permuted": lambda: torch.empty(2, 3, 4).permute(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(hvd, layout):
    tensors = [
        LAYOUTS[layout]().copy_(values_of(rank, LAYOUTS[layout]().shape))
        for rank in range(hvd.size())
    ]
    total = sum(tensors)
    mine = tensors[hvd.rank()]
    strides = mine.stride()
    assert torch.equal(hvd.allreduce(mine, op=hvd.Sum), total)
    assert torch.equal(hvd.broadcast(mine, 0), tensors[0])
    assert torch.equal(hvd.allgather(mine), torch.cat(tensors))
    copy = LAYOUTS[layout]().copy_(mine)
    assert torch.equal(hvd.broadcast_(copy, 0), tensors[0])
    hvd.allreduce_async_(mine, op=hvd.Sum).wait()
    assert torch.equal(mine, total)
    assert mine.stride() == strides


def test_memory_around_a_view_is_left_alone(hvd):
    base = torch.zeros(6, 6)
    hvd.allreduce_(base[1:5:2, 1:5:2].fill_(1.0), op=hvd.Sum)
    assert base.sum().item() == 4 * hvd.size()


@pytest.mark.ranks(2)
def test_ranks_may_differ_in_layout(hvd):
    tensor = torch.arange(6.0).reshape(2, 3)
    if hvd.rank() % 2:
        tensor = tensor.t().contiguous().t()
    assert torch.equal(hvd.allreduce(tensor), torch.arange(6.0).reshape(2, 3))


def test_expanded_tensors(hvd):
    expanded = torch.tensor([float(hvd.rank())]).expand(3, 4)
    total = float(sum(range(hvd.size())))
    assert torch.equal(hvd.allreduce(expanded, op=hvd.Sum), torch.full((3, 4), total))
    with pytest.raises(UsageError, match="share memory"):
        hvd.allreduce_(expanded)


def test_leaves_that_require_grad(hvd):
    weight = torch.nn.Parameter(torch.full((2, 3), float(hvd.rank())))
    hvd.allreduce_(weight, op=hvd.Sum)
    assert weight.requires_grad
    assert weight.is_leaf
    assert weight[0, 0].item() == sum(range(hvd.size()))
    column = torch.nn.Parameter(torch.full((3, 2), float(hvd.rank())).t())
    hvd.broadcast_(column, hvd.size() - 1)
    assert column[0, 0].item() == hvd.size() - 1
    assert hvd.allreduce(weight).requires_grad
    assert not hvd.allreduce_async(weight).wait().requires_grad


@pytest.mark.timeout(300)
@pytest.mark.ranks(2)
def test_more_than_2_to_the_31_bytes(hvd):
    import psutil

    size = 2**31 + 5
    enough = psutil.virtual_memory().available > 2.5 * size * hvd.size()
    if not hvd.allreduce(torch.tensor(enough), op=hvd.Min).item():
        pytest.skip("not enough memory")
    tensor = torch.zeros(size, dtype=torch.uint8)
    tensor[-3:] = hvd.rank() + 1
    hvd.allreduce_(tensor, op=hvd.Max)
    assert tensor[-4:].tolist() == [0] + [hvd.size()] * 3
    assert int(tensor[: 2**20].max()) == 0
    tensor[-1] = hvd.rank()
    hvd.broadcast_(tensor, 1)
    assert tensor[-2:].tolist() == [hvd.size(), 1]
