"""The names of Horovod's elastic training, which this version does not have: using one says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from hora.errors import HoraError

__all__ = ["ElasticSampler", "ObjectState", "State", "TorchState", "run"]


def _refuse(name: str) -> NoReturn:
    raise HoraError(
        f"hvd.elastic.{name}: elastic training is not part of this version of hora; start the job "
        "with a fixed number of ranks, and save checkpoints to resume from"
    )


def run(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a training function; calling that raises ``HoraError``."""

    @functools.wraps(func)
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        _refuse("run")

    return refuse


class State:
    """Making one raises ``HoraError``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse(type(self).__name__)


class ObjectState(State):
    """Making one raises ``HoraError``."""


class TorchState(ObjectState):
    """Making one raises ``HoraError``."""


class ElasticSampler:
    """Making one raises ``HoraError``; ``hvd.DistributedSampler`` is there for a fixed size."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse("ElasticSampler")
