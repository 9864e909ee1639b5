"""Python values over the ranks: whole objects, and averages of numbers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import torch

from hora import runtime
from hora.errors import UsageError
from hora.process_sets import ProcessSet, global_process_set, id_of, place_in
from hora.torch.broadcasts import broadcast_, broadcast_async_
from hora.torch.handle import wait_all
from hora.torch.kinds import ALLGATHER, Terms
from hora.torch.operations import allreduce
from hora.torch.plain_data import decode, encode, fill
from hora.torch.submission import start_gathering
from hora.torch.tensors import dense

__all__ = [
    "allgather_object",
    "broadcast_bytes",
    "broadcast_object",
    "broadcast_plain",
    "mean_over_ranks",
    "metric_average",
]

_OK, _FAILED = b"+", b"-"


def broadcast_object(
    obj: Any = None,
    root_rank: int = 0,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    allow_pickle: bool = True,
) -> Any:
    """Returns the object of ``root_rank``, a global rank; other ranks' ``obj`` is ignored.

    The object travels pickled (by cloudpickle, where it is installed, so functions and classes of
    the script work too). Unpickling runs code that the root chose: the bytes come from a rank
    that proved the key of this job, but where the object itself holds data of strangers, pass
    ``allow_pickle=False`` on every rank, which takes None, numbers, strings, lists, tuples, dicts
    and tensors only. Tensors on a GPU then come to this rank's current one; pickled ones come to
    the GPU of the same number. The root gets its own object back. An object that cannot be packed
    raises ``UsageError`` on every rank.
    """
    if not allow_pickle:
        return broadcast_plain(lambda: obj, root_rank, "the object", name, process_set)
    payload = broadcast_bytes(lambda: _pickled(obj), root_rank, name, process_set)
    return obj if runtime.rank() == root_rank else pickle.loads(payload)


def allgather_object(
    obj: Any,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    *,
    allow_pickle: bool = True,
) -> list[Any]:
    """Returns the objects of all ranks of the set, in rank order, on every rank.

    How they travel, and what ``allow_pickle=False`` takes, is as for ``broadcast_object``. This
    rank's own object is the one that it passed. An object that cannot be packed raises
    ``UsageError`` on every rank, naming those ranks.
    """
    try:
        payload = _OK + (_pickled(obj) if allow_pickle else _plain(obj))
    except Exception as error:  # whatever it is, the others must not wait in vain
        payload = _FAILED + f"{type(error).__name__}: {error}".encode()
    parts = _gathered_bytes(payload, name, process_set)
    failed = [
        f"rank {rank} ({part[1:].decode(errors='replace')})"
        for rank, part in zip(process_set.ranks, parts, strict=True)
        if part[:1] == _FAILED
    ]
    if failed:
        raise UsageError(f"objects that cannot be packed: {', '.join(failed)}")
    place, _ = place_in(process_set)
    read: Callable[[bytes], Any] = pickle.loads if allow_pickle else _read_plain
    return [obj if index == place else read(part[1:]) for index, part in enumerate(parts)]


def broadcast_bytes(
    make: Callable[[], bytes],
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> bytes:
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
    length = torch.tensor(len(payload), dtype=torch.int64, device="cpu")
    broadcast_(length, root_rank, None if name is None else f"{name}.length", process_set)
    buffer = torch.empty(int(length), dtype=torch.uint8, device="cpu")
    if payload:
        buffer.copy_(_as_tensor(payload))
    broadcast_(buffer, root_rank, name, process_set)
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


def broadcast_plain(
    make: Callable[[], Any],
    root_rank: int,
    what: str,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
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

    text = broadcast_bytes(packed, root_rank, name, process_set)
    is_root = runtime.rank() == root_rank
    data, specs = decode(text)
    tensors = (
        [dense(tensor).cpu() for tensor in sources] if is_root else [s.allocate() for s in specs]
    )
    wait_all(
        [
            broadcast_async_(
                tensor, root_rank, None if name is None else f"{name}.{index}", process_set
            )
            for index, tensor in enumerate(tensors)
        ]
    )
    return original if is_root else fill(data, tensors)


def metric_average(
    value: float | torch.Tensor,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> float:
    """Returns the mean over the ranks of one number (a float, or a tensor of one element)."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
    number = torch.tensor(float(value), dtype=torch.float64, device="cpu")
    return float(allreduce(number, name=name, process_set=process_set))


def mean_over_ranks(loss: Any, process_set: ProcessSet = global_process_set) -> Any:
    """The mean of a loss over the ranks, in the form it came: tensor (detached), number or None."""
    if loss is None:
        return None
    if isinstance(loss, torch.Tensor):
        return allreduce(loss.detach(), process_set=process_set)
    return metric_average(loss, process_set=process_set)


def _pickled(obj: Any) -> bytes:
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return pickle.dumps(obj, protocol=pickle.HIGHEST_PROTOCOL)
    packed: bytes = cloudpickle.dumps(obj)
    return packed


def _plain(obj: Any) -> bytes:
    """The length of the text in 8 bytes, the text, and the bytes of the tensors in it."""
    text, tensors = encode(obj, "the object")
    memory = [_bytes_of(dense(tensor).cpu()) for tensor in tensors]
    return b"".join([len(text).to_bytes(8, "little"), text, *memory])


def _read_plain(packed: bytes) -> Any:
    length = int.from_bytes(packed[:8], "little")
    data, specs = decode(packed[8 : 8 + length])
    start = 8 + length
    tensors = []
    for spec in specs:
        tensor = spec.allocate()
        end = start + tensor.nbytes
        if tensor.nbytes:
            tensor.view(-1).view(torch.uint8).copy_(_as_tensor(packed[start:end]))
        tensors.append(tensor)
        start = end
    return fill(data, tensors)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    if tensor.numel() == 0:
        return b""
    content: bytes = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return content


def _as_tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _gathered_bytes(payload: bytes, name: str | None, process_set: ProcessSet) -> list[bytes]:
    terms = Terms(process_set=id_of(process_set))
    (everything,) = start_gathering(
        ALLGATHER, name, [_as_tensor(payload)], terms, blocking=True
    ).wait()
    content = everything.tensor.numpy()
    parts, start = [], 0
    for length in everything.rows:
        parts.append(content[start : start + length].tobytes())
        start += length
    return parts
