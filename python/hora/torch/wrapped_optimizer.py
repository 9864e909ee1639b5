"""An optimizer that holds another one and is it, as far as anybody can see."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from hora.errors import UsageError

__all__ = ["WrappedOptimizer"]


class WrappedOptimizer(torch.optim.Optimizer):
    """Owns an optimizer; ``state``, ``param_groups`` and ``defaults`` are that one's own objects.

    So schedulers, checkpoints and whatever else changes them work on either of the two.
    """

    def _hold(self, optimizer: torch.optim.Optimizer) -> None:
        # Optimizer.__init__ is left out on purpose: it would make a second state beside the wrapped
        # one. What it sets up (hooks, names for the profiler) is found by __getattr__.
        if isinstance(optimizer, WrappedOptimizer):
            raise UsageError("this optimizer is distributed already; wrap it only once")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"a torch optimizer is needed, not {type(optimizer).__name__}")
        self._inner = optimizer

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:
        """The wrapped optimizer's state."""
        return self._inner.state

    @state.setter
    def state(self, value: Any) -> None:
        self._inner.state = value

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's parameter groups."""
        self._before_gradients_are_read()
        return self._inner.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self._inner.param_groups = value

    @property
    def defaults(self) -> dict[str, Any]:
        """The wrapped optimizer's defaults."""
        return self._inner.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self._inner.defaults = value

    def _before_gradients_are_read(self) -> None:
        """For whoever has something to complete by then."""

    def __getattr__(self, name: str) -> Any:
        if name in ("_inner", "_reducer") or name.startswith("__"):
            raise AttributeError(name)  # not built yet, as during unpickling
        return getattr(self._inner, name)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's ``state_dict``."""
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads into the wrapped optimizer."""
        self._inner.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._inner!r})"
