"""Process sets: groups of ranks that run operations among themselves.

    evens = hvd.add_process_set(range(0, hvd.size(), 2))
    if evens.included():
        hvd.allreduce(tensor, process_set=evens)

A set is made and removed by all ranks together, members or not. Its operations concern its members
only, may overlap with those of other sets, and negotiate names of their own.
"""

from __future__ import annotations

import json
import operator
import threading
import weakref
from collections.abc import Iterable
from typing import Any

from hora import _core
from hora.errors import MismatchError, NotInitializedError, UsageError
from hora.ops import forget_names

__all__ = [
    "ProcessSet",
    "add_process_set",
    "add_process_sets",
    "forget_process_sets",
    "global_process_set",
    "id_of",
    "place_in",
    "remove_process_set",
]

_GLOBAL = 0


class ProcessSet:
    """Some of the group's ranks, in ascending order of their global numbers.

    ``ProcessSet([0, 2])`` describes a set; ``init(process_sets=[…])`` or ``add_process_set``
    registers it, and operations then accept it. An mpi4py communicator does as well, and stands for
    the ranks that ``Get_rank`` of its members gives in the world. Two sets are equal when they have
    the same ranks; the global set equals only itself. Any thread may read one.

    Attributes:
        process_set_id: the same number on every rank; None until registered, after removal and
            after ``shutdown()``. The global set's is 0.
        ranks: global ranks, ascending; of the global set [] while not initialised.
    """

    def __init__(self, ranks: Iterable[int] | Any) -> None:
        self.process_set_id: int | None = None
        self._ranks = _checked_ranks(ranks)

    @classmethod
    def _of_all(cls) -> ProcessSet:
        one = cls.__new__(cls)
        one.process_set_id = _GLOBAL
        one._ranks = ()
        return one

    @property
    def ranks(self) -> list[int]:
        """Global ranks of the members, ascending."""
        if self.process_set_id == _GLOBAL:
            return list(range(_core.topology().size)) if _core.is_initialized() else []
        return list(self._ranks)

    def size(self) -> int | None:
        """How many ranks the set has; None while it is not registered."""
        if self.process_set_id is None or not _core.is_initialized():
            return None
        return _core.topology().size if self.process_set_id == _GLOBAL else len(self._ranks)

    def rank(self) -> int | None:
        """This rank's place in the set, 0 … size()-1; None if outside or not registered.

        It indexes what ``allgather`` returns and the splits of ``alltoall``. ``broadcast`` takes
        a global rank as its root.
        """
        if self.process_set_id is None or not _core.is_initialized():
            return None
        rank = _core.topology().rank
        if self.process_set_id == _GLOBAL:
            return rank
        return self._ranks.index(rank) if rank in self._ranks else None

    def included(self) -> bool:
        """Whether this rank is a member. Raises ``NotInitializedError`` before ``init()``."""
        rank = _core.topology().rank
        return self.process_set_id == _GLOBAL or rank in self._ranks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProcessSet):
            return NotImplemented
        if _GLOBAL in (self.process_set_id, other.process_set_id):
            return self.process_set_id == other.process_set_id
        return self._ranks == other._ranks

    def __hash__(self) -> int:
        return hash(self._ranks)

    def __copy__(self) -> ProcessSet:
        return self  # a model that is copied stays with its set

    def __deepcopy__(self, _: dict[int, Any]) -> ProcessSet:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (None if self.process_set_id == _GLOBAL else self._ranks,)

    def __repr__(self) -> str:
        if self.process_set_id == _GLOBAL:
            return "<ProcessSet 0: all ranks>"
        number = "not registered" if self.process_set_id is None else str(self.process_set_id)
        return f"<ProcessSet {number}: ranks {list(self._ranks)}>"


global_process_set = ProcessSet._of_all()

_lock = threading.Lock()
_registered: weakref.WeakValueDictionary[int, ProcessSet] = weakref.WeakValueDictionary()


def add_process_set(process_set: ProcessSet | Iterable[int]) -> ProcessSet:
    """Registers a set of global ranks and returns it, ready for use.

    Collective: every rank of the group calls it with the same ranks, in the same order among other
    such calls, whether it is a member or not. Blocks until all have. Raises ``MismatchError`` on
    every rank, naming each rank's list, when they differ, and ``UsageError`` (a ``ValueError``) for
    ranks that do not exist or that a registered set has already; the group goes on.
    """
    wanted = process_set if isinstance(process_set, ProcessSet) else ProcessSet(process_set)
    return add_process_sets([wanted])[0]


def add_process_sets(process_sets: Iterable[ProcessSet]) -> list[ProcessSet]:
    """``add_process_set`` for several, with one exchange between the ranks; all or none."""
    wanted = list(process_sets)
    for one in wanted:
        if not isinstance(one, ProcessSet):
            raise UsageError(f"a ProcessSet is needed, not {type(one).__name__}")
        if one.process_set_id is not None:
            raise UsageError(f"{one!r} is registered already")
    _agree([["add", list(one._ranks)] for one in wanted])
    # From here on every rank sees the same data, and so decides the same.
    taken = {tuple(ranks): number for number, ranks in _core.process_sets().items()}
    for one in wanted:
        _check_new(one, taken)
        taken[one._ranks] = -1
    for one in wanted:
        number = _core.add_process_set(list(one._ranks))
        with _lock:
            one.process_set_id = number
            _registered[number] = one
    return wanted


