"""What can go wrong, by class: each message names the tensor, the ranks and how to mend it.

``HoraError`` is a ``RuntimeError``, as Horovod's ``HorovodInternalError`` is; mistakes in a call
are ``ValueError`` as well.
"""

from __future__ import annotations

__all__ = [
    "HoraError",
    "HorovodVersionMismatchError",
    "HostsUpdatedInterrupt",
    "InternalError",
    "MismatchError",
    "NotInitializedError",
    "PeerFailedError",
    "ResourceError",
    "ShutDownError",
    "StallError",
    "UsageError",
    "WaitTimeoutError",
]


class HoraError(RuntimeError):
    """Base of every error that hora raises."""


class UsageError(HoraError, ValueError):
    """This call cannot work; raised on this rank only, before anything is enqueued."""


class MismatchError(HoraError):
    """Ranks disagree about one tensor; raised on every rank, and the engine stays usable."""


class PeerFailedError(HoraError):
    """Another rank died or cannot be reached; shut down and initialise again to go on."""


class StallError(HoraError):
    """A rank did not submit an operation before the abort time; the engine has ended on all ranks.

    ``shutdown()`` and ``init()`` start it anew.
    """


class ShutDownError(HoraError):
    """This rank, or one that the operation needs, has shut down."""


class NotInitializedError(HoraError, ValueError):
    """Called before ``init()`` or after ``shutdown()``."""


class WaitTimeoutError(HoraError, TimeoutError):
    """A wait with a timeout ended before the operation did; the operation goes on."""


class ResourceError(HoraError):
    """Memory, file descriptors or another limit of the machine."""


class InternalError(HoraError):
    """A broken invariant of hora itself: please report it."""


class HostsUpdatedInterrupt(RuntimeError):
    """Hosts were added or removed: a script that catches it starts over with the new ranks.

    ``skip_sync``: only removals, so the state of the ranks that are left needs no broadcast.
    Nothing raises it in this version, which has no elastic training.
    """

    def __init__(self, skip_sync: bool = False) -> None:
        super().__init__("the hosts of this job have changed")
        self.skip_sync = skip_sync


class HorovodVersionMismatchError(ImportError):
    """Horovod's for one that was built for another PyTorch; hora is built for none.

    Nothing raises it; the name is here for scripts that catch it.
    """

    def __init__(self, name: str, version: str, installed_version: str | None) -> None:
        super().__init__(
            f"{name} {installed_version} is installed, but this was built for {name} {version}"
        )
        self.name = name
        self.version = version
        self.installed_version = installed_version
