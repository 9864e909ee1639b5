"""What differs in ``horovod.torch`` from ``hora.torch``."""

from __future__ import annotations

import os
from typing import Any

from hora.horovod.names import env
from hora.horovod.variables import translate

__all__ = ["init"]


def init(*args: Any, **kwargs: Any) -> None:
    """``hora.torch.init``, after reading the HOROVOD_* variables that have a counterpart.

    A HORA_* variable that is set wins. Raises UsageError for a value that means nothing.
    """
    import hora.torch

    # For this call only: a script may set other HOROVOD_* variables before its next init.
    with env(**translate(os.environ).settings):
        hora.torch.init(*args, **kwargs)
