"""Batch normalisation over the batches of all ranks.

Each rank sends the count, mean and sum of squared deviations of its channels, in one allgather; all
ranks combine them in the same order (Chan's parallel algorithm, in double precision), so batches of
different sizes are exact and large means lose no digits. The backward pass is one allreduce.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.compiler import is_dynamo_compiling
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from hora.errors import UsageError
from hora.ops import Numbers, ReduceOp
from hora.process_sets import ProcessSet, global_process_set, place_in
from hora.torch.exchanges import allgather
from hora.torch.operations import allreduce_

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm"]

# Numbers the instances in the order of their first forward pass, the same on all ranks.
_numbers = Numbers()


class SyncBatchNorm(_BatchNorm):
    """``torch.nn.BatchNorm*d`` with the mean and variance of the batches of all ranks together.

    Input [N, C, …] of floating point, N ≥ 0 of any size on each rank; output of the same shape and
    dtype. Every rank of ``process_set`` calls ``forward`` (and ``backward``) equally often and in
    the same order while training; in ``eval()`` nothing is exchanged. Gradients of ``weight`` and
    ``bias`` are this rank's own, for ``DistributedOptimizer`` to reduce; that of the input takes
    all ranks into account. The other arguments are those of ``torch.nn.BatchNorm2d``. It cannot be
    differentiated twice.
    """

    def __init__(  # noqa: PLR0917 - the order of torch.nn.BatchNorm2d
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_set: ProcessSet = global_process_set,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_set = process_set
        self._name: str | None = None

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise UsageError(
                f"SyncBatchNorm({self.num_features}) needs input of shape [N, {self.num_features}, "
                f"…], not {list(input.shape)}"
            )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalises ``input`` per channel; updates the running statistics while training."""
        if not self.training or place_in(self.process_set)[1] == 1:
            return super().forward(input)
        self._check_input_dim(input)
        if self._name is None:
            self._name = f"SyncBatchNorm.{_numbers.next()}"
        normalise = normalised
        if is_dynamo_compiling():
            from hora.torch.uncompiled import normalised as normalise
        result: torch.Tensor
        result, mean, variance, count = normalise(
            input, self.weight, self.bias, self.eps, self._name, self.process_set
        )
        if self.track_running_stats:
            self._track(mean, variance, count)
        return result

    def _track(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def normalised(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """The arguments of ``_Normalise``; the output, the channels' mean and variance, the count."""
    return cast(
        tuple[torch.Tensor, torch.Tensor, torch.Tensor, int],
        _Normalise.apply(*arguments),  # type: ignore[no-untyped-call]
    )


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes no keywords
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        name: str,
        process_set: ProcessSet,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        wide = _wide(input)
        mean, variance, count = _statistics(wide, name, process_set)
        deviation = torch.rsqrt(variance + eps).to(wide.dtype)
        centre = mean.to(wide.dtype)
        result = functional.batch_norm(
            wide, centre, variance.to(wide.dtype), _as(weight, wide), _as(bias, wide), eps=eps
        )
        ctx.save_for_backward(input, weight, centre, deviation)
        ctx.count, ctx.name, ctx.process_set = count, name, process_set
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        return result.to(input.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
        input, weight, centre, deviation = ctx.saved_tensors
        if gradient is None:
            gradient = torch.zeros_like(input)
        channels = _channels(input)
        normal = (_wide(input) - channels(centre)) * channels(deviation)
        wide = _wide(gradient)
        axes = _axes(input)
        sums = torch.stack([wide.sum(axes), (wide * normal).sum(axes)])
        for_bias, for_weight = sums.clone()
        for_input = None
        if ctx.needs_input_grad[0]:
            allreduce_(sums, name=f"{ctx.name}.grad", op=ReduceOp.SUM, process_set=ctx.process_set)
            means = sums / ctx.count
            scale = deviation if weight is None else deviation * _as(weight, wide)
            for_input = wide - channels(means[0]) - normal * channels(means[1])
            for_input = (for_input * channels(scale)).to(input.dtype)
        if weight is None:
            return for_input, None, None, None, None, None
        return for_input, for_weight.to(weight.dtype), for_bias.to(weight.dtype), None, None, None


def _statistics(
    wide: torch.Tensor, name: str, process_set: ProcessSet
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and biased variance per channel over all ranks, as float64, and how many values."""
    own = wide.numel() // wide.shape[1] if wide.shape[1] else 0
    row = torch.zeros(1 + 2 * wide.shape[1], dtype=torch.float64, device=wide.device)
    if own:
        variance, mean = torch.var_mean(wide, _axes(wide), correction=0)
        row[0] = own
        row[1:] = torch.cat([mean.double(), variance.double() * own])
    rows = allgather(row.unsqueeze(0), name, process_set)
    counts = rows[:, :1]
    means, squares = rows[:, 1:].chunk(2, dim=1)
    count = int(counts.sum())
    if count < 2:
        raise ValueError(
            f"SyncBatchNorm: a variance needs more than {count} value per channel over all ranks; "
            "use a larger batch, or eval()"
        )
    mean = (means * counts).sum(0) / count
    variance = (squares + counts * (means - mean).square()).sum(0) / count
    return mean, variance, count


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In a precision good enough for sums over a batch."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _as(parameter: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if parameter is None else parameter.to(like.dtype)


def _axes(tensor: torch.Tensor) -> list[int]:
    return [axis for axis in range(tensor.dim()) if axis != 1]


def _channels(tensor: torch.Tensor) -> Any:
    """Makes [C] into [1, C, 1, …], to go with the tensor."""
    shape = [1, -1, *[1] * (tensor.dim() - 2)]
    return lambda values: values.reshape(shape)


def convert_sync_batchnorm(
    module: torch.nn.Module, process_set: ProcessSet | None = None
) -> torch.nn.Module:
    """Replaces every ``BatchNorm*d`` in a model by ``SyncBatchNorm``; returns the model.

    Parameters and buffers stay the same objects, so an optimizer may have been made before. A
    module that is itself a ``BatchNorm*d`` is not changed but its replacement returned.
    """
    chosen = global_process_set if process_set is None else process_set
    return _converted(module, chosen, {})


def _converted(
    module: torch.nn.Module, process_set: ProcessSet, known: dict[int, torch.nn.Module]
) -> torch.nn.Module:
    if id(module) in known:
        return known[id(module)]
    result = module
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        result = _synchronized(module, process_set)
    known[id(module)] = result
    for name, child in list(module._modules.items()):
        if child is not None:
            setattr(result, name, _converted(child, process_set, known))
    return result


def _synchronized(module: _BatchNorm, process_set: ProcessSet) -> SyncBatchNorm:
    if any(is_lazy(value) for value in (*module.parameters(), *module.buffers())):
        raise UsageError("a lazy BatchNorm has no parameters yet; run one forward pass first")
    result = SyncBatchNorm(
        module.num_features,
        module.eps,
        module.momentum,
        module.affine,
        module.track_running_stats,
        process_set,
        device="meta",  # its parameters are replaced at once
    )
    for kept in (result._parameters, result._buffers):
        kept.update(
            (name, value)  # type: ignore[misc]
            for name, value in (*module._parameters.items(), *module._buffers.items())
            if name in kept
        )
    return result.train(module.training)
