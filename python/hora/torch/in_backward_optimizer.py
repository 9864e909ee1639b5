"""Steps while the backward pass still runs, so that gradients need not be kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch.nn.parameter import is_lazy

from hora.errors import HoraError, UsageError
from hora.torch.gradient_slots import Group
from hora.torch.gradients import GradientReducer
from hora.torch.optimizer import DistributedOptimizer
from hora.torch.optimizer_settings import OptimizerSettings
from hora.torch.parameter_names import parameters_of

__all__ = ["InBackwardOptimizer"]

_BUCKET_BYTES = 4 << 20  # large enough to be worth an operation, small against a model


class InBackwardOptimizer(DistributedOptimizer):
    """What ``DistributedOptimizer(..., step_in_backward=True)`` makes.

    Parameters form buckets of some MiB, from the last one to the first. When the gradients of a
    bucket are there, they are reduced; when the bucket after it is on its way, the wrapped
    optimizer steps on the first one's parameters, and their gradients are freed. So about two
    buckets of gradients exist at a time. ``step()`` does the rest. With
    ``backward_passes_per_step=n`` all that happens in the last of n backward passes.

    Any optimizer will do whose step treats each parameter by itself. What looks at all gradients
    between ``backward()`` and ``step()`` cannot work: clipping by a norm, ``GradScaler``, closures,
    ``synchronize()``. A backward pass that fails midway leaves a part of the parameters stepped.
    """

    def _build(self, names: list[str], settings: OptimizerSettings) -> None:
        if settings.groups or settings.views:
            raise UsageError(
                "step_in_backward=True frees gradients bucket by bucket; it goes neither with "
                "groups nor with gradient_as_bucket_view"
            )
        if isinstance(self._inner, torch.optim.LBFGS):
            raise UsageError("step_in_backward=True does not work with LBFGS, which needs closures")
        self._options_before: list[dict[str, Any]] | None = None
        super()._build(names, settings)

    def _make_reducer(self, *arguments: Any, **options: Any) -> GradientReducer:
        return BucketReducer(self._step_on, *arguments, **options)

    def _group(self, settings: OptimizerSettings) -> None:
        self._reducer.group(_buckets(parameters_of(self._inner)))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, on every rank alike, as a bucket of their own."""
        before = len(parameters_of(self._inner))
        super().add_param_group(param_group)
        self._reducer.group([range(before, len(parameters_of(self._inner)))])

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Steps on the parameters that the backward pass has left; the others are done."""
        if closure is not None:
            self._refuse("step(closure)")
        if not self._is_member:
            self._inner.step()
            return
        self._reducer.finish()
        self._reducer.refuse_overrun()
        self._reducer.start_next_step()
        self._options_before = None

    def synchronize(self) -> None:
        """Always raises ``UsageError``."""
        self._refuse("synchronize()")

    def skip_synchronize(self) -> NoReturn:
        """Always raises ``UsageError``."""
        self._refuse("skip_synchronize()")

    @property
    def _step_supports_amp_scaling(self) -> bool:
        self._refuse("GradScaler")  # which asks for this before it steps

    def _before_gradients_are_read(self) -> None:
        """Gradients are never there to be read; the groups' options may be, at any time."""

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"{what} needs all gradients between backward() and step(), but with "
            "step_in_backward=True they have been used and freed by then: leave that option out"
        )

    def _step_on(self, parameters: list[torch.Tensor]) -> None:
        """Lets the wrapped optimizer step as though it had no other parameters."""
        inner = self._inner
        groups = inner.param_groups
        if self._options_before is None:
            self._options_before = [_options(group) for group in groups]
        chosen = {id(parameter) for parameter in parameters}
        all_parameters = [group["params"] for group in groups]
        try:
            for group, options in zip(groups, self._options_before, strict=True):
                # Some optimizers count steps in their groups: each bucket is to see the same count.
                group.update(options)
                group["params"] = [p for p in group["params"] if id(p) in chosen]
            inner.param_groups = [group for group in groups if group["params"]]
            inner.step()
        finally:
            inner.param_groups = groups
            for group, known in zip(groups, all_parameters, strict=True):
                group["params"] = known


class BucketReducer(GradientReducer):
    """A reducer whose groups are reduced in their order, used, and freed.

    All ranks submit the buckets in the same order, and wait for one only when they have submitted
    the next; so a rank that waits in a hook waits for ranks that can go on.
    """

    def __init__(
        self, use: Callable[[list[torch.Tensor]], None], *arguments: Any, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._use = use
        self._complete: set[int] = set()  # groups that have all their gradients, by number
        self._next = 0  # the first group that has not been submitted
        self._under_way: deque[Group] = deque()

    def _starts_early(self) -> bool:
        return True

    def _on_ready(self, index: int) -> None:
        group = self._slots[index].group
        try:
            if group is not None and group.is_complete(self._collector.passes_left):
                self._complete.add(self._groups.index(group))
                self._advance()
        except HoraError:
            self._start_over()
            raise

    def _advance(self) -> None:
        while self._next < len(self._groups):
            group = self._groups[self._next]
            frozen = not any(slot.parameter.requires_grad for slot in group.slots)
            if self._next not in self._complete and not frozen:
                return
            self._begin(group)

    def _begin(self, group: Group) -> None:
        self._next += 1
        self._submit_group(group)
        self._under_way.append(group)
        while len(self._under_way) > 1:
            self._end(self._under_way.popleft())

    def _end(self, group: Group) -> None:
        slots = [slot for slot in group.slots if slot.handle is not None]
        for slot in slots:
            slot.wait()
        if slots:
            self._use([slot.parameter for slot in slots])
        for slot in slots:
            slot.forget()
            slot.parameter.grad = None

    def _submit_missing(self) -> None:
        while self._next < len(self._groups):
            self._begin(self._groups[self._next])

    def _wait(self) -> None:
        try:
            while self._under_way:
                self._end(self._under_way.popleft())
        finally:
            super()._wait()

    def _forget(self) -> None:
        super()._forget()
        self._complete.clear()
        self._under_way.clear()
        self._next = 0


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _buckets(parameters: Sequence[torch.Tensor]) -> list[list[int]]:
    """Neighbours from the last to the first, by index; a bucket is closed once it is full."""
    buckets: list[list[int]] = [[]]
    filled = 0
    for index in reversed(range(len(parameters))):
        if filled >= _BUCKET_BYTES:
            buckets.append([])
            filled = 0
        buckets[-1].append(index)
        parameter = parameters[index]
        filled += 0 if is_lazy(parameter) else parameter.numel() * parameter.element_size()
    return [bucket for bucket in buckets if bucket]
