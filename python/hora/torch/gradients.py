"""Reduces gradients over the ranks while the backward pass that makes them still runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from hora import _core
from hora.errors import (
    HoraError,
    NotInitializedError,
    PeerFailedError,
    ShutDownError,
    UsageError,
)
from hora.torch.gradient_forms import GradientForms
from hora.torch.gradient_slots import Group, Slot
from hora.torch.submission import ALLREDUCE, Terms, mark_changed, start_group_in_place
from hora.torch.tensors import NUMBERS, is_direct

__all__ = ["GradientReducer"]

_submit = _core.submit
_ALLREDUCE = _core.ALLREDUCE


class GradientReducer:
    """Owns the hooks on the parameters' gradients and the reductions that these start.

    A gradient is submitted, in place, as soon as autograd has accumulated it ``passes`` times, or
    its whole group has been; ``finish`` submits what is still missing (zeros where this rank has no
    gradient, because another rank may have one) and waits for all. Hooks run on autograd's threads,
    everything else on the caller's; backward passes of one model do not overlap. The hooks go when
    the reducer goes. One that is not ``active`` has none and reduces nothing.
    """

    def __init__(
        self,
        next_prefix: Callable[[], str],
        terms: Terms,
        forms: GradientForms,
        passes: int,
        active: bool = True,
    ) -> None:
        self._next_prefix = next_prefix
        self._prefix: str | None = None
        self._is_named = False  # the slots' keys have the prefix
        self._terms = terms
        self._forms = forms
        self._plain = forms.are_plain
        self._passes = passes
        self._active = active
        self._accumulates_only = False
        self._slots: list[Slot] = []
        self._groups: list[Group] = []
        self._reduced = False  # finish() has run and no gradient came since
        self._overrun: set[str] = set()  # accumulated once more while they were being reduced
        self._hooks: list[RemovableHandle] = []
        weakref.finalize(self, _remove, self._hooks).atexit = False

    @property
    def names(self) -> list[str]:
        """The parameters' names, in the order in which they were added."""
        return [slot.name for slot in self._slots]

    @property
    def keys(self) -> list[str]:
        """The names under which ranks meet, once ``name_now`` has been called."""
        return [slot.key for slot in self._slots]

    @property
    def pending(self) -> bool:
        """Whether gradients are being reduced that nobody has waited for."""
        return any(slot.handle is not None for slot in self._slots)

    @property
    def is_reduced(self) -> bool:
        """Whether the gradients are those of all ranks, and none came since."""
        return self._reduced

    def add(self, name: str, parameter: torch.Tensor, sparse_dim: int = 0) -> None:
        """Takes in a parameter under a name that no other one of this reducer has.

        ``sparse_dim`` is that of its gradients, where that is known before the first one.
        """
        self._slots.append(Slot(name, parameter, self._passes, sparse_dim))
        self._is_named = False

    def group(self, groups: Iterable[Sequence[int]]) -> None:
        """Says which parameters, by the order of ``add``, are reduced as one operation."""
        for indices in groups:
            self._groups.append(Group([self._slots[index] for index in indices]))

    def watch(self) -> None:
        """Hooks the parameters that require grad and have no hook yet; some are thawed late."""
        if not self._active:
            return
        for index, slot in enumerate(self._slots):
            if not slot.watched and slot.parameter.requires_grad and not is_lazy(slot.parameter):
                # Weak, so that a model does not keep the optimizers that once were wrapped for it.
                hook = partial(_gradient_ready, weakref.ref(self), index)
                register = slot.parameter.register_post_accumulate_grad_hook
                self._hooks.append(register(hook))  # type: ignore[no-untyped-call]
                slot.watched = True

    def name_now(self) -> None:
        """Settles the prefix of the names, which otherwise waits for the first submission."""
        if not self._is_named:
            if self._prefix is None:
                self._prefix = self._next_prefix()
            for slot in self._slots:
                slot.key = f"{self._prefix}{slot.name}"
            self._is_named = True

    def set_passes(self, passes: int) -> None:
        """Changes how many backward passes make a gradient; takes effect at once."""
        if self.pending:
            raise UsageError("backward_passes_per_step cannot change between backward() and step()")
        self._passes = passes
        self._forget()

    @contextmanager
    def accumulating_only(self) -> Iterator[None]:
        """Within it, backward passes add to the local gradients and start nothing."""
        before, self._accumulates_only = self._accumulates_only, True
        try:
            yield
        finally:
            self._accumulates_only = before

    def finish(self) -> None:
        """Blocks until every gradient is reduced; a second call before new gradients does nothing.

        Raises the first error, after all reductions have ended.
        """
        if self._reduced or not self._active:
            return
        self.watch()
        try:
            for group in self._groups:
                if any(slot.is_missing for slot in group.slots):
                    self._submit_group(group)
            for slot in self._slots:
                if slot.is_missing:
                    self._submit(slot)
        finally:
            self._wait()
        self._reduced = True

    def fill_in(self) -> None:
        """Gives zeros to the parameters that ``finish`` would give zeros to."""
        for slot in self._slots if self._active else ():
            if slot.is_missing and slot.parameter.grad is None and not is_lazy(slot.parameter):
                slot.gradient_to_reduce()

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
                "between, set backward_passes_per_step to the number of backward passes, or put "
                "all but the last into optimizer.no_sync(). In a GAN, freeze the other network's "
                "parameters (requires_grad_(False)) meanwhile"
            )
        self._reduced = False
        if self._accumulates_only:
            return
        slot.passes_left -= 1
        if slot.passes_left == 0:
            try:
                if slot.group is None:
                    self._submit(slot)
                elif slot.group.is_complete():
                    self._submit_group(slot.group)
            except HoraError:
                self._start_over()
                raise

    def _submit(self, slot: Slot) -> None:
        if not self._is_named:
            self.name_now()
        gradient = slot.parameter.grad
        try:
            # Most gradients of most scripts come this way, hundreds in each step: straight to the
            # engine, as start_in_place() would bring them there.
            if (
                self._plain
                and gradient is not None
                and is_direct(gradient, NUMBERS)
                and not gradient.requires_grad
            ):
                op, root, prescale, postscale, members = self._terms
                slot.handle = _submit(
                    _ALLREDUCE, slot.key, gradient, gradient, op, root, prescale, postscale, members
                )
                mark_changed(gradient)
                slot.gradient = gradient
                slot.version = gradient._version
            else:
                gradient = slot.gradient_to_reduce()
                slot.expect(gradient, *self._forms.start(slot.key, gradient))
        except (PeerFailedError, ShutDownError, NotInitializedError):
            self._forget()  # the group is gone, and with it every operation: leave nothing pending
            raise
        if self._overrun:
            self._overrun.discard(slot.name)

    def _submit_group(self, group: Group) -> None:
        self.name_now()
        packed = []
        for slot in group.slots:
            if not slot.is_missing:
                continue
            gradient = slot.gradient_to_reduce()
            if self._forms.goes_as_rows(gradient):
                self._submit(slot)  # a gathering is no part of an allreduce
            else:
                packed.append((slot, gradient, *self._forms.pack(gradient)))
        if not packed:
            return
        payloads = [payload for _, _, payload, _ in packed]
        try:
            handle = start_group_in_place(ALLREDUCE, group.key, payloads, self._terms)
        except (PeerFailedError, ShutDownError, NotInitializedError):
            self._forget()
            raise
        for slot, gradient, _, restore in packed:
            self._overrun.discard(slot.name)
            slot.expect(gradient, handle, restore)

    def _wait(self) -> None:
        first: HoraError | None = None
        for slot in self._slots:
            handle, gradient = slot.handle, slot.gradient
            if handle is None or gradient is None:
                continue
            is_ours = slot.parameter.grad is gradient and gradient._version == slot.version
            try:
                handle.wait()
                if slot.restore is not None or not is_ours:
                    slot.settle(is_ours)
            except HoraError as error:
                # Of a gradient that came too soon the hook has told.
                if not (isinstance(error, UsageError) and slot.name in self._overrun):
                    first = first or error
        self._forget()
        if first is not None:
            raise first

    def _forget(self) -> None:
        passes = self._passes
        for slot in self._slots:
            slot.handle = slot.gradient = slot.restore = None
            slot.passes_left = passes
        for group in self._groups:
            group.count_anew()

    def _start_over(self) -> None:
        """Lets the gradients that are not under way be computed anew."""
        for slot in self._slots:
            if slot.handle is None:
                slot.passes_left = self._passes
        for group in self._groups:
            group.count_anew()


def _gradient_ready(
    reducer: weakref.ref[GradientReducer], index: int, parameter: torch.Tensor
) -> None:
    alive = reducer()
    if alive is not None:
        alive.on_gradient(index)


def _remove(hooks: Sequence[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()
