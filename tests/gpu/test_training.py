"""Training on a GPU gives what training on the CPU gives, within rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

STEPS = 8
BATCH = 12


@pytest.fixture(autouse=True)
def exact():
    """The GPU convolves as exactly as the CPU; products of matrices are exact by default."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(8 * 3 * 3, 32), nn.Tanh(), nn.Linear(32, 10),
    )  # fmt: skip


def share(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    images = torch.randn(BATCH, 3, 8, 8, generator=generator)
    return images, torch.randint(10, (BATCH,), generator=generator)


def loss_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(images), labels)


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}


def train_on_cpu(size: int, kind: str) -> nn.Module:
    """All ranks' data in one process."""
    model = network()
    optimizer = MAKERS[kind](model.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(size):
            (loss_of(model, *share(rank, step)) / size).backward()
        optimizer.step()
    return model


def train(hvd, kind: str, **options) -> nn.Module:
    model = network().cuda()
    inner = MAKERS[kind](model.parameters())
    hvd.broadcast_parameters(model, 0)
    hvd.broadcast_optimizer_state(inner, 0)
    optimizer = hvd.DistributedOptimizer(inner, model.named_parameters(), **options)
    for step in range(STEPS):
        optimizer.zero_grad()
        images, labels = share(hvd.rank(), step)
        loss_of(model, images.cuda(), labels.cuda()).backward()
        optimizer.step()
    return model


def assert_close(model: nn.Module, other: nn.Module, tolerance: float = 2e-4) -> None:
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            ours.detach().cpu(), theirs.detach(), rtol=tolerance, atol=tolerance
        )


OPTIONS = {
    "plain": {},
    "grouped": {"groups": 1},
    "views": {"gradient_as_bucket_view": True},
    "in backward": {"step_in_backward": True},
    "no overlap": {"overlap": False},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", MAKERS)
def test_training_equals_the_cpu(hvd, kind, options):
    model = train(hvd, kind, **OPTIONS[options])
    assert_close(model, train_on_cpu(hvd.size(), kind))
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    for row in hvd.allgather(flat.reshape(1, -1)):
        assert torch.equal(row, flat)


def test_training_on_a_side_stream(hvd):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        model = train(hvd, "sgd")
    side.synchronize()
    assert_close(model, train_on_cpu(hvd.size(), "sgd"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_with_a_scaler(hvd, dtype):
    model = network().cuda()
    optimizer = hvd.DistributedOptimizer(MAKERS["sgd"](model.parameters()))
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    for step in range(STEPS):
        optimizer.zero_grad()
        images, labels = (tensor.cuda() for tensor in share(hvd.rank(), step))
        with torch.autocast("cuda", dtype):
            loss = loss_of(model, images, labels)
        scaler.scale(loss).backward()
        optimizer.synchronize()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        with optimizer.skip_synchronize():
            scaler.step(optimizer)
        scaler.update()
    assert_close(model, train_on_cpu(hvd.size(), "sgd"), tolerance=5e-2)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_compressed_gradients(hvd, kind):
    model = train(hvd, "sgd", compression=getattr(hvd.Compression, kind))
    assert_close(model, train_on_cpu(hvd.size(), "sgd"), tolerance=5e-2)
