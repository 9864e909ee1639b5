"""GPUs: where each rank computes, and what the engine asks PyTorch about streams and memory."""

from __future__ import annotations

import torch

from hora import _core, runtime
from hora.errors import UsageError

__all__ = ["device", "set_device", "used_on_current_stream"]


def device() -> torch.device:
    """Where this rank computes: the GPU of its local rank if there is one, else the CPU.

    Once a GPU has been chosen, by ``set_device`` or by the first operation on one, it is that.
    Where a host has fewer GPUs than ranks, ranks share them in turn.
    """
    return _own_device()


def set_device(device: int | str | torch.device | None = None) -> torch.device:
    """Chooses the GPU that this rank works on, for hora and as PyTorch's current one; returns it.

    Call it after ``init()`` and before anything is allocated on a GPU. ``device`` is a number,
    ``"cuda:1"`` or a ``torch.device``; by default ``hvd.device()``, which is the CPU where there is
    no GPU, and then nothing is done. Choosing the same one again does nothing either.

    Raises ``UsageError`` for what is no GPU of this process, or another one than was chosen before
    (a rank has one GPU; operations on tensors choose theirs as well), and ``ResourceError`` where
    hora cannot use GPUs: it says what is missing.
    """
    chosen = _own_device() if device is None else _device_of(device)
    if chosen.type == "cpu":
        return chosen
    _check_pytorch(chosen)
    _core.choose_device(chosen.index)
    torch.cuda.set_device(chosen)
    return chosen


def used_on_current_stream(tensor: torch.Tensor) -> None:
    """Keeps a GPU tensor's memory from others until the current stream is past what uses it now."""
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    chosen = _core.chosen_device() if runtime.is_initialized() else None
    if chosen is None:
        chosen = runtime.local_rank() % torch.cuda.device_count()
    return torch.device("cuda", chosen)


def _device_of(wanted: int | str | torch.device) -> torch.device:
    try:
        if isinstance(wanted, bool):
            raise TypeError
        found = torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
    except (TypeError, RuntimeError):
        raise UsageError(
            f"set_device({wanted!r}): a device is a number, a name as 'cuda:1', or a torch.device"
        ) from None
    if found.type not in ("cuda", "cpu"):
        raise UsageError(f"set_device({wanted!r}): hora works on the CPU and on CUDA devices only")
    if found.type == "cuda" and found.index is None:
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
        return torch.device("cuda", index)
    return found


def _check_pytorch(chosen: torch.device) -> None:
    if torch.version.cuda is None:
        raise UsageError(
            f"set_device: PyTorch {torch.__version__} was built without CUDA, so there is no "
            f"{chosen}: install a build with CUDA (https://pytorch.org/get-started), then hora anew"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise UsageError(
            f"set_device: PyTorch finds no GPU, so there is no {chosen}: nvidia-smi shows what the "
            "driver says, and CUDA_VISIBLE_DEVICES may hide GPUs"
        )
    if chosen.index >= count:
        raise UsageError(
            f"set_device: there is no {chosen}, only cuda:0"
            + (f" to cuda:{count - 1}" if count > 1 else "")
            + "; CUDA_VISIBLE_DEVICES may hide others"
        )


def _current_stream(index: int) -> int:
    """Where DLPack does not tell: before PyTorch 2.11."""
    return int(torch.cuda.current_stream(index).cuda_stream)


def _allocate(index: int, nbytes: int, stream: int) -> torch.Tensor:
    """Memory for a result, in the order of the engine's stream; called on the engine's threads.

    The outer scope comes first: a thread that has no device yet would be given the first one.
    """
    with torch.cuda.device(index):
        where = torch.device("cuda", index)
        order = torch.cuda.ExternalStream(stream, device=where)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(order):
            return torch.empty(nbytes, dtype=torch.uint8, device=where)


def _empty_cache(index: int) -> None:
    """Gives back what PyTorch has freed and keeps; called on the engine's threads."""
    with torch.cuda.device(index):
        torch.cuda.empty_cache()


_core.set_device_calls(_current_stream, _allocate, used_on_current_stream, _empty_cache)
