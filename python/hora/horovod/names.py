"""Public names of Horovod outside ``horovod.torch`` that scripts and test suites import."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from hora.errors import HoraError
from hora.launch.function import run as run_function

__all__ = [
    "HorovodInternalError",
    "ccl_built",
    "check_extension",
    "check_installed_version",
    "ddl_built",
    "env",
    "extension_available",
    "get_version_mismatch_message",
    "gloo_built",
    "gpu_available",
    "in_thread",
    "mpi_built",
    "nccl_built",
    "num_rank_is_power_2",
    "run",
    "split_list",
]

Item = TypeVar("Item")
HorovodInternalError = HoraError


def get_version_mismatch_message(name: str, version: str, installed_version: str | None) -> str:
    """One sentence on two versions of ``name``."""
    return f"{name} is {version} here, but {installed_version} was expected"


@functools.wraps(run_function)
def run(*args: Any, **kwargs: Any) -> list[Any]:
    """``hora.run`` whose ranks import Horovod's names from hora."""
    return run_function(*args, horovod=True, **kwargs)


def in_thread(
    target: Callable[..., Any],
    args: Sequence[Any] = (),
    name: str | None = None,
    daemon: bool = True,
    silent: bool = False,
) -> threading.Thread:
    """Starts a thread that calls ``target(*args)`` and returns it.

    ``silent`` drops an exception of ``target`` instead of printing it. Raises ValueError when
    ``args`` is not a tuple or list.
    """
    if not isinstance(args, (tuple, list)):
        raise ValueError(f"args must be a tuple, e.g. (arg,), not {type(args).__name__}")

    def quiet(*given: Any) -> None:
        try:
            target(*given)
        except BaseException:
            if not silent:
                raise

    thread = threading.Thread(target=quiet, args=tuple(args), name=name, daemon=daemon)
    thread.start()
    return thread


def check_extension(*_args: Any, **_kwargs: Any) -> None:
    """Does nothing: importing ``hora.torch`` is the check."""


def check_installed_version(*_args: Any, **_kwargs: Any) -> None:
    """Does nothing: hora works with every PyTorch that it can import."""


def extension_available(name: str, verbose: bool = False) -> bool:
    """Whether there is an interface for the framework ``name``: for "torch"."""
    del verbose
    return name == "torch"


def gpu_available(name: str, verbose: bool = False) -> bool:
    """Whether hora works on this framework's GPU tensors: PyTorch's, where hora has CUDA."""
    from hora.gpus import has_cuda_plugin

    del verbose
    return "torch" in name and has_cuda_plugin()


def _not_built(verbose: bool = False) -> bool:
    """False: hora brings its own communication."""
    del verbose
    return False


ddl_built = ccl_built = _not_built


def nccl_built(verbose: bool = False) -> bool:
    """Whether GPU tensors may go by NCCL, as ``hora.torch.nccl_built`` says."""
    from hora.introspection import nccl_built as built

    del verbose
    return built() > 0


def mpi_built(verbose: bool = False) -> bool:
    """Whether ranks may use MPI between hosts, as ``hora.torch.mpi_built`` says."""
    del verbose
    from hora.introspection import mpi_built as built  # needs the core, other names do not

    return built()


def gloo_built(verbose: bool = False) -> bool:
    """Whether ranks may use Gloo between hosts, as ``hora.torch.gloo_built`` says."""
    del verbose
    from hora.introspection import gloo_built as built

    return built()


@contextmanager
def env(**variables: str | None) -> Iterator[None]:
    """Sets environment variables for a while; None leaves one as it is."""
    given = {name: value for name, value in variables.items() if value is not None}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def num_rank_is_power_2(count: int) -> bool:
    """Whether ``count`` is a power of two, 1 included."""
    return count > 0 and count & (count - 1) == 0


def split_list(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """``count`` consecutive parts of ``items``, the first ones longer by one where need be."""
    size, longer = divmod(len(items), count)
    ends = [size * part + min(part, longer) for part in range(count + 1)]
    return [items[begin:end] for begin, end in itertools.pairwise(ends)]
