"""When gradients are submitted: during the backward pass, or all at once by who waits for them."""

from __future__ import annotations

import os

import pytest
import torch
from hora.errors import PeerFailedError, UsageError


def network():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def loss_of(model):
    return model(torch.ones(5, 4)).square().sum()


def wrapped(hvd, model, **options):
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    return hvd.DistributedOptimizer(sgd, model.named_parameters(), **options)


@pytest.fixture
def model():
    return network()


@pytest.fixture
def late(hvd, model):
    """An optimizer that reduces everything when it is asked to step."""
    return wrapped(hvd, model, overlap=False)


@pytest.mark.parametrize(("cores", "early"), [(1, False), (2, False), (3, True)])
def test_an_overlap_needs_a_core_to_spare(core, hvd, model, monkeypatch, cores, early):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    optimizer = wrapped(hvd, model)  # one rank of two threads
    loss_of(model).backward()
    assert len(core.calls) == (4 if early else 0)
    optimizer.step()
    assert len(core.calls) == 4


@pytest.mark.parametrize("groups", [None, 2])
def test_late_gradients_go_together(core, hvd, model, groups):
    optimizer = wrapped(hvd, model, overlap=False, groups=groups)
    for step in range(2):
        loss_of(model).backward()
        assert len(core.calls) == step * (groups or 4)
        optimizer.step()
        optimizer.zero_grad()
    assert len(core.calls) == 2 * (groups or 4)


def test_late_gradients_are_guarded_as_early_ones(core, model, late):
    loss_of(model).backward()
    with pytest.raises(UsageError, match=r"zero_grad.*before step"):
        late.zero_grad()
    with pytest.raises(UsageError, match="more than backward_passes_per_step"):
        loss_of(model).backward()
    late.synchronize()
    with pytest.raises(UsageError, match="beyond backward_passes_per_step"):
        late.step()
    late.zero_grad()
    loss_of(model).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with pytest.raises(UsageError, match="changed between"):
        late.step()
    late.zero_grad()
    loss_of(model).backward()
    late.step()
    assert len(core.calls) == 12


def test_a_group_that_is_lost_leaves_nothing_pending(core, model, late):
    loss_of(model).backward()
    core.fail_submit = PeerFailedError("rank 1 is gone")
    with pytest.raises(PeerFailedError):
        late.step()
    core.fail_submit = None
    late.zero_grad()
    loss_of(model).backward()
    late.step()


def test_what_only_python_can_submit_goes_in_the_same_step(core, hvd):
    table = torch.nn.Embedding(6, 2, sparse=True)
    head, unused = torch.nn.Linear(2, 2), torch.nn.Parameter(torch.ones(3))
    sgd = torch.optim.SGD([*table.parameters(), *head.parameters(), unused], lr=1.0)
    optimizer = hvd.DistributedOptimizer(sgd, overlap=False)
    head(table(torch.tensor([1]))).sum().backward()
    assert core.calls == []
    optimizer.step()
    assert sorted(len(c.input) if isinstance(c.input, list) else 0 for c in core.calls) == [
        0, 0, 0, 3,  # the rows of the table with their places and its shape
    ]  # fmt: skip
    assert unused.grad is not None


# --- gradients that have a place ---


def test_gradients_move_into_their_views(core, hvd, model):
    optimizer = wrapped(hvd, model, gradient_as_bucket_view=True)
    places = set()
    for _ in range(3):
        loss_of(model).backward()
        places.add(tuple(p.grad.data_ptr() for p in model.parameters()))
        optimizer.step()
        optimizer.zero_grad()
    assert len(places) == 1
    # The last parameter comes first, each on a line of the cache.
    first, *_, last = next(iter(places))
    assert 0 < first - last <= 4 * 64


def test_one_view_does_not_change_with_another(hvd, model):
    optimizer = wrapped(hvd, model, gradient_as_bucket_view=True)
    loss_of(model).backward()
    optimizer.step()
    gradients = [p.grad for p in model.parameters()]
    before = [g._version for g in gradients]
    gradients[0].add_(1)
    assert [g._version for g in gradients[1:]] == before[1:]


def test_gradients_of_other_strides_move_too(hvd):
    layer = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    twin = torch.nn.Conv2d(3, 4, 2)
    twin.load_state_dict(layer.state_dict())
    optimizer = wrapped(hvd, layer, gradient_as_bucket_view=True)
    inputs = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)
    for _ in range(2):
        for net in (layer, twin):
            net.zero_grad()
            net(inputs).square().sum().backward()
        optimizer.synchronize()
        assert layer.weight.grad.is_contiguous()
        torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
