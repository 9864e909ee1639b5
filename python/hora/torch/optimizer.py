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

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

from hora.errors import UsageError
from hora.ops import Numbers, ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.compression import Compression, Compressor
from hora.torch.gradient_forms import GradientForms
from hora.torch.gradient_groups import Groups, chosen_groups, group_indices
from hora.torch.gradient_views import place_gradients
from hora.torch.gradients import GradientReducer
from hora.torch.kinds import chosen_op
from hora.torch.operations import allreduce
from hora.torch.optimizer_settings import OptimizerSettings, checked_passes
from hora.torch.parameter_names import default_names, given_names, parameters_of
from hora.torch.wrapped_optimizer import WrappedOptimizer

__all__ = ["DistributedOptimizer"]

# Numbers the optimizers of this process, for each process set in the order in which the script
# makes them, the same on all its ranks, so that two optimizers (of a GAN, say) may have parameters
# of the same name.
_made = Numbers()


class DistributedOptimizer(WrappedOptimizer):
    """Wraps an optimizer so that ``step`` uses gradients reduced over all ranks.

    Args:
        optimizer: any optimizer; its state is kept.
        named_parameters: (name, parameter) pairs, such as ``model.named_parameters()``; they must
            name every parameter of the optimizer, and appear in error messages. Without them,
            parameters are called by group and position. The names must agree on all ranks.
        compression: ``Compression.fp16`` or ``bf16`` halve what travels; ``.grad`` keeps its dtype.
        backward_passes_per_step: gradients are accumulated locally (summed, not divided) over so
            many backward passes before they are reduced.
        op: Average (default), Sum, Min, Max or Product; Adasum makes an ``AdasumOptimizer``, which
            combines the ranks' updates instead of their gradients.
        gradient_predivide_factor: splits the division of Average: gradients are divided by it
            before the sum and by size / factor after it, against overflow in 16-bit sums.
        num_groups: the old word for ``groups``.
        groups: reduce gradients in groups, each as one operation that starts when its last gradient
            is there: a number of groups of neighbours, or lists of parameters (others go alone).
        sparse_as_dense: reduce sparse gradients as dense ones, instead of gathering their rows.
        process_set: the ranks that train together; elsewhere ``step`` is the wrapped optimizer's.
        gradient_as_bucket_view: gradients lie in memory that all ranks of the set see, and are
            reduced there without a copy; the memory stays for as long as the optimizer does.
            Making the optimizer is then collective. Gradients on a GPU stay where they are.
        step_in_backward: steps on parts of the parameters while the backward pass still runs, and
            frees their gradients: see ``InBackwardOptimizer``.
        overlap: whether another thread reduces gradients during the backward pass (True) or this
            one does when ``step`` or ``synchronize`` is called; by default, the former where there
            are more cores than ranks and their threads. Ranks may differ.

    Every rank must take part in every step. A parameter that requires grad but got none on this
    rank contributes zeros and has a gradient afterwards, as another rank may have used it; so a
    weight decay touches it, as in Horovod. ``step`` with a closure reduces the gradients after
    each call of the closure and averages the loss that it returns, because optimizers such as
    LBFGS decide by the loss, and all ranks must decide alike. Not thread-safe, as any optimizer.

    Gradients on a GPU are submitted in the order of the stream that computed them, and ``step`` and
    ``synchronize`` make the current stream wait for them, not the host.
    """

    def __init__(  # noqa: PLR0917 - Horovod's signature
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: Iterable[tuple[str, torch.Tensor]] | None = None,
        compression: type[Compressor] = Compression.none,
        backward_passes_per_step: int = 1,
        op: int = ReduceOp.AVERAGE,
        gradient_predivide_factor: float = 1.0,
        num_groups: int = 0,
        groups: Groups = None,
        sparse_as_dense: bool = False,
        process_set: ProcessSet = global_process_set,
        *,
        gradient_as_bucket_view: bool = False,
        step_in_backward: bool = False,
        overlap: bool | None = None,
    ) -> None:
        op = chosen_op(op)
        if type(self) is DistributedOptimizer:
            self._choose_class(op, step_in_backward)
        self._hold(optimizer)
        parameters = parameters_of(optimizer)
        settings = OptimizerSettings(
            compression,
            backward_passes_per_step,
            op,
            gradient_predivide_factor,
            group_indices(chosen_groups(groups, num_groups), parameters),
            sparse_as_dense,
            process_set,
            gradient_as_bucket_view,
            overlap,
        )
        if named_parameters is None:
            names = default_names(optimizer)
        else:
            names = given_names(parameters, named_parameters)
        self._build(names, settings)
        self._reducer.name_now()
        self._reducer.place()

    _reduces_gradients = True

    def _choose_class(self, op: int, step_in_backward: bool) -> None:
        """Becomes one that is the same but for how it steps."""
        if op == ReduceOp.ADASUM:
            if step_in_backward:
                raise UsageError("op=Adasum needs all gradients for its step: no step_in_backward")
            from hora.torch.adasum_optimizer import AdasumOptimizer

            self.__class__ = AdasumOptimizer
        elif step_in_backward:
            from hora.torch.in_backward_optimizer import InBackwardOptimizer

            self.__class__ = InBackwardOptimizer

    def _build(self, names: list[str], settings: OptimizerSettings) -> None:
        self._settings = settings
        self._synchronizes = True
        self._was_synchronized = False  # by the script, since the last step
        members = settings.process_set
        terms = settings.terms()
        self._is_member = terms.process_set == 0 or members.included()
        self._forms = GradientForms(terms, settings.compression, settings.sparse_as_dense, members)
        self._reducer = self._make_reducer(
            partial(_next_prefix, terms.process_set),
            terms,
            self._forms,
            checked_passes(settings.passes),
            active=self._is_member and self._reduces_gradients,
            overlaps=settings.overlap,
            place=partial(place_gradients, process_set=members) if settings.views else None,
        )
        # A rank that never looks up a row has no gradient that would tell that it is sparse.
        sparse_dim = int(isinstance(self._inner, torch.optim.SparseAdam))
        for name, parameter in zip(names, parameters_of(self._inner), strict=True):
            self._reducer.add(name, parameter, sparse_dim)
        self._group(settings)
        self._reducer.watch()

    def _make_reducer(self, *arguments: Any, **options: Any) -> GradientReducer:
        return GradientReducer(*arguments, **options)

    def _group(self, settings: OptimizerSettings) -> None:
        self._reducer.group(settings.groups)

    @property
    def backward_passes_per_step(self) -> int:
        """How many backward passes make a gradient."""
        return self._settings.passes

    @property
    def process_set(self) -> ProcessSet:
        """The ranks that train together."""
        return self._settings.process_set

    @property
    def _parameter_names(self) -> dict[torch.Tensor, str]:
        """Names by parameter, under Horovod's name for them."""
        return dict(zip(parameters_of(self._inner), self._reducer.names, strict=True))

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # Fused optimizers take GradScaler's scale and inf check as attributes; set on this object,
        # the wrapped one would never see them. So GradScaler unscales the reduced gradients itself.
        return False

    def _before_gradients_are_read(self) -> None:
        # Whoever asks for the parameters between backward() and step() is after the gradients
        # (GradScaler to unscale them, a loop to clip them), so those are waited for first.
        reducer = self.__dict__.get("_reducer")
        if reducer is not None and reducer.pending:
            reducer.finish()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, on every rank alike; they are called by group and position."""
        before = len(parameters_of(self._inner))
        self._inner.add_param_group(param_group)
        names = default_names(self._inner)[before:]
        taken = set(self._reducer.names)
        for name, parameter in zip(names, parameters_of(self._inner)[before:], strict=True):
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
        self._was_synchronized = True

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """Within it, ``step`` takes the gradients as they are; for after ``synchronize()``."""
        self._synchronizes = False
        try:
            yield
        finally:
            self._synchronizes = True

    def no_sync(self) -> AbstractContextManager[None]:
        """Within it, backward passes add to this rank's gradients and send nothing.

        The next backward pass outside, or ``step()``, reduces the sum, as with DDP's ``no_sync``.
        """
        return self._reducer.accumulating_only()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Reduces the gradients over all ranks, then lets the wrapped optimizer step."""
        if closure is not None:
            return self._step_with(closure)
        is_settled = self._was_synchronized and self._reducer.is_reduced
        if self._synchronizes:
            self._reducer.finish()
        elif self._reducer.pending:
            raise UsageError(
                "step() inside skip_synchronize(), but the gradients are still being reduced: call "
                "optimizer.synchronize() before"
            )
        self._was_synchronized = False
        self._reducer.refuse_overrun()
        if is_settled and self._synchronizes:
            warnings.warn(
                "optimizer.step() called without optimizer.skip_synchronize() context after "
                "optimizer.synchronize(): the gradients are used as they are now; write "
                "'with optimizer.skip_synchronize(): optimizer.step()' to say so",
                stacklevel=2,
            )
        self._reducer.start_next_step()
        return self._inner.step()

    def _step_with(self, closure: Callable[[], Any]) -> Any:
        def reduced() -> Any:
            self._reducer.start_next_step()
            loss = closure()
            if self._synchronizes:
                self._reducer.finish()
            return self._agreed(loss)

        try:
            return self._inner.step(reduced)
        finally:
            self._reducer.start_next_step()

    def _agreed(self, loss: Any) -> Any:
        """The mean of the ranks' losses, detached, in the form it came: tensor, number or None."""
        if loss is None or not self._is_member:
            return loss
        if isinstance(loss, torch.Tensor):
            return allreduce(loss.detach(), process_set=self.process_set)
        mine = torch.tensor(float(loss), dtype=torch.float64, device="cpu")
        return float(allreduce(mine, process_set=self.process_set))

    def fill_in_gradients(self) -> None:
        """Gives parameters that require grad and have none a gradient of zeros."""
        self._reducer.fill_in()

    def set_backward_passes_per_step(self, passes: int) -> None:
        """Changes ``backward_passes_per_step`` from the next backward pass on."""
        self._reducer.set_passes(checked_passes(passes))
        self._settings = self._settings._replace(passes=passes)

    # --- copies ------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {
            "optimizer": self._inner,
            "names": self._reducer.names,
            "settings": tuple(self._settings),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Hooks are made anew. The copy numbers itself when it first reduces, so that copies which
        # never do (a checkpoint that only rank 0 makes) leave the numbers in step.
        self._hold(state["optimizer"])
        self._build(state["names"], OptimizerSettings(*state["settings"]))


def _next_prefix(process_set: int) -> str:
    return f"DistributedOptimizer.{_made.next(process_set)}."
