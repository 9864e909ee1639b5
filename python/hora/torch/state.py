"""Brings every rank to the same model and optimizer before training starts or resumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from hora import runtime
from hora.errors import UsageError
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.broadcasts import broadcast_async_
from hora.torch.handle import wait_all
from hora.torch.objects import broadcast_object, broadcast_plain
from hora.torch.optimizer import DistributedOptimizer
from hora.torch.parameter_names import parameters_of

__all__ = ["broadcast_optimizer_state", "broadcast_parameters"]

_Named = Iterable[tuple[str, torch.Tensor]]


def broadcast_parameters(
    params: torch.nn.Module | Mapping[str, Any] | _Named | Iterable[torch.Tensor],
    root_rank: int = 0,
    process_set: ProcessSet = global_process_set,
) -> None:
    """Overwrites the tensors of every rank of the set, in place, with those of ``root_rank``.

    ``params`` is a module (its parameters and all its buffers), a ``state_dict``, or an iterable,
    also a generator, of (name, tensor) pairs or of tensors, which then meet by position. Entries
    that are None are left out. Anything else raises ``UsageError`` before anything is sent: a
    value such as ``_extra_state`` cannot be overwritten in place; ``broadcast_object`` brings it
    to every rank. ``root_rank`` is a global rank.
    """
    pairs = list(_pairs(params))
    for name, value in pairs:
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"'{name}' is of type {type(value).__name__}; only tensors can be overwritten in "
                "place: leave it out, and bring it to every rank with broadcast_object"
            )
    wait_all(
        [
            broadcast_async_(value, root_rank, f"broadcast.parameters.{name}", process_set)
            for name, value in pairs
        ]
    )


def broadcast_optimizer_state(
    optimizer: torch.optim.Optimizer,
    root_rank: int,
    model: torch.nn.Module | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    allow_pickle: bool = False,
) -> None:
    """Gives every rank's optimizer the state and the hyper-parameters of ``root_rank``'s.

    Ranks that have no state yet receive it whole; numbers stay numbers, tensors keep their dtype,
    and no step is taken: parameters, step counts and (of a plain optimizer) gradients stay as they
    are. Parameters of a ``DistributedOptimizer`` that have no gradient get one of zeros, which is
    what they have after Horovod's broadcast, too. Works for every optimizer of ``torch.optim``. The
    ranks' optimizers hold parameters of the same shapes in the same order. ``root_rank`` is a
    global rank. ``model`` is accepted for Horovod's sake and not needed. State that is neither
    plain data nor tensors raises ``UsageError`` on every rank, unless all pass
    ``allow_pickle=True``.
    """
    del model
    if allow_pickle:
        received = broadcast_object(optimizer.state_dict(), root_rank, process_set=process_set)
    else:
        received = broadcast_plain(
            optimizer.state_dict, root_rank, "optimizer.state_dict()", process_set=process_set
        )
    if runtime.rank() != root_rank:
        optimizer.load_state_dict(received)
        _restore_dtypes(optimizer, received["state"])
    if isinstance(optimizer, DistributedOptimizer):
        optimizer.fill_in_gradients()


def _restore_dtypes(optimizer: torch.optim.Optimizer, received: Mapping[Any, Any]) -> None:
    """Undoes the cast to the parameter's dtype that ``load_state_dict`` applies to tensors."""
    parameters = parameters_of(optimizer)
    for index, entries in received.items():
        if not (isinstance(index, int) and isinstance(entries, dict)):
            continue
        state = optimizer.state[parameters[index]]
        for key, value in entries.items():
            loaded = state.get(key)
            both = isinstance(value, torch.Tensor) and isinstance(loaded, torch.Tensor)
            if both and loaded.dtype != value.dtype:
                state[key] = value.to(loaded.device)


def _pairs(params: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(params, torch.nn.Module):
        yield from params.named_parameters()
        yield from params.named_buffers()
        return
    if isinstance(params, torch.Tensor):
        raise UsageError("broadcast_parameters takes several tensors; for one, call broadcast_")
    if isinstance(params, Mapping):
        params = params.items()
    try:
        entries = iter(params)
    except TypeError:
        raise UsageError(
            "a module, a state_dict, or an iterable of (name, tensor) pairs or of tensors is "
            f"needed, not {type(params).__name__}"
        ) from None
    for index, entry in enumerate(entries):
        is_pair = isinstance(entry, tuple) and len(entry) == 2
        name, value = entry if is_pair else (str(index), entry)
        if value is not None:
            yield str(name), value
