"""Waiting for the other ranks: ``barrier``, and ``join`` at the end of uneven data."""

from __future__ import annotations

from hora import _core
from hora.ops import NameRings, forget_names
from hora.process_sets import ProcessSet, global_process_set, id_of

__all__ = ["barrier", "join"]

_rings = NameRings("barrier")


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Returns once every rank of the set has called it."""
    number = id_of(process_set)
    ring = _rings[number]
    _core.run(_core.BARRIER, ring.names[ring.claim()], None, None, process_set=number)


def join(device: int = -1, process_set: ProcessSet = global_process_set) -> int:
    """Says that this rank has no more data; returns the last rank to say so, once all have.

    Until then the other ranks' allreduces go on without this one: it adds nothing to a sum, and an
    average is that of the ranks that are left (of all ranks with ``HORA_JOIN_DIVIDES_BY_SIZE=1``,
    as in Horovod). Other operations of the set raise an error that names who has joined. ``device``
    is accepted for Horovod's sake and not needed. Afterwards unnamed operations count anew.
    """
    del device
    number = id_of(process_set)
    last = _core.run(_core.JOIN, "join.noname", None, None, process_set=number).last_joined()
    forget_names(number)
    return last
