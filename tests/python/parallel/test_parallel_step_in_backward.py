"""Stepping within the backward pass gives the same parameters, with fewer gradients about."""

from __future__ import annotations

import copy

import pytest
import torch
from hora.errors import UsageError
from rank_values import device_type, same_bits, seeded
from torch import nn

pytestmark = pytest.mark.any_backend

STEPS = 4
WIDTH = 700  # a layer's weight fills half a bucket


def network(layers=8):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))


def share(rank, step):
    generator = seeded(100 * step + rank)
    return torch.randn(2, WIDTH, generator=generator)


def loss_of(model, rank, step):
    return model(share(rank, step)).square().mean()


def train(hvd, make, passes=1, **options):
    model = network()
    inner = make(model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(inner, 0.9)
    optimizer = hvd.DistributedOptimizer(inner, backward_passes_per_step=passes, **options)
    for step in range(STEPS):
        for turn in range(passes):
            loss_of(model, hvd.rank(), step * passes + turn).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model, optimizer


def assert_same(model, other):
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert same_bits(ours.detach(), theirs.detach())


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
}


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_result_is_that_of_an_ordinary_step(hvd, kind, passes):
    model, optimizer = train(hvd, MAKERS[kind], passes, step_in_backward=True)
    other, ordinary = train(hvd, MAKERS[kind], passes)
    assert_same(model, other)
    mine, theirs = optimizer.state_dict(), ordinary.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()


def test_few_gradients_exist_at_a_time(hvd):
    """Counted when the first layer's gradient is there, in the end of the backward pass."""

    def gradients_at_the_end(**options):
        model = network(layers=12)
        inner = torch.optim.SGD(model.parameters(), lr=0.01)
        optimizer = hvd.DistributedOptimizer(inner, **options)
        seen = []
        model[0].weight.register_post_accumulate_grad_hook(
            lambda _: seen.append(sum(p.grad is not None for p in model.parameters()))
        )
        for step in range(2):
            loss_of(model, hvd.rank(), step).backward()
            optimizer.step()
            optimizer.zero_grad()
        return max(seen)

    assert gradients_at_the_end() >= 23
    assert gradients_at_the_end(step_in_backward=True) <= 12  # two buckets of at most six


@pytest.mark.ranks(2)
def test_layers_that_not_all_ranks_use(hvd):
    def run(**options):
        model = network(layers=6)
        inner = torch.optim.SGD(model.parameters(), lr=0.01)
        optimizer = hvd.DistributedOptimizer(inner, **options)
        for step in range(STEPS):
            model[1].requires_grad_(step % 2 == 0)
            used = [layer for i, layer in enumerate(model) if i != hvd.rank() + 2]
            loss_of(nn.Sequential(*used), hvd.rank(), step).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    assert_same(run(step_in_backward=True), run())


def test_compression_copies_and_added_parameters(hvd):
    def run(**options):
        model, more = network(layers=3), nn.Parameter(torch.ones(WIDTH))
        inner = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
        optimizer = hvd.DistributedOptimizer(inner, compression=hvd.Compression.bf16, **options)
        for step in range(STEPS):
            if step == 1:
                optimizer.add_param_group({"params": [more], "lr": 0.1})
            if step == 2:
                model, more, optimizer = copy.deepcopy((model, more, optimizer))
            (model(share(hvd.rank(), step)) * more).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return nn.ParameterList([*model.parameters(), more])

    assert_same(run(step_in_backward=True), run())


def test_what_needs_all_gradients_is_refused(hvd):
    model = network(layers=2)

    def make(**options):
        inner = torch.optim.SGD(model.parameters(), lr=0.01)
        return hvd.DistributedOptimizer(inner, step_in_backward=True, **options)

    optimizer = make()
    scaler = torch.amp.GradScaler(device_type())
    scaler.scale(loss_of(model, hvd.rank(), 0)).backward()
    with pytest.raises(UsageError, match="GradScaler needs all gradients"):
        scaler.step(optimizer)
    optimizer.step()
    for call in (optimizer.synchronize, optimizer.skip_synchronize, lambda: optimizer.step(int)):
        with pytest.raises(UsageError, match="leave that option out"):
            call()
    for options in ({"groups": 1}, {"gradient_as_bucket_view": True}, {"op": hvd.Adasum}):
        with pytest.raises(UsageError, match="step_in_backward"):
            make(**options)
    with pytest.raises(UsageError, match="LBFGS"):
        hvd.DistributedOptimizer(torch.optim.LBFGS(model.parameters()), step_in_backward=True)
