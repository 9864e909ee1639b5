"""Gradients of the blocking operations, over a fake engine of identical ranks."""

from __future__ import annotations

import pytest
import torch
from hora.errors import UsageError


@pytest.fixture
def hvd(core, hvd):
    hvd.shutdown()
    core.size = 3
    hvd.init()
    core.calls.clear()
    return hvd


def leaf(*shape):
    return torch.ones(*shape, requires_grad=True)


# What an operation's gradient is when every entry of the result has the gradient 1 on all 3 ranks.
CASES = {
    "sum": (lambda hvd, x: hvd.allreduce(x, op=hvd.Sum), 3.0),
    "average": (lambda hvd, x: hvd.allreduce(x), 1.0),
    "scaled": (lambda hvd, x: hvd.allreduce(x, prescale_factor=0.5), 0.5),
    "compressed": (lambda hvd, x: hvd.allreduce(x, compression=hvd.Compression.bf16), 1.0),
    "group": (lambda hvd, x: hvd.grouped_allreduce([x], op=hvd.Sum)[0], 3.0),
    "allgather": (lambda hvd, x: hvd.allgather(x), 1.0),
    "broadcast": (lambda hvd, x: hvd.broadcast(x, 0), 1.0),
    "broadcast from another": (lambda hvd, x: hvd.broadcast(x, 1), 0.0),
    "alltoall": (lambda hvd, x: hvd.alltoall(x), 1.0),
    "reducescatter": (lambda hvd, x: hvd.reducescatter(x), 1.0),
    "reducescatter sum": (lambda hvd, x: hvd.reducescatter(x, op=hvd.Sum, postscale_factor=2.0), 6),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients(core, hvd, case):
    call, expected = CASES[case]
    x = leaf(3, 2)
    # sum() hands an expanded gradient, without memory of its own, to backward.
    call(hvd, x).sum().backward()
    assert torch.equal(x.grad, torch.full((3, 2), float(expected)))
    forward, backward = core.names
    assert backward == f"{forward}.grad"


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_gradients(hvd, case):
    x = leaf(3, 2)
    (first,) = torch.autograd.grad(CASES[case][0](hvd, x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.shape == x.shape


@pytest.mark.parametrize("case", CASES)
def test_without_a_gradient_there_is_no_graph(hvd, case):
    call = CASES[case][0]
    assert not call(hvd, torch.ones(3, 2)).requires_grad
    with torch.no_grad():
        assert not call(hvd, leaf(3, 2)).requires_grad


@pytest.mark.parametrize("case", CASES)
def test_results_may_be_changed_in_place(hvd, case):
    x = leaf(3, 2)
    result = CASES[case][0](hvd, x)
    result += 1
    result.sum().backward()
    assert torch.equal(x.grad, torch.full((3, 2), float(CASES[case][1])))


def test_groups(core, hvd):
    x, y = leaf(2), torch.ones(3, dtype=torch.int64)
    out, whole = hvd.grouped_allreduce([x, y], op=hvd.Sum, name="g")
    assert not whole.requires_grad
    out.sum().backward()
    assert core.names == ["g", "g.grad"]
    assert x.grad.tolist() == [3, 3]
    a, b = leaf(2, 2), leaf(())
    first, second = hvd.grouped_allgather([a, b])
    (first.sum() + 2 * second.sum()).backward()
    assert torch.equal(a.grad, torch.ones(2, 2))
    assert b.grad.item() == 2


def test_alltoall_with_rows_that_stay(hvd):
    x = leaf(4, 2)
    received, counts = hvd.alltoall(x, splits=[1, 1, 1])
    assert not counts.requires_grad
    received.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 1], [1, 1], [1, 1], [0, 0]]))


@pytest.mark.parametrize("op", ["Min", "Max", "Product", "Adasum"])
def test_reductions_without_a_gradient_say_so(hvd, op):
    result = hvd.allreduce(leaf(2), op=getattr(hvd, op))
    with pytest.raises(UsageError, match=f"allreduce with op={op} has no gradient.*detach"):
        result.sum().backward()


def test_a_failure_in_forward_and_backward(core, hvd):
    core.fail_submit = UsageError("no")
    with pytest.raises(UsageError, match="no"):
        hvd.allreduce(leaf(2))
    core.fail_submit = None
    result = hvd.allreduce(leaf(2))
    core.fail_submit = UsageError("no")
    with pytest.raises(UsageError, match="no"):
        result.sum().backward()
