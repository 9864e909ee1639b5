"""The kinds of operations on tensors, what ranks must agree on, and what a bad call is told."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from hora import _core
from hora.errors import UsageError
from hora.ops import NameRing, NameRings, ReduceOp
from hora.process_sets import ProcessSet, global_process_set, id_of
from hora.torch.tensors import MOVABLE, NUMBERS, REDUCIBLE, check_tensor, is_direct

__all__ = [
    "ALLGATHER",
    "ALLREDUCE",
    "ALLTOALL",
    "BROADCAST",
    "REDUCESCATTER",
    "Kind",
    "Terms",
    "chosen_op",
    "passes",
    "reduction_terms",
    "refusal",
    "title",
]


@dataclass(frozen=True)
class Kind:
    """One kind of operation on tensors."""

    number: int
    word: str
    dtypes: frozenset[torch.dtype]
    unconditional: frozenset[torch.dtype]  # those that it takes whatever its terms are
    rings: NameRings = field(init=False)
    ring: NameRing = field(init=False)  # of the global process set

    def __post_init__(self) -> None:
        object.__setattr__(self, "rings", NameRings(self.word))
        object.__setattr__(self, "ring", self.rings[0])


ALLREDUCE = Kind(_core.ALLREDUCE, "allreduce", REDUCIBLE, NUMBERS)
_ADASUM = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
REDUCESCATTER = Kind(_core.REDUCESCATTER, "reducescatter", REDUCIBLE, NUMBERS)
ALLGATHER = Kind(_core.ALLGATHER, "allgather", MOVABLE, MOVABLE)
BROADCAST = Kind(_core.BROADCAST, "broadcast", MOVABLE, MOVABLE)
ALLTOALL = Kind(_core.ALLTOALL, "alltoall", MOVABLE, MOVABLE)


class Terms(NamedTuple):
    """What ranks must agree on besides dtype and shape, and the id of their process set.

    The order is that of the engine's arguments, where ``splits`` comes before ``priority``.
    """

    reduce_op: int = ReduceOp.SUM
    root_rank: int = -1
    prescale: float = 1.0
    postscale: float = 1.0
    process_set: int = 0
    priority: int = 0


_AVERAGE = int(ReduceOp.AVERAGE)
_SUM = int(ReduceOp.SUM)
_NUMBER_OF = {op: int(op) for op in ReduceOp}


def chosen_op(op: int | None, average: bool | None = None) -> int:
    """The number of the reduction that the two arguments ask for; Average when they are None."""
    if op is None:
        return _AVERAGE if average is None or average else _SUM
    if average is not None:
        raise UsageError("give op or average, not both; average=False means op=Sum")
    try:
        return _NUMBER_OF[op]  # type: ignore[index]
    except (KeyError, TypeError):  # what cannot be hashed is no op either
        raise UsageError(
            f"op={op!r} is none of Average, Sum, Adasum, Min, Max and Product"
        ) from None


def reduction_terms(  # noqa: PLR0917 - in the order of the arguments of an allreduce
    op: int | None,
    average: bool | None,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
    priority: int = 0,
) -> Terms:
    """The terms of an allreduce or reducescatter from the arguments of a call."""
    if average is not None:
        warnings.warn(
            "average= is deprecated: write op=hvd.Average or op=hvd.Sum",
            DeprecationWarning,
            stacklevel=3,
        )
    number = 0 if process_set is global_process_set else id_of(process_set)
    return Terms(chosen_op(op, average), -1, prescale, postscale, number, priority)


def title(kind: Kind, name: str | None, index: int | None = None) -> str:
    """How messages call an operation, or one tensor of a grouped one."""
    group = "" if index is None else "grouped_"
    which = "" if index is None else f", tensor {index} of the group"
    return f"{group}{kind.word}{which}" if name is None else f"{group}{kind.word} '{name}'{which}"


def passes(
    kind: Kind, name: str | None, tensor: torch.Tensor, terms: Terms, index: int | None = None
) -> bool:
    """Whether the engine can take the tensor as it is; raises ``UsageError`` if in no form.

    ``index``: its place in a group.
    """
    check_tensor(tensor, title(kind, name, index), kind.dtypes)
    if kind.dtypes is REDUCIBLE:
        problem = _irreducible(kind, tensor.dtype, terms.reduce_op)
        if problem is not None:
            raise UsageError(f"{title(kind, name, index)}: {problem}")
    return is_direct(tensor, kind.dtypes)


def _irreducible(kind: Kind, dtype: torch.dtype, op: int) -> str | None:
    """Why this operator does not reduce this dtype, or None if it does."""
    if op == ReduceOp.ADASUM:
        if kind is not ALLREDUCE:
            return "op=Adasum works with allreduce only"
        if dtype not in _ADASUM:
            return f"op=Adasum takes float16, bfloat16, float32 and float64, not {dtype}"
    elif dtype is torch.bool and op == ReduceOp.AVERAGE:
        return "booleans have no average; use op=Max (any), op=Min (all), or pass tensor.float()"
    elif dtype.is_complex and op not in (ReduceOp.SUM, ReduceOp.AVERAGE):
        return f"{dtype} has op=Sum and op=Average only; pass torch.view_as_real(tensor)"
    return None


def refusal(
    error: Exception, kind: Kind, name: str | None, submitted: str, terms: Terms
) -> Exception:
    """What to raise when the engine refused an operation, of which the other ranks know nothing.

    An unnamed operation's slot goes back to its ring. A ``TypeError`` of the bindings becomes a
    ``UsageError`` that names the argument; looking only now keeps the usual case free of checks.
    """
    if name is None:
        ring = kind.rings[terms.process_set]
        ring.give_back(ring.names.index(submitted))
    problem = _bad_argument(name, terms) if isinstance(error, TypeError) else None
    return error if problem is None else UsageError(f"{kind.word}: {problem}")


def _bad_argument(name: object, terms: Terms) -> str | None:
    if name is not None and not isinstance(name, str):
        return f"name={name!r} is not a string (None lets operations meet in order)"
    if not hasattr(terms.root_rank, "__index__") or not -1 <= terms.root_rank < 1 << 31:
        return f"root_rank={terms.root_rank!r} is not the number of a rank, from 0 to size() - 1"
    factors = (("prescale_factor", terms.prescale), ("postscale_factor", terms.postscale))
    for argument, factor in factors:
        if not hasattr(factor, "__float__"):
            return f"{argument}={factor!r} is not a number"
    if not hasattr(terms.priority, "__index__") or not -1 << 31 <= terms.priority < 1 << 31:
        return f"priority={terms.priority!r} is not an integer of 32 bits"
    return None
