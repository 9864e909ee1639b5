"""Python values over the ranks: whole objects, and averages of numbers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import torch

from hora import runtime
from hora.errors import UsageError
from hora.torch.handle import wait_all
from hora.torch.operations import allreduce, broadcast_, broadcast_async_
from hora.torch.plain_data import decode, encode, fill
from hora.torch.tensors import dense

__all__ = [
    "broadcast_bytes",
    "broadcast_object",
    "broadcast_plain",
    "mean_over_ranks",
    "metric_average",
]

_OK, _FAILED = b"+", b"-"


def broadcast_object(
    obj: Any = None, root_rank: int = 0, name: str | None = None, *, allow_pickle: bool = True
) -> Any:
    """Returns ``root_rank``'s object on every rank; other ranks' ``obj`` is ignored.

    The object travels pickled (by cloudpickle, where it is installed, so functions and classes of
    the script work too). Unpickling runs code that the root chose: the bytes come from a rank
    that proved the key of this job, but where the object itself holds data of strangers, pass
    ``allow_pickle=False`` on every rank, which takes None, numbers, strings, lists, tuples, dicts
    and tensors only. The root gets its own object back. An object that cannot be packed raises
    ``UsageError`` on every rank.
    """
    if not allow_pickle:
        return broadcast_plain(lambda: obj, root_rank, "the object", name)
    payload = broadcast_bytes(lambda: _pickled(obj), root_rank, name)
    return obj if runtime.rank() == root_rank else pickle.loads(payload)


def broadcast_bytes(make: Callable[[], bytes], root_rank: int, name: str | None = None) -> bytes:
    """Returns what ``make`` returns on ``root_rank``, on every rank; only the root calls it.

    When ``make`` raises, every rank raises a ``UsageError`` quoting it.
    """
    failure: Exception | None = None
    payload = b""
    if runtime.rank() == root_rank:
        try:
            payload = _OK + make()
        except Exception as error:  # whatever it is, the others must not wait in vain
            failure = error
            payload = _FAILED + f"{type(error).__name__}: {error}".encode()
    length = torch.tensor(len(payload), dtype=torch.int64)
    broadcast_(length, root_rank, None if name is None else f"{name}.length")
    buffer = torch.empty(int(length), dtype=torch.uint8)
    if payload:
        buffer.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
    broadcast_(buffer, root_rank, name)
    if failure is not None:
        if isinstance(failure, UsageError):
            raise failure
        raise UsageError(
            f"this rank has nothing to broadcast: {type(failure).__name__}: {failure}"
        ) from failure
    content = buffer.numpy().tobytes()
    if content[:1] == _FAILED:
        raise UsageError(
            f"rank {root_rank} has nothing to broadcast: {content[1:].decode(errors='replace')}"
        )
    return content[1:]


def metric_average(value: float | torch.Tensor, name: str | None = None) -> float:
    """Returns the mean over all ranks of one number (a float, or a tensor of one element)."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
    return float(allreduce(torch.tensor(float(value), dtype=torch.float64), name=name))


def mean_over_ranks(loss: Any) -> Any:
    """The mean of a loss over all ranks, in the form it came: tensor, number or None."""
    if loss is None:
        return None
    if isinstance(loss, torch.Tensor):
        return allreduce(loss)
    return metric_average(loss)


def _pickled(obj: Any) -> bytes:
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return pickle.dumps(obj, protocol=pickle.HIGHEST_PROTOCOL)
    packed: bytes = cloudpickle.dumps(obj)
    return packed


def broadcast_plain(
    make: Callable[[], Any], root_rank: int, what: str, name: str | None = None
) -> Any:
    """Returns the plain data that ``make`` returns on ``root_rank``, on every rank; no pickle.

    Only the root calls ``make``. What is not plain raises ``UsageError`` on every rank.
    """
    sources: list[torch.Tensor] = []
    original: Any = None

    def packed() -> bytes:
        nonlocal original
        original = make()
        text, found = encode(original, what)
        sources.extend(found)
        return text

    text = broadcast_bytes(packed, root_rank, name)
    is_root = runtime.rank() == root_rank
    data, specs = decode(text)
    tensors = [dense(tensor) for tensor in sources] if is_root else [s.allocate() for s in specs]
    wait_all(
        [
            broadcast_async_(tensor, root_rank, None if name is None else f"{name}.{index}")
            for index, tensor in enumerate(tensors)
        ]
    )
    return original if is_root else fill(data, tensors)
