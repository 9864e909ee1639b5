"""Horovod's API for PyTorch: ``import hora.torch as hvd``.

Every rank runs the same script. ``init()`` joins the group; operations combine tensors of all
ranks; ``DistributedOptimizer`` averages gradients while the backward pass still runs:

    import hora.torch as hvd

    hvd.init()
    loader = hvd.DistributedDataLoader(dataset, batch_size=64 // hvd.size())
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model, root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)

Start it with ``horarun -np 4 python train.py``.
"""

from __future__ import annotations

import difflib
from typing import NoReturn

from hora.data import DistributedDataLoader, DistributedSampler
from hora.errors import (
    HoraError,
    InternalError,
    MismatchError,
    NotInitializedError,
    PeerFailedError,
    ResourceError,
    ShutDownError,
    StallError,
    UsageError,
    WaitTimeoutError,
)
from hora.runtime import (
    cross_rank,
    cross_size,
    init,
    is_initialized,
    local_rank,
    local_size,
    rank,
    shutdown,
    size,
)
from hora.torch.handle import Handle, poll, synchronize
from hora.torch.objects import broadcast_object, metric_average
from hora.torch.operations import (
    Average,
    Max,
    Min,
    Product,
    Sum,
    allgather,
    allgather_async,
    allreduce,
    allreduce_,
    allreduce_async,
    allreduce_async_,
    barrier,
    broadcast,
    broadcast_,
    broadcast_async,
    broadcast_async_,
)
from hora.torch.optimizer import DistributedOptimizer
from hora.torch.state import broadcast_optimizer_state, broadcast_parameters

# Horovod's name for the base of all errors.
HorovodInternalError = HoraError

__all__ = [
    "Average",
    "DistributedDataLoader",
    "DistributedOptimizer",
    "DistributedSampler",
    "Handle",
    "HoraError",
    "HorovodInternalError",
    "InternalError",
    "Max",
    "Min",
    "MismatchError",
    "NotInitializedError",
    "PeerFailedError",
    "Product",
    "ResourceError",
    "ShutDownError",
    "StallError",
    "Sum",
    "UsageError",
    "WaitTimeoutError",
    "allgather",
    "allgather_async",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_async",
    "broadcast_async_",
    "broadcast_object",
    "broadcast_optimizer_state",
    "broadcast_parameters",
    "cross_rank",
    "cross_size",
    "init",
    "is_initialized",
    "local_rank",
    "local_size",
    "metric_average",
    "poll",
    "rank",
    "shutdown",
    "size",
    "synchronize",
]

_NOT_YET = frozenset(
    {
        "Adasum",
        "Compression",
        "ProcessSet",
        "SyncBatchNorm",
        "add_process_set",
        "allgather_object",
        "alltoall",
        "alltoall_async",
        "ccl_built",
        "cuda_built",
        "ddl_built",
        "elastic",
        "global_process_set",
        "gloo_built",
        "gloo_enabled",
        "grouped_allgather",
        "grouped_allgather_async",
        "grouped_allreduce",
        "grouped_allreduce_",
        "grouped_allreduce_async",
        "grouped_allreduce_async_",
        "grouped_reducescatter",
        "grouped_reducescatter_async",
        "is_homogeneous",
        "join",
        "mpi_built",
        "mpi_enabled",
        "mpi_threads_supported",
        "nccl_built",
        "reducescatter",
        "reducescatter_async",
        "remove_process_set",
        "rocm_built",
        "sparse_allreduce_async",
        "start_timeline",
        "stop_timeline",
    }
)


def __getattr__(name: str) -> NoReturn:
    if name in _NOT_YET:
        raise AttributeError(f"hora.torch does not have Horovod's '{name}' yet")
    by_folded_name = {known.lower(): known for known in __all__}
    close = difflib.get_close_matches(name.lower(), by_folded_name, n=1, cutoff=0.7)
    hint = f"; did you mean '{by_folded_name[close[0]]}'?" if close else ""
    raise AttributeError(f"module 'hora.torch' has no attribute '{name}'{hint}")
