"""The twin in Python of ``hora._core.GradientCollector``, over the fake engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hora.errors import HoraError


@dataclass(eq=False)
class Slot:
    parameter: torch.Tensor
    direct: bool
    passes_left: int
    key: str = ""
    state: str = "awaited"  # then "noted", then "under way" or "taken"
    view: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    version: int = 0
    handle: object = None


def is_direct(gradient):
    return (
        gradient.layout is torch.strided
        and not gradient.requires_grad
        and gradient.is_contiguous()
        and gradient.is_floating_point()
    )


class GradientCollector:
    """``_core.pyi`` says what its members do."""

    def __init__(
        self, core, reduce_op, prescale, postscale, process_set, passes, ready, overrun, foreign
    ):
        self.core = core
        self.terms = reduce_op, -1, prescale, postscale, process_set
        self.passes = passes
        self.on_ready, self.on_overrun, self.on_foreign = ready, overrun, foreign
        self.slots: list[Slot] = []
        self.reduced = self.early = self.accumulates_only = False

    def add(self, parameter, direct):
        self.slots.append(Slot(parameter, direct, self.passes))

    def hook(self, index):
        return lambda parameter: self.on_gradient(index)

    def set_key(self, index, key):
        self.slots[index].key = key

    def set_direct(self, index, direct):
        self.slots[index].direct = direct

    def set_view(self, index, view):
        self.slots[index].view = view

    def set_passes(self, passes):
        self.passes = passes
        self.forget()

    def on_gradient(self, index):
        slot = self.slots[index]
        if slot.passes_left == 0:
            self.on_overrun(index)
            return
        self.reduced = False
        self.put_into_view(index)
        if self.accumulates_only:
            return
        slot.passes_left -= 1
        if slot.passes_left > 0:
            return
        slot.gradient, slot.state = slot.parameter.grad, "noted"
        slot.version = slot.gradient._version
        if self.early and not self.submit_one(slot):
            self.on_ready(index)

    def put_into_view(self, index):
        slot = self.slots[index]
        gradient = slot.parameter.grad
        if slot.view is None or gradient is None or gradient is slot.view:
            return
        if not is_direct(gradient) or gradient.dtype != slot.view.dtype:
            self.on_foreign(index)
            return
        slot.view.detach().copy_(gradient)
        slot.parameter.grad = slot.view

    def submit_one(self, slot):
        if not slot.direct or not is_direct(slot.gradient):
            return False
        try:
            slot.handle = self.core.submit(0, slot.key, slot.gradient, slot.gradient, *self.terms)
        except HoraError:
            return False
        slot.state = "under way"
        return True

    def submit(self):
        for slot in self.slots:
            if slot.state == "noted" and not self.submit_one(slot):
                slot.state, slot.gradient = "awaited", None
        return sum(slot.state in {"under way", "taken"} for slot in self.slots)

    def wait(self):
        self.found = []
        for index, slot in enumerate(self.slots):
            if slot.handle is not None:
                is_ours = slot.parameter.grad is slot.gradient
                is_ours = is_ours and slot.gradient._version == slot.version
                try:
                    slot.handle.wait()
                    error = None
                except HoraError as raised:
                    error = raised
                self.found.append((index, is_ours, error))

    def troubles(self):
        return [found for found in self.found if not found[1] or found[2] is not None]

    def gradients(self):
        return [slot.gradient for slot in self.slots if slot.handle is not None]

    def take(self, index):
        self.slots[index].gradient, self.slots[index].state = None, "taken"

    def is_under_way(self, index):
        return self.slots[index].state in {"under way", "taken"}

    def passes_left(self, index):
        return self.slots[index].passes_left

    @property
    def has_pending(self):
        return any(slot.state != "awaited" for slot in self.slots)

    def forget(self):
        for slot in self.slots:
            slot.passes_left, slot.state = self.passes, "awaited"
            slot.handle = slot.gradient = None

    def start_over(self):
        for slot in self.slots:
            if slot.state not in {"under way", "taken"}:
                slot.passes_left, slot.state, slot.gradient = self.passes, "awaited", None
