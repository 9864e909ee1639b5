"""An optimizer that steps with the gradients of all ranks.

``DistributedOptimizer`` holds the optimizer that it is given and behaves as one: learning-rate
schedulers accept it, ``state`` and ``param_groups`` are the wrapped optimizer's own objects, and
it can be pickled and copied. Clipping, and anything else that looks at the reduced gradients
before the step:

    loss.backward()
    optimizer.synchronize()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with optimizer.skip_synchronize():
        optimizer.step()
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hora.errors import UsageError
from hora.ops import ReduceOp
from hora.torch.gradients import GradientReducer
from hora.torch.objects import mean_over_ranks
from hora.torch.operations import chosen_op
from hora.torch.submission import Terms

__all__ = ["DistributedOptimizer"]

# Numbers the optimizers of this process in the order in which the script makes them, the same on
# all ranks, so that two optimizers (of a GAN, say) may have parameters of the same name.
_numbers = itertools.count()


def _next_prefix() -> str:
    return f"DistributedOptimizer.{next(_numbers)}."


class DistributedOptimizer(torch.optim.Optimizer):
    """Wraps an optimizer so that ``step`` uses gradients reduced over all ranks.

    Args:
        optimizer: any optimizer; its state is kept.
        named_parameters: (name, parameter) pairs, such as ``model.named_parameters()``; they must
            name every parameter of the optimizer, and appear in error messages. Without them,
            parameters are called by group and position. The names must agree on all ranks.
        backward_passes_per_step: gradients are accumulated locally (summed, not divided) over so
            many backward passes before they are reduced.
        op: Average (default), Sum, Min, Max or Product.
        gradient_predivide_factor: splits the division of Average: gradients are divided by it
            before the sum and by size / factor after it, against overflow in 16-bit sums.

    Every rank must take part in every step. A parameter that requires grad but got none on this
    rank contributes zeros and has a gradient afterwards, as another rank may have used it; so a
    weight decay touches it, as in Horovod. ``step`` with a closure reduces the gradients after
    each call of the closure and averages the loss that it returns, because optimizers such as
    LBFGS decide by the loss, and all ranks must decide alike. Not thread-safe, as any optimizer.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: Iterable[tuple[str, torch.Tensor]] | None = None,
        *,
        backward_passes_per_step: int = 1,
        op: int = ReduceOp.AVERAGE,
        gradient_predivide_factor: float = 1.0,
    ) -> None:
        # Optimizer.__init__ is left out on purpose: it would make a second state beside the wrapped
        # one. What it sets up (hooks, names for the profiler) is found by __getattr__.
        if isinstance(optimizer, DistributedOptimizer):
            raise UsageError("this optimizer is distributed already; wrap it only once")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"a torch optimizer is needed, not {type(optimizer).__name__}")
        op = chosen_op(op, None)
        if gradient_predivide_factor != 1.0 and op != ReduceOp.AVERAGE:
            raise UsageError("gradient_predivide_factor splits the division of op=Average only")
        if not (
            isinstance(gradient_predivide_factor, (int, float)) and gradient_predivide_factor > 0
        ):
            raise UsageError(
                f"gradient_predivide_factor={gradient_predivide_factor!r} is not a number above 0"
            )
        parameters = _parameters(optimizer)
        if named_parameters is None:
            names = _default_names(optimizer)
        else:
            names = _given_names(parameters, list(named_parameters))
        self._build(optimizer, names, backward_passes_per_step, op, gradient_predivide_factor)
        self._reducer.name_now()

    def _build(
        self,
        optimizer: torch.optim.Optimizer,
        names: list[str],
        passes: int,
        op: int,
        predivide: float,
    ) -> None:
        self._inner = optimizer
        self._settings = (_checked_passes(passes), op, predivide)
        self._synchronizes = True
        terms = Terms(op, -1, 1.0 / predivide, predivide)
        self._reducer = GradientReducer(_next_prefix, terms, passes)
        for name, parameter in zip(names, _parameters(optimizer), strict=True):
            self._reducer.add(name, parameter)
        self._reducer.watch()

    # --- the wrapped optimizer's own objects -------------------------------------------------

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:
        """The wrapped optimizer's state."""
        return self._inner.state

    @state.setter
    def state(self, value: Any) -> None:
        self._inner.state = value

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's parameter groups.

        Whoever reads them between backward() and step() is after the gradients (``GradScaler`` to
        unscale them, a loop to clip them), so those are waited for first.
        """
        reducer = self.__dict__.get("_reducer")
        if reducer is not None and reducer.pending:
            reducer.finish()
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

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # Fused optimizers take GradScaler's scale and inf check as attributes; set on this object,
        # the wrapped one would never see them. So GradScaler unscales the reduced gradients itself.
        return False

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

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, on every rank alike; they are called by group and position."""
        before = len(_parameters(self._inner))
        self._inner.add_param_group(param_group)
        names = _default_names(self._inner)[before:]
        taken = set(self._reducer.names)
        for name, parameter in zip(names, _parameters(self._inner)[before:], strict=True):
            self._reducer.add(f"added.{name}" if name in taken else name, parameter)
        self._reducer.watch()

    # --- the training loop -------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients. Raises ``UsageError`` while they are being reduced."""
        if self._reducer.pending:
            raise UsageError(
                "zero_grad() was called after backward() but before step() or synchronize(), while "
                "the gradients are being reduced over the ranks; call synchronize() first. After "
                "an exception in backward() or in a closure call synchronize() alone: step() would "
                "apply gradients that are only half computed. In a GAN, freeze the other network's "
                "parameters (requires_grad_(False)) meanwhile"
            )
        self._reducer.watch()
        self._inner.zero_grad(set_to_none=set_to_none)

    def synchronize(self) -> None:
        """Blocks until the gradients of all ranks are reduced into ``.grad``."""
        self._reducer.finish()

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """Within it, ``step`` takes the gradients as they are; for after ``synchronize()``."""
        self._synchronizes = False
        try:
            yield
        finally:
            self._synchronizes = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Reduces the gradients over all ranks, then lets the wrapped optimizer step."""
        if closure is not None:
            return self._step_with(closure)
        if self._synchronizes:
            self._reducer.finish()
        elif self._reducer.pending:
            raise UsageError(
                "step() inside skip_synchronize(), but the gradients are still being reduced: call "
                "optimizer.synchronize() before"
            )
        self._reducer.refuse_overrun()
        self._reducer.start_next_step()
        return self._inner.step()

    def _step_with(self, closure: Callable[[], Any]) -> Any:
        def reduced() -> Any:
            self._reducer.start_next_step()
            loss = closure()
            if self._synchronizes:
                self._reducer.finish()
            return mean_over_ranks(loss)

        try:
            return self._inner.step(reduced)
        finally:
            self._reducer.start_next_step()

    def set_backward_passes_per_step(self, passes: int) -> None:
        """Changes ``backward_passes_per_step`` from the next backward pass on."""
        self._reducer.set_passes(_checked_passes(passes))
        self._settings = (passes, *self._settings[1:])

    # --- copies ------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {
            "optimizer": self._inner,
            "names": self._reducer.names,
            "settings": self._settings,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Hooks are made anew. The copy numbers itself when it first reduces, so that copies which
        # never do (a checkpoint that only rank 0 makes) leave the numbers in step.
        self._build(state["optimizer"], state["names"], *state["settings"])

    def __repr__(self) -> str:
        return f"DistributedOptimizer({self._inner!r})"


def _checked_passes(passes: int) -> int:
    if not isinstance(passes, int) or passes < 1:
        raise UsageError(f"backward_passes_per_step={passes!r} is not a whole number above 0")
    return passes


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _default_names(optimizer: torch.optim.Optimizer) -> list[str]:
    """Those that the optimizer was given itself, else group and position."""
    names = []
    for number, group in enumerate(optimizer.param_groups):
        known = group.get("param_names")
        for index in range(len(group["params"])):
            names.append(known[index] if known else f"group{number}.param{index}")
    return names


def _given_names(
    parameters: list[torch.Tensor], pairs: list[tuple[str, torch.Tensor]]
) -> list[str]:
    for pair in pairs:
        if not (
            isinstance(pair, tuple)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], torch.Tensor)
        ):
            raise UsageError(
                "named_parameters takes (name, parameter) pairs, such as model.named_parameters(), "
                f"not {type(pair).__name__}"
            )
    twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    if twice:
        raise UsageError(f"named_parameters has these names more than once: {', '.join(twice)}")
    name_of = {id(parameter): name for name, parameter in pairs}
    unnamed = [tuple(p.shape) for p in parameters if id(p) not in name_of]
    if unnamed:
        raise UsageError(
            f"named_parameters does not name {len(unnamed)} of the optimizer's {len(parameters)} "
            f"parameters (of shapes {', '.join(map(str, unnamed[:8]))}); it names "
            f"{', '.join(name for name, _ in pairs[:8]) or 'nothing'}"
        )
    return [name_of[id(parameter)] for parameter in parameters]
