"""Gradients through operations, and batch normalisation, against one process that has all data."""

from __future__ import annotations

import threading

import pytest
import torch
from hora.errors import UsageError


def weights_of(rank, shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape) * (rank + 1)


def gradient_of(hvd, call, x):
    """What backward() gives x when rank r weighs the result by ``weights_of(r)``."""
    result = call(x)
    (result * weights_of(hvd.rank(), result.shape)).sum().backward()
    return x.grad


def summed(hvd, shape):
    return sum(weights_of(rank, shape) for rank in range(hvd.size()))


@pytest.fixture
def x(hvd):
    return torch.full((hvd.size(), 3), float(hvd.rank()), requires_grad=True)


def test_allreduce(hvd, x):
    total = summed(hvd, x.shape)
    assert torch.equal(gradient_of(hvd, lambda x: hvd.allreduce(x, op=hvd.Sum), x), total)
    x.grad = None
    torch.testing.assert_close(gradient_of(hvd, hvd.allreduce, x), total / hvd.size())
    x.grad = None
    grouped = gradient_of(hvd, lambda x: hvd.grouped_allreduce([x, x])[1], x)
    torch.testing.assert_close(grouped, total / hvd.size())


def test_allgather_with_different_rows(hvd):
    me, n = hvd.rank(), hvd.size()
    x = torch.ones(me + 1, 2, requires_grad=True)
    mean = summed(hvd, (n * (n + 1) // 2, 2)) / n
    start = me * (me + 1) // 2
    torch.testing.assert_close(gradient_of(hvd, hvd.allgather, x), mean[start : start + me + 1])


@pytest.mark.ranks(2)
def test_broadcast_of_infinite_gradients(hvd):
    x = torch.ones(2, requires_grad=True)
    hvd.broadcast(x, 0).backward(torch.tensor([1.0, torch.inf]))
    expected = [1.0, torch.inf] if hvd.rank() == 0 else [0.0, 0.0]
    assert x.grad.tolist() == expected


def test_broadcast(hvd, x):
    root = hvd.size() - 1
    mean = summed(hvd, x.shape) / hvd.size()
    expected = mean if hvd.rank() == root else torch.zeros_like(mean)
    torch.testing.assert_close(gradient_of(hvd, lambda x: hvd.broadcast(x, root), x), expected)


def test_alltoall(hvd, x):
    expected = torch.stack([weights_of(r, x.shape)[hvd.rank()] for r in range(hvd.size())])
    assert torch.equal(gradient_of(hvd, hvd.alltoall, x), expected)
    splits = torch.arange(hvd.size())
    y = torch.ones(int(splits.sum()) + 1, requires_grad=True)
    hvd.alltoall(y, splits)[0].sum().backward()
    assert y.grad.tolist() == [1.0] * int(splits.sum()) + [0.0]


def test_reducescatter(hvd, x):
    shares = torch.cat([weights_of(r, (1, 3)) for r in range(hvd.size())])
    assert torch.equal(gradient_of(hvd, hvd.reducescatter, x), shares)
    x.grad = None
    total = gradient_of(hvd, lambda x: hvd.reducescatter(x, op=hvd.Sum), x)
    assert torch.equal(total, shares * hvd.size())


def test_gradients_meet_by_name(hvd):
    xs = [torch.ones(2, requires_grad=True) for _ in range(6)]
    results = [hvd.allreduce(x, op=hvd.Sum, name=f"w{k}") for k, x in enumerate(xs)]
    order = range(6) if hvd.rank() % 2 else range(5, -1, -1)
    # Backward passes one by one, in another order on each rank, from as many threads.
    threads = [threading.Thread(target=results[k].mul(k + 1).sum().backward) for k in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [x.grad[0].item() for x in xs] == [(k + 1) * hvd.size() for k in range(6)]
    with pytest.raises(UsageError, match="no gradient"):
        hvd.allreduce(xs[0], op=hvd.Max).sum().backward()


def test_second_derivatives(hvd):
    x = torch.tensor([2.0], requires_grad=True)
    (first,) = torch.autograd.grad(hvd.allreduce(x, op=hvd.Sum).pow(3), x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    n = hvd.size()
    assert second.item() == pytest.approx(n * 6 * (2 * n) * n)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_sync_batch_norm(hvd, affine, uneven):
    torch.manual_seed(7)
    sizes = [r + 2 if uneven else 4 for r in range(hvd.size())]
    everything = (torch.randn(sum(sizes), 3, 5) * 2 + 50).requires_grad_()
    weights = torch.randn_like(everything)
    mine = slice(sum(sizes[: hvd.rank()]), sum(sizes[: hvd.rank() + 1]))
    x = everything.detach()[mine].requires_grad_()
    reference = torch.nn.BatchNorm1d(3, affine=affine)
    model = hvd.convert_sync_batchnorm(
        torch.nn.ModuleList([torch.nn.BatchNorm1d(3, affine=affine) for _ in range(2)])
    )
    for layer in model:  # two of them, at work at once
        expected = reference(everything)
        result = layer(x)
        torch.testing.assert_close(result, expected[mine], rtol=1e-5, atol=1e-5)
        everything.grad = x.grad = None
        (expected * weights).sum().backward()
        (result * weights[mine]).sum().backward()
        torch.testing.assert_close(x.grad, everything.grad[mine], rtol=1e-5, atol=1e-5)
        for own, whole in zip(layer.parameters(), reference.parameters(), strict=True):
            total = hvd.allreduce(own.grad, op=hvd.Sum)
            torch.testing.assert_close(total, whole.grad, rtol=1e-4, atol=1e-4)
            whole.grad = None
        for own, whole in zip(layer.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-5, atol=1e-5)
        reference.reset_running_stats()


def test_sync_batch_norm_of_a_rank_without_samples(hvd):
    if hvd.size() < 2:
        pytest.skip("needs 2 ranks")
    x = torch.randn(0 if hvd.rank() == 0 else 6, 2, requires_grad=True)
    layer = hvd.SyncBatchNorm(2)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert layer.num_batches_tracked.item() == 1
