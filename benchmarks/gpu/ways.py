"""Operations whose launch is measured at one rank, each with what it contains.

A group of one has nothing to do by itself: with ``HORA_NCCL_ALONE=1`` NCCL is called all the same,
and does what it does for one rank, which differs from operation to operation. At one rank NCCL
starts no thread and no kernel that talks to others, but for what is sent and received: what
several ranks take is shown by none of these.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ALONE", "WAYS", "Way", "is_nccl_called", "summary"]

ALONE = "HORA_NCCL_ALONE"
NAME = "launch"


@dataclass(frozen=True)
class Way:
    """``start(hvd, tensor)`` submits one operation and returns its handle."""

    name: str
    contains: str
    start: Callable[[Any, Any], Any]


WAYS = (
    Way(
        "sum in place",
        "the agreement, the events, a call of NCCL that puts nothing on the stream",
        lambda hvd, tensor: hvd.allreduce_async_(tensor, name=NAME, op=hvd.Sum),
    ),
    Way(
        "sum out of place",
        "the agreement, the events, a result of PyTorch's allocator, NCCL's copy into it",
        lambda hvd, tensor: hvd.allreduce_async(tensor, name=NAME, op=hvd.Sum),
    ),
    Way(
        "scaled average in place",
        "the agreement, the events, hora's kernel that scales and NCCL's that averages",
        lambda hvd, tensor: hvd.allreduce_async_(
            tensor, name=NAME, op=hvd.Average, prescale_factor=-1.0
        ),
    ),
    Way(
        "alltoall",
        "the agreement, the exchange of splits, a result of PyTorch's allocator, NCCL's send and "
        "receive with the thread that it starts for them",
        lambda hvd, tensor: hvd.alltoall_async(tensor, name=NAME),
    ),
)


def is_nccl_called(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether NCCL is called by one rank, too."""
    return environ.get(ALONE) == "1"


def summary(
    way: Way, nbytes: int, submitted_ns: Sequence[int], launched_ns: Sequence[int]
) -> dict[str, Any]:
    """The record of one way and size: medians in µs, and the launch's 90th percentile."""
    return {
        "way": way.name,
        "contains": way.contains,
        "bytes": nbytes,
        "submit_us": round(statistics.median(submitted_ns) / 1e3, 2),
        "launch_us": round(statistics.median(launched_ns) / 1e3, 2),
        "launch_p90_us": round(statistics.quantiles(launched_ns, n=10)[-1] / 1e3, 2),
    }
