"""The optimizer that combines the ranks' steps, over a fake engine that returns its input."""

from __future__ import annotations

import copy

import pytest
import torch
from hora.errors import PeerFailedError, UsageError


@pytest.fixture
def pair(core, hvd):
    """Two ranks that do the same: Adasum of two equal changes is that change."""
    hvd.shutdown()
    core.size = 2
    hvd.init()
    return hvd


def network():
    torch.manual_seed(3)
    return torch.nn.Linear(4, 2)


def adasum(hvd, model, **options):
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    return hvd.DistributedOptimizer(adam, model.named_parameters(), op=hvd.Adasum, **options)


def backward(model):
    model(torch.ones(3, 4)).square().sum().backward()


def test_it_steps_and_then_combines(core, pair):
    model, twin = network(), network()
    optimizer, plain = adasum(pair, model), torch.optim.Adam(twin.parameters(), lr=0.1)
    assert isinstance(optimizer, pair.DistributedOptimizer)
    for _ in range(2):
        for m, o in ((model, optimizer), (twin, plain)):
            o.zero_grad()
            backward(m)
            o.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert {call.reduce_op for call in core.calls} == {pair.Adasum}
    assert core.names == ["DistributedOptimizer.0.weight", "DistributedOptimizer.0.bias"] * 2


def test_op_may_be_the_fifth_argument(pair):
    sgd = torch.optim.SGD(network().parameters(), lr=1.0)
    optimizer = pair.DistributedOptimizer(sgd, None, pair.Compression.none, 1, pair.Adasum)
    assert "Adasum" in repr(optimizer)
    assert "Adasum" in repr(copy.deepcopy(optimizer))


def test_gradients_stay_local(core, pair):
    model = network()
    optimizer = adasum(pair, model, backward_passes_per_step=2)
    for _ in range(2):
        with optimizer.no_sync():
            backward(model)
    optimizer.synchronize()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with optimizer.skip_synchronize():
        assert core.calls == []
        optimizer.step()
    assert len(core.calls) == 2


def test_compressed_changes(core, pair):
    model = network()
    optimizer = adasum(pair, model, compression=pair.Compression.bf16)
    before = model.weight.detach().clone()
    backward(model)
    optimizer.step()
    assert {call.input.dtype for call in core.calls} == {torch.bfloat16}
    change = model.weight - before
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.1), rtol=0.01, atol=0)


def test_a_step_that_fails_changes_nothing(core, pair):
    model = network()
    optimizer = adasum(pair, model)
    before = copy.deepcopy(model.state_dict())
    backward(model)
    core.fail_submit = PeerFailedError("rank 1 is gone")
    with pytest.raises(PeerFailedError):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_closures_are_each_ranks_own(core, pair):
    model = network()
    lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=3)
    optimizer = pair.DistributedOptimizer(lbfgs, op=pair.Adasum)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).square().sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    assert optimizer.step(closure).item() == losses[0]
    assert len(losses) > 1
    assert len(core.calls) == 2


@pytest.mark.parametrize("overflow", [False, True])
def test_gradient_scaler(core, pair, overflow):
    model, twin = network(), network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = pair.DistributedOptimizer(sgd, op=pair.Adasum)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    inputs = torch.full((3, 4), float("inf") if overflow else 1.0)
    scaler.scale(model(inputs).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert len(core.calls) == 2  # also a rank that skips takes part
    if not overflow:
        twin(inputs).sum().backward()
        torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert scaler.get_scale() == (512.0 if overflow else 1024.0)


def test_frozen_parameters(core, pair):
    model = network()
    model.bias.requires_grad_(False)
    optimizer = adasum(pair, model)
    backward(model)
    optimizer.step()
    assert core.names == ["DistributedOptimizer.0.weight"]


def test_alone_it_is_the_wrapped_optimizer(core, hvd):
    model = network()
    optimizer = adasum(hvd, model)
    backward(model)
    optimizer.step()
    assert core.calls == []


@pytest.mark.parametrize("options", [{"groups": 1}, {"sparse_as_dense": True}])
def test_what_has_no_meaning(pair, options):
    with pytest.raises(UsageError, match="op=Adasum combines updates"):
        adasum(pair, network(), **options)
    with pytest.raises(UsageError, match="op=Average only"):
        adasum(pair, network(), gradient_predivide_factor=2.0)
