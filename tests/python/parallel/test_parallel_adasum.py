"""The optimizer that combines the ranks' steps by Adasum."""

from __future__ import annotations

import pytest
import torch
from rank_values import device_type, same_bits, seeded
from torch import nn


def adasum(hvd, parameters, **options):
    return hvd.DistributedOptimizer(torch.optim.SGD(parameters, lr=1.0), op=hvd.Adasum, **options)


def assert_same_everywhere(hvd, tensor):
    flat = tensor.detach().reshape(1, -1)
    for row in hvd.allgather(flat):
        assert same_bits(row, flat[0])


def test_equal_steps_are_averaged(hvd):
    weight = nn.Parameter(torch.ones(4))
    optimizer = adasum(hvd, [weight])
    (weight * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight, torch.tensor([0.0, -1.0, -2.0, -3.0]))


def test_orthogonal_steps_add_up(hvd):
    weight = nn.Parameter(torch.zeros(hvd.size()))
    optimizer = adasum(hvd, [weight])
    weight[hvd.rank()].backward()
    optimizer.step()
    torch.testing.assert_close(weight, -torch.ones(hvd.size()))


@pytest.mark.ranks(2)
def test_two_ranks_follow_the_formula(hvd):
    pair = hvd.add_process_set([0, 1]) if hvd.size() > 2 else hvd.global_process_set
    generator = seeded(5)
    gradients = [torch.randn(3, 5, generator=generator) for _ in range(2)]
    weight = nn.Parameter(torch.zeros(3, 5))
    optimizer = adasum(hvd, [weight], process_set=pair)
    if pair.included():
        (weight * gradients[hvd.rank()]).sum().backward()
        optimizer.step()
        a, b = (-g for g in gradients)
        dot = (a * b).sum()
        expected = (1 - dot / (2 * (a * a).sum())) * a + (1 - dot / (2 * (b * b).sum())) * b
        torch.testing.assert_close(weight.detach(), expected)
    hvd.remove_process_set(pair)  # leaves the global one alone


@pytest.mark.parametrize("compression", ["none", "bf16"])
def test_training_converges_and_ranks_agree(hvd, compression):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.Adam(model.parameters(), lr=0.02),
        model.named_parameters(),
        getattr(hvd.Compression, compression),
        op=hvd.Adasum,
    )
    generator = seeded(hvd.rank())
    inputs = torch.randn(64, 6, generator=generator)
    targets = inputs[:, :1] - inputs[:, 1:2]
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    for parameter in model.parameters():
        assert_same_everywhere(hvd, parameter)


@pytest.mark.ranks(2)
def test_a_rank_that_overflows_contributes_nothing(hvd):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = adasum(hvd, [weight])
    scaler = torch.amp.GradScaler(device_type(), init_scale=4.0)
    overflows = hvd.rank() == hvd.size() - 1
    scaler.scale(weight.sum() * (float("inf") if overflows else 1.0)).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(weight.detach(), torch.full((2,), -1.0))
    assert scaler.get_scale() == (2.0 if overflows else 4.0)
