"""Adasum: ranks step on their own, and their steps are combined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hora.errors import UsageError
from hora.torch.gradient_forms import Restore
from hora.torch.handle import Handle, wait_all
from hora.torch.optimizer import DistributedOptimizer
from hora.torch.optimizer_settings import OptimizerSettings
from hora.torch.parameter_names import parameters_of

__all__ = ["AdasumOptimizer"]


class AdasumOptimizer(DistributedOptimizer):
    """What ``DistributedOptimizer(..., op=Adasum)`` makes; any number of ranks.

    ``step()`` lets the wrapped optimizer step on this rank's own gradients, and then adds to every
    parameter the combination of all ranks' changes by Adasum: changes in the same direction are
    averaged, orthogonal ones add up (Maleki et al. 2020, arXiv:2006.02924). So the learning rate
    need not grow with the number of ranks. After a step all ranks have the same parameters; the
    optimizers' states (momenta, say) are each rank's own.

    Gradients are never reduced: ``synchronize`` has nothing to do, clipping sees local gradients,
    and with ``backward_passes_per_step=n`` call ``step()`` after n backward passes as before. A
    closure is each rank's own affair. With ``GradScaler``, a rank whose gradients overflowed
    contributes no change to that step. Groups, ``sparse_as_dense`` and
    ``gradient_predivide_factor`` have no meaning here. Needs memory for a copy of the parameters
    during the step; if that fails, the parameters are as before it.
    """

    _reduces_gradients = False

    def _build(self, names: list[str], settings: OptimizerSettings) -> None:
        if settings.groups or settings.sparse_as_dense or settings.views:
            raise UsageError(
                "op=Adasum combines updates; groups, sparse_as_dense and gradient_as_bucket_view "
                "are about gradients"
            )
        super()._build(names, settings)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        return True  # GradScaler calls step() on every rank, and says here what it found

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Steps on this rank's gradients, then combines the changes of all ranks."""
        if not self._is_member or self.process_set.size() == 1:
            return self._local_step(closure)
        self._reducer.name_now()
        changing = [
            (key, parameter.detach(), parameter.detach().clone())
            for key, parameter in zip(self._reducer.keys, parameters_of(self._inner), strict=True)
            if parameter.requires_grad
        ]
        try:
            result = self._local_step(closure)
            self._combine(changing)
        except BaseException:
            for _, parameter, before in changing:
                parameter.copy_(before)
            raise
        return result

    def _combine(self, changing: list[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
        """Replaces each parameter, now this rank's, by the old one plus the combined change."""
        under_way: list[tuple[Handle[Any], Restore | None]] = []
        try:
            for key, parameter, before in changing:
                parameter.sub_(before)
                under_way.append(self._forms.start(key, parameter))
        finally:  # the engine works in the parameters' memory: nobody else may before it is done
            wait_all(handle for handle, _ in under_way)
        for (_, restore), (_, parameter, before) in zip(under_way, changing, strict=True):
            if restore is not None:
                restore()
            parameter.add_(before)

    def _local_step(self, closure: Callable[[], Any] | None) -> Any:
        # What GradScaler tells an optimizer that supports scaling, see _step_supports_amp_scaling.
        overflow = self.__dict__.get("found_inf")
        if overflow is not None and overflow.item():
            return None
        scale = self.__dict__.get("grad_scale")
        if scale is not None:
            for parameter in parameters_of(self._inner):
                if parameter.grad is not None:
                    parameter.grad.div_(scale)
        return self._inner.step() if closure is None else self._inner.step(closure)
