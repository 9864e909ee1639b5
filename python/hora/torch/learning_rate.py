"""The learning rate for a batch that has grown with the number of ranks.

Goyal et al., "Accurate, Large Minibatch SGD", 2017 (arXiv:1706.02677): multiply the learning rate
by the factor by which the global batch grew, and reach it gradually over the first epochs.
"""

from __future__ import annotations

import math

import torch

from hora import runtime
from hora.errors import UsageError

__all__ = ["scale_lr", "warmup"]


def scale_lr(lr: float, mode: str = "linear", factor: float | None = None) -> float:
    """The learning rate for ``factor`` times the batch.

    Args:
        lr: what suits the batch of one rank.
        mode: "linear" multiplies by the factor (SGD), "sqrt" by its root (often used with Adam).
        factor: how much larger the global batch is; None means ``hvd.size()``. With
            ``backward_passes_per_step=n``, ``n * hvd.size()``.
    """
    return lr * _growth(mode, factor)


def warmup(
    optimizer: torch.optim.Optimizer,
    epochs: float = 5,
    steps_per_epoch: int = 1,
    mode: str = "linear",
    factor: float | None = None,
) -> torch.optim.lr_scheduler.LinearLR:
    """A scheduler that leads from the learning rate of one rank to the scaled one.

        optimizer = torch.optim.SGD(model.parameters(), lr=hvd.scale_lr(0.1))
        optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters())
        schedule = hvd.warmup(optimizer, epochs=5, steps_per_epoch=len(loader))
        for batch in loader:
            ...
            optimizer.step()
            schedule.step()

    The optimizer's learning rate is the scaled one; the schedule starts at the fraction of it that
    ``scale_lr`` multiplied by, and rises in a line over ``epochs * steps_per_epoch`` calls of
    ``step()`` (so with ``steps_per_epoch=1`` call that once an epoch). It can be chained with other
    schedulers of ``torch.optim.lr_scheduler``.
    """
    steps = round(epochs * steps_per_epoch)
    if steps < 0:
        raise UsageError(f"a warm-up of {epochs} epochs of {steps_per_epoch} steps has no length")
    start = 1.0 / _growth(mode, factor)
    # LinearLR takes at least one step, and factors up to 1 only.
    return torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=min(start, 1.0) if steps else 1.0, total_iters=max(steps, 1)
    )


def _growth(mode: str, factor: float | None) -> float:
    growth = runtime.size() if factor is None else factor
    if not growth > 0:
        raise UsageError(f"factor={factor!r} is not a number above 0")
    if mode == "linear":
        return float(growth)
    if mode == "sqrt":
        return math.sqrt(growth)
    raise UsageError(f"mode={mode!r} is neither 'linear' nor 'sqrt'")
