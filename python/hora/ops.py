"""Reduction operators, and names for operations that the caller did not name. Knows no torch."""

from __future__ import annotations

import contextlib
import enum
import itertools
import weakref
from typing import TYPE_CHECKING, ClassVar

from hora import _core
from hora.errors import HoraError

if TYPE_CHECKING:
    from hora._core import Handle

__all__ = ["NameRing", "NameRings", "Numbers", "ReduceOp", "forget_names", "forget_numbers"]


class ReduceOp(enum.IntEnum):
    """How allreduce and reducescatter combine the ranks' values; the numbers are Horovod's.

    ``ADASUM`` (allreduce only) adds what is orthogonal and averages what is parallel.
    """

    AVERAGE = 0
    SUM = 1
    ADASUM = 2
    MIN = 3
    MAX = 4
    PRODUCT = 5


class NameRing:
    """Hands out ``"<kind>.noname.<n mod 256>"``: unnamed operations pair by order of submission.

    The names repeat because the engine remembers what ranks agreed on by name: a loop over
    unnamed operations then costs one bit of negotiation per operation, as it does with names. Two
    open operations must not share a name, so whoever claims a slot first waits for the operation
    that used it last, 256 submissions ago. That back-pressure is what keeps the pairing exact:
    the n-th unnamed operation of a kind meets the n-th one of every other rank, never the
    (n+256)-th.

    Any thread may call; which of two racing threads gets which number is then up to the caller.
    """

    SLOTS = 256

    def __init__(self, kind: str) -> None:
        self.names = tuple(f"{kind}.noname.{slot}" for slot in range(self.SLOTS))
        self._open: list[Handle | None] = [None] * self.SLOTS
        self._numbers = itertools.count()

    def claim(self) -> int:
        """Returns the next slot, an index into ``names``; may wait for its last operation."""
        slot = next(self._numbers) & 255
        if self._open[slot] is not None:
            self._wait_for(slot)
        return slot

    def occupy(self, slot: int, handle: Handle) -> None:
        """Tells which operation now uses the slot's name."""
        self._open[slot] = handle

    def vacate(self, slot: int, handle: Handle) -> None:
        """Lets go of a finished operation, and of the tensors that it keeps alive."""
        if self._open[slot] is handle:
            self._open[slot] = None

    def give_back(self, slot: int) -> None:
        """Makes the slot just claimed the next one again: its operation was refused.

        A rank that catches the error then still pairs with the others. Does nothing once another
        thread has claimed a later slot.
        """
        following = next(self._numbers) & 255
        undone = following == (slot + 1) & 255
        self._numbers = itertools.count(slot if undone else following)

    def forget(self) -> None:
        """Starts numbering anew, as every rank does when a new group is formed."""
        self._numbers = itertools.count()
        self._open = [None] * self.SLOTS

    def _wait_for(self, slot: int) -> None:
        handle = self._open[slot]
        if handle is not None:
            with contextlib.suppress(HoraError):  # whoever holds that handle is told
                handle.wait()
            self._open[slot] = None


class NameRings(dict[int, NameRing]):
    """The rings of one kind of operation, by process set: each set counts for itself.

    The ring of a set is made when it is first asked for. That of the global set, 0, stays the same
    object for the life of the process.
    """

    _all: ClassVar[weakref.WeakSet[NameRings]] = weakref.WeakSet()

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        NameRings._all.add(self)

    def __missing__(self, process_set: int) -> NameRing:
        return self.setdefault(process_set, NameRing(self.kind))

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class Numbers:
    """Numbers objects (optimizers, …) in the order in which each rank makes them: 0, 1, ….

    Each process set counts for itself, and all count anew when the process has left its group: in
    the next one, ranks that are new count from 0.
    """

    _all: ClassVar[weakref.WeakSet[Numbers]] = weakref.WeakSet()

    def __init__(self) -> None:
        self._following: dict[int, int] = {}
        Numbers._all.add(self)

    def next(self, process_set: int = 0) -> int:
        """Returns the next number of the process set."""
        number = self._following.get(process_set, 0)
        self._following[process_set] = number + 1
        return number

    def forget(self) -> None:
        """Starts from 0 again."""
        self._following.clear()


def forget_numbers() -> None:
    """Lets all ``Numbers`` start from 0 again."""
    for numbers in Numbers._all:
        numbers.forget()


def forget_names(process_set: int | None = None) -> None:
    """Numbers unnamed operations from 0 again, in one process set or (None) in all.

    Called on every rank at the same point: when the process joins a group, and after ``join()``,
    before which some ranks have submitted more than others.
    """
    for rings in NameRings._all:
        for number in list(rings) if process_set is None else [process_set]:
            if number == 0:
                rings[0].forget()
            else:
                rings.pop(number, None)
    _core.forget_compiled_names(process_set)
