"""What the reducer of gradients knows of each parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn.parameter import is_lazy

from hora.errors import UsageError
from hora.torch.gradient_forms import Restore

__all__ = ["Group", "Slot"]


class _Reduction(Protocol):
    """An operation under way, be it a handle of ours or the engine's own."""

    def wait(self) -> Any: ...


class Slot:
    """One parameter, and the reduction of its gradient where that is Python's affair."""

    __slots__ = (
        "gradient", "group", "handle", "index", "key", "name", "parameter", "restore",
        "sparse_dim", "version", "view",
    )  # fmt: skip

    def __init__(self, index: int, name: str, parameter: torch.Tensor, sparse_dim: int) -> None:
        self.index = index  # in the order in which they were added
        self.name = name
        self.key = name  # under which ranks meet, once there is a prefix to it
        self.parameter = parameter
        self.view: torch.Tensor | None = None  # where the gradient is to lie
        self.sparse_dim = sparse_dim  # of its gradients, as far as is known; 0 when dense
        self.group: Group | None = None
        self.handle: _Reduction | None = None
        self.restore: Restore | None = None  # what is left to do when the handle is done
        self.gradient: torch.Tensor | None = None  # what the handle is reducing
        self.version = 0  # of the gradient, right after it was submitted

    def gradient_to_reduce(self) -> torch.Tensor:
        """The gradient, of zeros where this rank has none: another rank may have one."""
        gradient = self.parameter.grad
        if gradient is None:
            if is_lazy(self.parameter):
                raise UsageError(
                    f"'{self.name}' is a lazy parameter, without memory yet: run one forward pass "
                    "before the first step"
                )
            gradient = self.parameter.grad = self._zeros()
            return gradient
        if gradient.requires_grad:
            raise UsageError(
                f"the gradient of '{self.name}' has a graph of its own, from "
                "backward(create_graph=True), and only values can be reduced: compute gradients "
                "that are to be differentiated by torch.autograd.grad(loss, parameters, "
                "create_graph=True), and call backward() on the final loss without create_graph"
            )
        self.sparse_dim = gradient.sparse_dim() if gradient.is_sparse else 0
        return gradient

    def expect(self, gradient: torch.Tensor, handle: _Reduction, restore: Restore | None) -> None:
        """Takes note of the reduction that has been started for the gradient."""
        self.handle = handle
        self.restore = restore
        self.gradient = gradient
        self.version = gradient._version

    def wait(self) -> None:
        """Blocks until the reduction is done and its result is in ``.grad``; raises its error."""
        if self.handle is None or self.gradient is None:
            return
        is_ours = self.parameter.grad is self.gradient and self.gradient._version == self.version
        self.handle.wait()
        self.settle(is_ours)

    def put_into_view(self) -> None:
        """Moves a dense gradient, of whatever strides, to where it is to lie; leaves others."""
        gradient = self.parameter.grad
        if gradient is None or self.view is None or gradient is self.view:
            return
        odd = gradient.requires_grad or gradient.layout is not torch.strided or not gradient.is_cpu
        if not odd and gradient.dtype == self.view.dtype:
            with torch.no_grad():
                self.parameter.grad = self.view.copy_(gradient)

    def forget(self) -> None:
        """Lets go of the reduction."""
        self.handle = self.gradient = self.restore = None

    def settle(self, is_ours: bool) -> None:
        """Puts a gradient in place that was not reduced where it is.

        Raises ``UsageError`` if somebody else has changed it meanwhile.
        """
        if not is_ours:
            raise UsageError(
                f"the gradient of '{self.name}' was changed between backward() and step(), "
                "while it was being reduced: call optimizer.synchronize() first, then "
                "change gradients, then step() inside optimizer.skip_synchronize()"
            )
        if self.restore is not None:
            self.parameter.grad = self.restore()

    def _zeros(self) -> torch.Tensor:
        parameter = self.parameter.detach()
        if self.sparse_dim == 0 and self.view is not None and parameter.is_cpu:
            return self.view.zero_()
        if self.sparse_dim == 0:
            return torch.zeros_like(parameter)
        return torch.sparse_coo_tensor(
            torch.empty((self.sparse_dim, 0), dtype=torch.int64, device=parameter.device),
            parameter.new_empty((0, *parameter.shape[self.sparse_dim :])),
            parameter.shape,
            check_invariants=False,  # or PyTorch warns that it is off by default
        )


class Group:
    """Parameters whose gradients are one operation, started when the last of them is there."""

    __slots__ = ("_awaited", "slots")

    def __init__(self, slots: list[Slot]) -> None:
        self.slots = slots
        self._awaited = 0
        for slot in slots:
            slot.group = self
        self.count_anew()

    @property
    def key(self) -> str:
        """The name under which ranks meet for the group."""
        more = f" and {len(self.slots) - 1} more" if len(self.slots) > 1 else ""
        return f"{self.slots[0].key}{more}"

    def is_complete(self, passes_left: Callable[[int], int]) -> bool:
        """Counts one more gradient; whether all are there that will come.

        ``passes_left`` tells for the index of a slot how many backward passes it still takes.
        """
        self._awaited -= 1
        if self._awaited > 0:
            return False
        # Any parameter may have been frozen or thawed since the count began: only now look at all.
        self._awaited = sum(
            slot.parameter.requires_grad and passes_left(slot.index) > 0 for slot in self.slots
        )
        return self._awaited == 0

    def count_anew(self) -> None:
        """Makes ready for the next step."""
        self._awaited = sum(slot.parameter.requires_grad for slot in self.slots)
