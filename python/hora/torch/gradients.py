"""Reduces gradients over the ranks while the backward pass that makes them still runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.utils.hooks import RemovableHandle

from hora.errors import (
    HoraError,
    NotInitializedError,
    PeerFailedError,
    ShutDownError,
    UsageError,
)
from hora.torch.handle import Handle
from hora.torch.submission import ALLREDUCE, Terms, start_in_place

__all__ = ["GradientReducer"]


class _Slot:
    """One parameter: how many more backward passes it takes, and the reduction under way."""

    __slots__ = ("gradient", "handle", "name", "parameter", "passes_left", "version", "watched")

    def __init__(self, name: str, parameter: torch.Tensor, passes: int) -> None:
        self.name = name
        self.parameter = parameter
        self.passes_left = passes
        self.watched = False
        self.handle: Handle | None = None
        self.gradient: torch.Tensor | None = None  # what the handle is reducing
        self.version = 0  # of the gradient, right after it was submitted


class GradientReducer:
    """Owns the hooks on the parameters' gradients and the reductions that these start.

    A gradient is submitted, in place, as soon as autograd has accumulated it ``passes`` times;
    ``finish`` submits what is still missing (zeros where this rank has no gradient, because another
    rank may have one) and waits for all. Hooks run on autograd's threads, everything else on the
    caller's; backward passes of one model do not overlap. The hooks go when the reducer goes.
    """

    def __init__(self, next_prefix: Callable[[], str], terms: Terms, passes: int) -> None:
        self._next_prefix = next_prefix
        self._prefix: str | None = None
        self._terms = terms
        self._passes = passes
        self._slots: list[_Slot] = []
        self._reduced = False  # finish() has run and no gradient came since
        self._overrun: set[str] = set()  # accumulated once more while they were being reduced
        self._hooks: list[RemovableHandle] = []
        weakref.finalize(self, _remove, self._hooks).atexit = False

    @property
    def names(self) -> list[str]:
        """The parameters' names, in the order in which they were added."""
        return [slot.name for slot in self._slots]

    @property
    def pending(self) -> bool:
        """Whether gradients are being reduced that nobody has waited for."""
        return any(slot.handle is not None for slot in self._slots)

    def add(self, name: str, parameter: torch.Tensor) -> None:
        """Takes in a parameter under a name that no other one of this reducer has."""
        self._slots.append(_Slot(name, parameter, self._passes))

    def watch(self) -> None:
        """Hooks the parameters that require grad and have no hook yet; some are thawed late."""
        for index, slot in enumerate(self._slots):
            if not slot.watched and slot.parameter.requires_grad:
                # Weak, so that a model does not keep the optimizers that once were wrapped for it.
                hook = partial(_gradient_ready, weakref.ref(self), index)
                register = slot.parameter.register_post_accumulate_grad_hook
                self._hooks.append(register(hook))  # type: ignore[no-untyped-call]
                slot.watched = True

    def name_now(self) -> None:
        """Settles the prefix of the names, which otherwise waits for the first submission."""
        if self._prefix is None:
            self._prefix = self._next_prefix()

    def set_passes(self, passes: int) -> None:
        """Changes how many backward passes make a gradient; takes effect at once."""
        if self.pending:
            raise UsageError("backward_passes_per_step cannot change between backward() and step()")
        self._passes = passes
        for slot in self._slots:
            slot.passes_left = passes

    def finish(self) -> None:
        """Blocks until every gradient is reduced; a second call before new gradients does nothing.

        Raises the first error, after all reductions have ended.
        """
        if self._reduced:
            return
        self.watch()
        try:
            for slot in self._slots:
                if slot.handle is None and slot.parameter.requires_grad:
                    if slot.parameter.grad is None:
                        slot.parameter.grad = torch.zeros_like(slot.parameter)
                    self._submit(slot)
        finally:
            self._wait()
        self._reduced = True

    def start_next_step(self) -> None:
        """Says that the gradients have been used: ``finish`` will have work to do again."""
        self._reduced = False

    def refuse_overrun(self) -> None:
        """Raises ``UsageError`` if a gradient is spoilt by a backward pass that came too soon."""
        if self._overrun:
            raise UsageError(
                f"the gradient of '{min(self._overrun)}' holds a backward pass beyond "
                f"backward_passes_per_step={self._passes}, added while it was being reduced: call "
                "synchronize() and zero_grad(), and compute the gradients anew"
            )

    def on_gradient(self, index: int) -> None:
        """The hook: autograd has just accumulated this parameter's gradient."""
        slot = self._slots[index]
        if slot.passes_left == 0:
            self._overrun.add(slot.name)
            raise UsageError(
                f"the gradient of '{slot.name}' was computed more than backward_passes_per_step="
                f"{self._passes} times since the last step(): call step() (or synchronize()) in "
                "between, or set backward_passes_per_step to the number of backward passes. In a "
                "GAN, freeze the other network's parameters (requires_grad_(False)) meanwhile"
            )
        self._reduced = False
        slot.passes_left -= 1
        if slot.passes_left == 0:
            self._submit(slot)

    def _submit(self, slot: _Slot) -> None:
        self.name_now()
        gradient = slot.parameter.grad
        assert gradient is not None  # a hook runs after accumulation, finish() fills in zeros
        try:
            name = f"{self._prefix}{slot.name}"
            slot.handle = start_in_place(ALLREDUCE, name, gradient, self._terms)
        except (PeerFailedError, ShutDownError, NotInitializedError):
            self._forget()  # the group is gone, and with it every operation: leave nothing pending
            raise
        self._overrun.discard(slot.name)
        slot.gradient = gradient
        slot.version = gradient._version

    def _wait(self) -> None:
        first: HoraError | None = None
        for slot in self._slots:
            if slot.handle is None:
                continue
            untouched = (
                slot.parameter.grad is slot.gradient
                and slot.gradient is not None
                and slot.gradient._version == slot.version
            )
            try:
                slot.handle.wait()
                if not untouched and slot.name not in self._overrun:  # the hook has told of those
                    raise UsageError(
                        f"the gradient of '{slot.name}' was changed between backward() and step(), "
                        "while it was being reduced: call optimizer.synchronize() first, then "
                        "change gradients, then step() inside optimizer.skip_synchronize()"
                    )
            except HoraError as error:
                first = first or error
        self._forget()
        if first is not None:
            raise first

    def _forget(self) -> None:
        for slot in self._slots:
            slot.handle = slot.gradient = None
            slot.passes_left = self._passes


def _gradient_ready(
    reducer: weakref.ref[GradientReducer], index: int, parameter: torch.Tensor
) -> None:
    alive = reducer()
    if alive is not None:
        alive.on_gradient(index)


def _remove(hooks: Sequence[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()
