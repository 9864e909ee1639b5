"""What a script does once for all ranks."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import torch

from hora import runtime

__all__ = ["is_primary", "print_rank0", "save_on_primary"]


def is_primary() -> bool:
    """Whether this is rank 0, which logs and saves for all. Raises ``NotInitializedError``."""
    return runtime.rank() == 0


def print_rank0(*values: object, **options: Any) -> None:
    """``print`` on rank 0, nothing elsewhere; the line is flushed."""
    if is_primary():
        print(*values, **{"flush": True, **options})


def save_on_primary(obj: Any, path: str | os.PathLike[str]) -> bool:
    """``torch.save`` on rank 0; returns whether this rank saved. Other ranks do not wait.

    The file appears whole or not at all: it is written beside ``path`` and renamed, so a job that
    dies meanwhile leaves the checkpoint before it. Raises what ``torch.save`` raises, on rank 0.
    """
    if not is_primary():
        return False
    path = os.path.abspath(os.fspath(path))
    descriptor, unfinished = tempfile.mkstemp(
        prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path)
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    return True


def _umask() -> int:
    """The file mode bits that this process leaves out; reading them means setting them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
