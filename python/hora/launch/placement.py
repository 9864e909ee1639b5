"""Which rank is on which host: the ranks are numbered host by host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Place:
    """One rank's numbers. ``cross_*`` count the hosts that have a rank of this ``local_rank``."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    host: int


@dataclass(frozen=True)
class Placement:
    """How many ranks each host has; every host has at least one."""

    sizes: tuple[int, ...]

    @classmethod
    def fill(cls, slots: Sequence[int], size: int) -> Placement:
        """Fills the hosts in their order; the last ones may stay empty and are left out."""
        sizes: list[int] = []
        for room in slots:
            taken = min(room, size - sum(sizes))
            sizes += [taken] * (taken > 0)
        return cls(tuple(sizes))

    @property
    def size(self) -> int:
        """The number of ranks."""
        return sum(self.sizes)

    def ranks_of(self, host: int) -> range:
        """The ranks of one host."""
        first = sum(self.sizes[:host])
        return range(first, first + self.sizes[host])

    def place(self, rank: int) -> Place:
        """Where the rank is."""
        ends = list(accumulate(self.sizes))
        host = next(index for index, end in enumerate(ends) if rank < end)
        local_rank = rank - (ends[host] - self.sizes[host])
        peers = [index for index, count in enumerate(self.sizes) if count > local_rank]
        local_size = self.sizes[host]
        cross = (peers.index(host), len(peers))
        return Place(rank, self.size, local_rank, local_size, *cross, host)
