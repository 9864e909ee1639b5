"""GradScaler with the distributed optimizer: it must see reduced gradients, and skip alike."""

from __future__ import annotations

import hora.torch as hvd
import pytest
import torch
from rank_values import device_type

pytestmark = pytest.mark.any_backend


def _train(*, fused: bool, poisoned_step: int | None) -> tuple[torch.Tensor, list[float]]:
    """Five steps with a scaler; on ``poisoned_step`` the last rank's gradients are infinite."""
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1, fused=fused),
        named_parameters=model.named_parameters(),
    )
    scaler = torch.amp.GradScaler(device_type(), init_scale=1024.0, growth_interval=1000)
    scales = []
    for step in range(5):
        optimizer.zero_grad()
        inputs = torch.full((8, 64), 1.0 + hvd.rank())
        if step == poisoned_step and hvd.rank() == hvd.size() - 1:
            inputs = inputs * float("inf")
        scaler.scale(model(inputs).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return model.weight.detach(), scales


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_steps_are_those_of_one_process(fused: bool) -> None:
    weight, _ = _train(fused=fused, poisoned_step=None)
    torch.manual_seed(0)
    alone = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    mean_input = 1.0 + (hvd.size() - 1) / 2
    for _ in range(5):
        optimizer.zero_grad()
        alone(torch.full((8, 64), mean_input)).mean().backward()
        optimizer.step()
    assert torch.allclose(weight, alone.weight, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_on_one_rank_skips_the_same_step_on_all(fused: bool) -> None:
    weight, scales = _train(fused=fused, poisoned_step=2)
    assert torch.isfinite(weight).all()
    assert scales == [1024.0, 1024.0, 512.0, 512.0, 512.0]
    everyone = hvd.allgather(weight.reshape(1, -1), name="weights after overflow")
    assert (everyone == everyone[0]).all()


def test_unscale_before_clipping_sees_reduced_gradients() -> None:
    model = torch.nn.Linear(256, 256)
    hvd.broadcast_parameters(model)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler(device_type(), init_scale=1024.0)
    scaler.scale(model(torch.full((4, 256), 1.0 + hvd.rank())).sum()).backward()
    scaler.unscale_(optimizer)
    gradient = model.weight.grad
    assert gradient is not None
    assert torch.allclose(gradient, torch.full_like(gradient, 4.0 * (1 + (hvd.size() - 1) / 2)))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
