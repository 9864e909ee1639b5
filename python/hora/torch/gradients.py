"""Reduces gradients over the ranks while the backward pass that makes them still runs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

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
from hora.torch.submission import ALLREDUCE, Terms, start_group_in_place

__all__ = ["GradientReducer"]

# Reductions write behind PyTorch's back; this lets autograd refuse a stale saved tensor.
_mark_all_changed = torch.autograd.graph.increment_version

# Makes memory for the gradients of some parameters; place_gradients() for a process set.
Placing = Callable[[Sequence[Slot]], list[tuple[Slot, torch.Tensor]]]


class GradientReducer:
    """Owns the hooks on the parameters' gradients and the reductions that these start.

    A gradient that autograd has accumulated ``passes`` times is to be reduced, in place: at once
    where ``overlaps`` says so, else when ``finish`` is called, which also submits what is still
    missing (zeros where this rank has no gradient, because another rank may have one) and waits for
    all. Hooks run on autograd's threads, everything else on the caller's; backward passes of one
    model do not overlap. The hooks go when the reducer goes. One that is not ``active`` has none
    and reduces nothing.

    The hooks are C++ (``_core.GradientCollector``), and so is the way of a gradient that is reduced
    as it is: Python only sees those that are sparse, compressed, grouped, missing or otherwise odd.
    """

    def __init__(
        self,
        next_prefix: Callable[[], str],
        terms: Terms,
        forms: GradientForms,
        passes: int,
        *,
        active: bool = True,
        overlaps: bool | None = None,
        place: Placing | None = None,
    ) -> None:
        self._next_prefix = next_prefix
        self._prefix = ""
        self._is_named = False  # there is a prefix, and the slots' keys have it
        self._terms = terms
        self._forms = forms
        self._passes = passes
        self._active = active
        self._overlaps = overlaps
        self._place = place
        self._unplaced: list[Slot] = []  # whose gradients have no memory to lie in yet
        self._slots: list[Slot] = []
        self._unwatched: list[Slot] = []  # frozen so far, or without memory
        self._groups: list[Group] = []
        self._taken: list[Slot] = []  # which Python is reducing
        self._overrun: set[str] = set()  # gradients that hold a backward pass too many …
        self._atoned: set[str] = set()  # … in a step before: the next gradient is another one
        # Weak, so that a model does not keep the optimizers that once were wrapped for it.
        self._collector = _core.GradientCollector(
            terms.reduce_op,
            terms.prescale,
            terms.postscale,
            terms.process_set,
            passes,
            WeakMethod(self._on_ready),
            WeakMethod(self._on_overrun),
            WeakMethod(self._on_foreign),
        )
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
        """Whether gradients have come that nobody has waited for."""
        return self._collector.has_pending

    @property
    def is_reduced(self) -> bool:
        """Whether the gradients are those of all ranks, and none came since."""
        return self._collector.reduced

    def add(self, name: str, parameter: torch.Tensor, sparse_dim: int = 0) -> None:
        """Takes in a parameter under a name that no other one of this reducer has.

        ``sparse_dim`` is that of its gradients, where that is known before the first one.
        """
        slot = Slot(len(self._slots), name, parameter, sparse_dim)
        self._collector.add(parameter, self._forms.are_plain)
        if self._is_named:
            self._name(slot)
        self._slots.append(slot)
        self._unwatched.append(slot)
        if self._place is not None and self._active and sparse_dim == 0:
            self._unplaced.append(slot)

    def group(self, groups: Iterable[Sequence[int]]) -> None:
        """Says which parameters, by the order of ``add``, are reduced as one operation."""
        for indices in groups:
            self._groups.append(Group([self._slots[index] for index in indices]))
            for index in indices:
                self._collector.set_direct(index, False)

    def watch(self) -> None:
        """Hooks the parameters that require grad and have no hook yet; some are thawed late."""
        if not (self._active and self._unwatched):
            return
        waiting, self._unwatched = self._unwatched, []
        for slot in waiting:
            if not slot.parameter.requires_grad or is_lazy(slot.parameter):
                self._unwatched.append(slot)
                continue
            register = slot.parameter.register_post_accumulate_grad_hook
            hook = self._collector.hook(slot.index)
            self._hooks.append(register(hook))  # type: ignore[no-untyped-call]

    def name_now(self) -> None:
        """Settles the prefix of the names, which otherwise waits for the first submission."""
        if not self._is_named:
            self._prefix = self._next_prefix()
            for slot in self._slots:
                self._name(slot)
            self._is_named = True
            self._collector.early = self._starts_early()

    def place(self) -> None:
        """Gives the gradients their memory, where there is to be some; collective if there is."""
        ready = [
            slot
            for slot in self._unplaced
            if slot.parameter.requires_grad and not is_lazy(slot.parameter)
        ]
        # Ranks see each other's memory on the CPU only.
        ready = [slot for slot in ready if slot.parameter.is_cpu]
        self._unplaced = [slot for slot in self._unplaced if not slot.parameter.is_cuda]
        if self._place is None or not ready:
            return
        for slot, view in self._place(ready):
            slot.view = view
            self._collector.set_view(slot.index, view)
        self._unplaced = [slot for slot in self._unplaced if slot.view is None]

    def set_passes(self, passes: int) -> None:
        """Changes how many backward passes make a gradient; takes effect at once."""
        if self.pending:
            raise UsageError("backward_passes_per_step cannot change between backward() and step()")
        self._passes = passes
        self._collector.set_passes(passes)
        self._forget()

    @contextmanager
    def accumulating_only(self) -> Iterator[None]:
        """Within it, backward passes add to the local gradients and start nothing."""
        collector = self._collector
        before, collector.accumulates_only = collector.accumulates_only, True
        try:
            yield
        finally:
            collector.accumulates_only = before

    def finish(self) -> None:
        """Blocks until every gradient is reduced; a second call before new gradients does nothing.

        Raises the first error, after all reductions have ended.
        """
        collector = self._collector
        if collector.reduced or not self._active:
            return
        self.watch()
        self.name_now()
        if self._unplaced:
            self.place()
        try:
            if collector.submit() != len(self._slots):
                self._submit_missing()
            if self._atoned:
                self._overrun -= self._atoned
        finally:
            self._wait()
        collector.reduced = True

    def fill_in(self) -> None:
        """Gives zeros to the parameters that ``finish`` would give zeros to."""
        for slot in self._slots if self._active else ():
            missing = slot.parameter.grad is None and self._is_missing(slot)
            if missing and not is_lazy(slot.parameter):
                slot.gradient_to_reduce()

    def start_next_step(self) -> None:
        """Says that the gradients have been used: ``finish`` will have work to do again."""
        self._collector.reduced = False

    def refuse_overrun(self) -> None:
        """Raises ``UsageError`` if a gradient is spoilt by a backward pass that came too soon."""
        if self._overrun:
            raise UsageError(
                f"the gradient of '{min(self._overrun)}' holds a backward pass beyond "
                f"backward_passes_per_step={self._passes}, added while it was being reduced: call "
                "synchronize() and zero_grad(), and compute the gradients anew"
            )

    def _starts_early(self) -> bool:
        """Whether gradients are submitted by the hooks.

        Another thread then reduces them while the backward pass goes on. Where every core computes,
        that thread would take its core from the backward pass, and the caches too; what waits for
        step() costs less there, as one crossing into the engine submits all.
        """
        if self._overlaps is not None or not _core.is_initialized():
            return bool(self._overlaps)
        if any(slot.parameter.is_cuda for slot in self._slots):
            return True  # the backward pass leaves the cores alone
        ranks = _core.topology().local_size
        return len(os.sched_getaffinity(0)) > ranks * torch.get_num_threads()

    def _name(self, slot: Slot) -> None:
        slot.key = f"{self._prefix}{slot.name}"
        self._collector.set_key(slot.index, slot.key)

    def _is_missing(self, slot: Slot) -> bool:
        """Whether this step needs a reduction that has not been started."""
        return slot.parameter.requires_grad and not self._collector.is_under_way(slot.index)

    def _on_overrun(self, index: int) -> None:
        slot = self._slots[index]
        self._overrun.add(slot.name)
        self._atoned.discard(slot.name)
        raise UsageError(
            f"the gradient of '{slot.name}' was computed more than backward_passes_per_step="
            f"{self._passes} times since the last step(): call step() (or synchronize()) in "
            "between, set backward_passes_per_step to the number of backward passes, or put "
            "all but the last into optimizer.no_sync(). In a GAN, freeze the other network's "
            "parameters (requires_grad_(False)) meanwhile"
        )

    def _on_ready(self, index: int) -> None:
        slot = self._slots[index]
        try:
            if slot.group is None:
                self._submit(slot)
            elif slot.group.is_complete(self._collector.passes_left):
                self._submit_group(slot.group)
        except HoraError:
            self._start_over()
            raise

    def _on_foreign(self, index: int) -> None:
        self._slots[index].put_into_view()

    def _submit_missing(self) -> None:
        for group in self._groups:
            if any(self._is_missing(slot) for slot in group.slots):
                self._submit_group(group)
        for slot in self._slots:
            if self._is_missing(slot):
                self._submit(slot)

    def _submit(self, slot: Slot) -> None:
        self.name_now()
        try:
            gradient = slot.gradient_to_reduce()
            slot.expect(gradient, *self._forms.start(slot.key, gradient))
        except (PeerFailedError, ShutDownError, NotInitializedError):
            self._forget()  # the group is gone, and with it every operation: leave nothing pending
            raise
        self._take(slot)

    def _submit_group(self, group: Group) -> None:
        self.name_now()
        packed = []
        for slot in group.slots:
            if not self._is_missing(slot):
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
            slot.expect(gradient, handle, restore)
            self._take(slot)

    def _take(self, slot: Slot) -> None:
        self._collector.take(slot.index)
        self._taken.append(slot)

    def _wait(self) -> None:
        first: HoraError | None = None
        self._collector.wait()
        for index, is_ours, error in self._collector.troubles():
            slot = self._slots[index]
            try:
                if error is not None:
                    raise error
                slot.settle(is_ours)
            except HoraError as problem:
                first = first or self._to_be_told(slot, problem)
        _mark_all_changed(self._collector.gradients())
        for slot in self._taken:
            try:
                slot.wait()
            except HoraError as problem:
                first = first or self._to_be_told(slot, problem)
        self._forget()
        if first is not None:
            raise first

    def _to_be_told(self, slot: Slot, problem: HoraError) -> HoraError | None:
        # Of a gradient that came too soon the hook has told.
        return None if isinstance(problem, UsageError) and slot.name in self._overrun else problem

    def _forget(self) -> None:
        self._collector.forget()
        for slot in self._taken:
            slot.forget()
        self._taken.clear()
        self._atoned = set(self._overrun)
        for group in self._groups:
            group.count_anew()

    def _start_over(self) -> None:
        """Lets the gradients that are not under way be computed anew."""
        self._collector.start_over()
        for group in self._groups:
            group.count_anew()


class WeakMethod:
    """Calls a method of an object, or does nothing once that is gone."""

    __slots__ = ("_method",)

    def __init__(self, method: Callable[[int], None]) -> None:
        self._method = weakref.WeakMethod(method)

    def __call__(self, index: int) -> None:
        method = self._method()
        if method is not None:
            method(index)


def _remove(hooks: Sequence[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()