def remove_process_set(process_set: ProcessSet) -> bool:
    """Removes a set on every rank; returns False if it was not registered, or is the global one.

    Collective over all ranks, like ``add_process_set``; operations that members have pending in the
    set finish first. The object may be registered again. Raises ``MismatchError`` on every rank
    when they name different sets.
    """
    if not isinstance(process_set, ProcessSet):
        raise UsageError(f"a ProcessSet is needed, not {type(process_set).__name__}")
    number = process_set.process_set_id
    if number is None or number == _GLOBAL:
        return False
    _agree([["remove", list(process_set._ranks)]])
    _core.remove_process_set(number)
    with _lock:
        _registered.pop(number, None)
        process_set.process_set_id = None
    forget_names(number)
    return True


def forget_process_sets() -> None:
    """Marks every set but the global one as not registered: this process has left the group."""
    with _lock:
        for one in _registered.values():
            one.process_set_id = None
        _registered.clear()


def id_of(process_set: ProcessSet) -> int:
    """The number under which the engine knows a set; ``UsageError`` if it knows it not."""
    if not isinstance(process_set, ProcessSet):
        raise UsageError(
            f"process_set={process_set!r} is no ProcessSet: make one with "
            "hvd.add_process_set(ranks)"
        )
    number = process_set.process_set_id
    if number is None:
        if not _core.is_initialized():
            raise NotInitializedError("hora has not been initialised; call hvd.init() first")
        raise UsageError(
            f"{process_set!r}: call hvd.add_process_set on every rank before using it (or "
            "hvd.init(process_sets=[…])); a removed set, or one from before hvd.shutdown(), has to "
            "be added again"
        )
    return number


def place_in(process_set: ProcessSet) -> tuple[int, int]:
    """This rank's place in a registered set, and the size; ``UsageError`` if it is no member."""
    id_of(process_set)
    rank = _core.topology().rank
    place, size = process_set.rank(), process_set.size()
    if place is None or size is None:
        raise UsageError(f"rank {rank} is not in {process_set!r}; only members take part")
    return place, size


def _restored(ranks: tuple[int, ...] | None) -> ProcessSet:
    """What unpickling makes: the registered set of these ranks, if there is one."""
    if ranks is None:
        return global_process_set
    with _lock:
        known = [one for one in _registered.values() if one._ranks == ranks]
    return known[0] if known else ProcessSet(ranks)


def _checked_ranks(ranks: Any) -> tuple[int, ...]:
    if hasattr(ranks, "Get_group"):  # an mpi4py communicator
        ranks = ranks.allgather(_core.topology().rank)
    try:
        numbers = sorted(operator.index(rank) for rank in ranks)
    except TypeError:
        raise UsageError(
            f"a process set is made of a list or range of global ranks, not of {ranks!r}"
        ) from None
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"a process set has each rank once, unlike {numbers}")
    return tuple(numbers)


def _check_new(one: ProcessSet, taken: dict[tuple[int, ...], int]) -> None:
    size = _core.topology().size
    if not one._ranks:
        raise UsageError("a process set needs at least one rank")
    outside = [rank for rank in one._ranks if not 0 <= rank < size]
    if outside:
        raise UsageError(
            f"process set {list(one._ranks)}: there is no rank {outside[0]}, ranks are 0 to "
            f"{size - 1}"
        )
    if one._ranks in taken:
        number = taken[one._ranks]
        what = (
            "the global process set: use hvd.global_process_set"
            if number == _GLOBAL
            else "another set of the same call"
            if number < 0
            else f"process set {number}: use that one, or remove it first"
        )
        raise UsageError(f"ranks {list(one._ranks)} are those of {what}")


def _agree(wish: list[list[Any]]) -> None:
    """Compares what the ranks want; raises ``MismatchError`` on all of them if they differ."""
    import torch
    from torch.utils.dlpack import from_dlpack

    text = json.dumps(wish)
    mine = torch.tensor(list(text.encode()), dtype=torch.uint8)
    gathered = _core.run(_core.ALLGATHER, "process_sets.agree", mine, None).gathered()[0]
    everything = bytes(from_dlpack(gathered).tolist()).decode()
    wishes, start = [], 0
    for length in gathered.first_dims:
        wishes.append(everything[start : start + length])
        start += length
    if any(other != text for other in wishes):
        each = "; ".join(f"rank {rank}: {_told(other)}" for rank, other in enumerate(wishes))
        raise MismatchError(
            f"ranks disagree about process sets: {each}. Every rank must add and remove the same "
            "sets in the same order"
        )


def _told(text: str) -> str:
    return ", ".join(f"{action} {ranks}" for action, ranks in json.loads(text)) or "nothing"
