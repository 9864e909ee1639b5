"""What hora is doing and what it is made of: counters, state, timeline, what was built."""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path
from typing import Any, Literal, overload

from hora import _core
from hora.errors import UsageError
from hora.settings import rank_path

__all__ = [
    "DebugState",
    "ccl_built",
    "cuda_built",
    "ddl_built",
    "debug_state",
    "gloo_built",
    "gloo_enabled",
    "is_homogeneous",
    "metrics",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "rocm_built",
    "set_log_level",
    "start_timeline",
    "stop_timeline",
]


class DebugState(dict[str, Any]):
    """What ``debug_state`` returns: a dict that prints as a table."""

    def __repr__(self) -> str:
        if not self["initialized"]:
            return "hora: not initialised"
        lines = [f"hora: rank {self['rank']} of {self['size']}"]
        for number, ranks in sorted(self["process_sets"].items()):
            lines.append(f"  process set {number}: ranks {_shortened(ranks)}")
        lines.append(f"  pending operations: {len(self['pending'])}")
        for one in self["pending"]:
            where = f" in process set {one['process_set']}" if one["process_set"] else ""
            lines.append(f"    {one['seconds']:8.3f} s  {one['kind']} '{one['name']}'{where}")
        for title in ("metrics", "tuning"):
            numbers = ", ".join(f"{name} {value}" for name, value in self[title].items())
            lines.append(f"  {title}: {numbers}")
        return "\n".join(lines)

    __str__ = __repr__


def debug_state() -> DebugState:
    """What this rank sees now, for a person or a log; any thread, also while others are blocked.

    Keys: ``initialized``; then, if it is, ``rank``, ``size``, ``local_rank``, ``local_size``,
    ``process_sets`` (global ranks by id), ``pending`` (operations not done, the oldest first: dicts
    of ``process_set``, ``kind``, ``name`` and age in ``seconds``), ``metrics`` and ``tuning``.
    """
    if not _core.is_initialized():
        return DebugState(initialized=False)
    place = _core.topology()
    pending = [
        dict(zip(("process_set", "kind", "name", "seconds"), one, strict=True))
        for one in sorted(_core.pending(), key=lambda one: -one[3])
    ]
    return DebugState(
        initialized=True,
        rank=place.rank,
        size=place.size,
        local_rank=place.local_rank,
        local_size=place.local_size,
        process_sets=_core.process_sets(),
        pending=pending,
        metrics=_core.metrics(),
        tuning=_core.tuning(),
    )


@overload
def metrics(format: None = None) -> dict[str, int]: ...
@overload
def metrics(format: Literal["prometheus"]) -> str: ...
def metrics(format: str | None = None) -> dict[str, int] | str:
    """Counters of this rank since ``init``: operations and bytes submitted, batches, failures, ….

    With ``format="prometheus"``, in Prometheus' text format, each counter as
    ``hora_<name>_total{rank="…"}``; that takes the package prometheus-client (``hora[metrics]``).
    """
    numbers = _core.metrics()
    if format is None:
        return numbers
    if format != "prometheus":
        raise UsageError(f"format={format!r} is neither None nor 'prometheus'")
    try:
        prometheus = importlib.import_module("prometheus_client")
        family_of = importlib.import_module("prometheus_client.core").CounterMetricFamily
    except ImportError as error:
        raise UsageError(
            "format='prometheus' needs the package prometheus-client: pip install 'hora[metrics]'"
        ) from error
    rank = str(_core.topology().rank)

    class Counters:
        def collect(self) -> list[Any]:
            families = []
            for name, value in numbers.items():
                family = family_of(f"hora_{name}", f"hora: {name}", labels=["rank"])
                family.add_metric([rank], value)
                families.append(family)
            return families

    registry = prometheus.CollectorRegistry()
    registry.register(Counters())
    text: str = prometheus.generate_latest(registry).decode()
    return text


def start_timeline(file_path: str | os.PathLike[str], mark_cycles: bool = False) -> None:
    """Writes what this rank does to a Chrome trace (Perfetto reads it) until ``stop_timeline``.

    Rank 0 writes to ``file_path``, rank 3 to ``trace.rank3.json`` if that is ``trace.json``, so
    every rank may pass the same path. Any rank may call it at any time. ``mark_cycles`` adds a mark
    for every decision of the ranks. A timeline that is being written is completed first. Raises
    ``ResourceError`` when the file cannot be written.
    """
    rank = _core.topology().rank
    _core.start_timeline(str(rank_path(Path(file_path), rank)), bool(mark_cycles))


def stop_timeline() -> None:
    """Completes the timeline's file. Raises ``UsageError`` when none is being written."""
    _core.stop_timeline()


def set_log_level(level: str) -> None:
    """From now on, this rank logs ``level`` and worse: trace, debug, info, warning, error, off."""
    _core.set_log_level(level)


def is_homogeneous() -> bool:
    """Whether all hosts have the same number of ranks. Raises ``NotInitializedError``."""
    place = _core.topology()
    return place.local_size * place.cross_size == place.size


def mpi_threads_supported() -> bool:
    """False: hora does not run over MPI."""
    return False


def mpi_enabled() -> bool:
    """False: the ranks speak hora's own protocol."""
    return False


def mpi_built() -> bool:
    """Whether the MPI plugin and a library for it are there, for ``HORA_BACKEND=mpi``.

    Whether a launcher of MPI has started this process does not matter. The first call starts a
    short-lived process, so that this one opens no MPI that it does not use.
    """
    return _plugin_is_usable("mpi")


def gloo_enabled() -> bool:
    """False: the ranks speak hora's own protocol."""
    return False


def gloo_built() -> bool:
    """Whether the Gloo plugin and its library are there, for ``HORA_BACKEND=gloo``.

    The first call starts a short-lived process.
    """
    return _plugin_is_usable("gloo")


@functools.cache
def nccl_built() -> int:
    """NCCL's version as a number, 22809 for 2.28.9; 0 where there is none, or hora has no CUDA.

    It is the one that GPU tensors would go by: ``HORA_NCCL_LIBRARY``, else PyTorch's, else the
    system's. Whether there is a GPU does not matter. The first call starts a short-lived process.
    """
    from hora.gpus import look

    return look().nccl_version if cuda_built() else 0


def ddl_built() -> bool:
    """False: this version has no DDL."""
    return False


def ccl_built() -> bool:
    """False: this version has no oneCCL."""
    return False


def cuda_built() -> bool:
    """Whether hora was built with CUDA; whether there is a GPU does not matter."""
    from hora.gpus import has_cuda_plugin

    return has_cuda_plugin()


def rocm_built() -> bool:
    """False: this version has no ROCm."""
    return False


@functools.cache
def _plugin_is_usable(engine: str) -> bool:
    from hora import plugins  # only who asks pays for the import

    return plugins.is_usable(engine)


def _shortened(ranks: list[int]) -> str:
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return ", ".join(map(str, ranks))
