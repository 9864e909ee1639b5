"""Which gradients are reduced together, as one operation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from hora.errors import UsageError

__all__ = ["Groups", "chosen_groups", "group_indices"]

Groups = int | Sequence[Sequence[torch.Tensor]] | None


def chosen_groups(groups: Groups, num_groups: int) -> Groups:
    """``groups``, or what the deprecated ``num_groups`` says where there is none."""
    if not num_groups:
        return groups
    warnings.warn(
        "num_groups has been replaced by groups, which takes the same number",
        DeprecationWarning,
        stacklevel=3,
    )
    return num_groups if groups is None else groups


def group_indices(groups: Groups, parameters: list[torch.Tensor]) -> list[list[int]]:
    """The groups of two or more parameters, as positions in ``parameters``.

    A number shares the parameters that require grad out to so many groups of neighbours, whose
    sizes differ by at most one. Of lists, parameters in none are left to themselves.
    """
    if groups is None:
        return []
    if isinstance(groups, int) and not isinstance(groups, bool):
        return _shared_out(groups, parameters)
    position = {id(parameter): index for index, parameter in enumerate(parameters)}
    seen: set[int] = set()
    found: list[list[int]] = []
    for number, group in enumerate(_checked_lists(groups)):
        found.append([])
        for member in group:
            if not isinstance(member, torch.Tensor):
                raise UsageError(
                    f"groups[{number}] holds a {type(member).__name__}, not a parameter"
                )
            index = position.get(id(member))
            if index is None:
                raise UsageError(
                    f"groups[{number}] holds a tensor of shape {tuple(member.shape)} that is no "
                    "parameter of the optimizer"
                )
            if index in seen:
                raise UsageError(
                    f"a parameter of shape {tuple(member.shape)} is in groups twice; it can only "
                    "be reduced with one group"
                )
            seen.add(index)
            found[-1].append(index)
    return [group for group in found if len(group) > 1]


def _checked_lists(groups: object) -> list[list[object]]:
    try:
        lists = [list(group) for group in groups]  # type: ignore[attr-defined]
    except TypeError:
        raise UsageError(
            f"groups={groups!r} is neither a whole number above 0 nor a list of lists of parameters"
        ) from None
    if isinstance(groups, (str, torch.Tensor)) or any(
        isinstance(group, (str, torch.Tensor))
        for group in groups  # type: ignore[attr-defined]
    ):
        raise UsageError("groups takes lists of parameters, one list for each group")
    return lists


def _shared_out(count: int, parameters: list[torch.Tensor]) -> list[list[int]]:
    if count < 1:
        raise UsageError(f"groups={count} is not a whole number above 0")
    learning = [index for index, p in enumerate(parameters) if p.requires_grad]
    share, more = divmod(len(learning), count)
    found, start = [], 0
    for number in range(count):
        end = start + share + (number < more)
        if end - start > 1:
            found.append(learning[start:end])
        start = end
    return found
