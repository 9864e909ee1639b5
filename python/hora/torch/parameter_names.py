"""What the parameters of an optimizer are called, so that ranks meet and errors can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch

from hora.errors import UsageError

__all__ = ["default_names", "given_names", "parameters_of"]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All parameters, group after group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def default_names(optimizer: torch.optim.Optimizer) -> list[str]:
    """Those that the optimizer was given itself, else group and position."""
    names = []
    for number, group in enumerate(optimizer.param_groups):
        known = group.get("param_names")
        for index in range(len(group["params"])):
            names.append(known[index] if known else f"group{number}.param{index}")
    return names


def given_names(
    parameters: list[torch.Tensor], named_parameters: Iterable[tuple[str, torch.Tensor]]
) -> list[str]:
    """The parameters' names according to (name, parameter) pairs; ``UsageError`` if one has none.

    Pairs of other parameters are allowed: an optimizer may hold a part of a model.
    """
    pairs = list(named_parameters)
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
