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
from typing import TYPE_CHECKING, NoReturn

from hora import introspection
from hora.data import (
    AsyncDataLoaderMixin,
    BaseDataLoader,
    DistributedDataLoader,
    DistributedSampler,
)
from hora.errors import (
    HoraError,
    HorovodVersionMismatchError,
    HostsUpdatedInterrupt,
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
from hora.introspection import (
    ccl_built,
    cuda_built,
    ddl_built,
    debug_state,
    gloo_built,
    gloo_enabled,
    is_homogeneous,
    mpi_built,
    mpi_enabled,
    mpi_threads_supported,
    nccl_built,
    rocm_built,
    set_log_level,
    start_timeline,
    stop_timeline,
)
from hora.process_sets import ProcessSet, add_process_set, global_process_set, remove_process_set
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
from hora.torch import elastic
from hora.torch.barriers import barrier, join
from hora.torch.broadcasts import broadcast, broadcast_, broadcast_async, broadcast_async_
from hora.torch.compression import Compression, Compressor
from hora.torch.devices import device, set_device
from hora.torch.exchanges import (
    allgather,
    allgather_async,
    alltoall,
    alltoall_async,
    reducescatter,
    reducescatter_async,
)
from hora.torch.grouped import (
    grouped_allgather,
    grouped_allgather_async,
    grouped_allreduce,
    grouped_allreduce_,
    grouped_allreduce_async,
    grouped_allreduce_async_,
    grouped_reducescatter,
    grouped_reducescatter_async,
)
from hora.torch.handle import Handle, poll, synchronize
from hora.torch.learning_rate import scale_lr, warmup
from hora.torch.metrics import DistributedLossReducer, Metric, MetricAverager
from hora.torch.objects import allgather_object, broadcast_object, metric_average
from hora.torch.operations import (
    Adasum,
    Average,
    Max,
    Min,
    Product,
    Sum,
    allreduce,
    allreduce_,
    allreduce_async,
    allreduce_async_,
)
from hora.torch.optimizer import DistributedOptimizer
from hora.torch.primary import is_primary, print_rank0, save_on_primary
from hora.torch.sparse import sparse_allreduce_async
from hora.torch.state import broadcast_optimizer_state, broadcast_parameters
from hora.torch.symmetric_memory import symmetric_empty
from hora.torch.sync_batch_norm import SyncBatchNorm, convert_sync_batchnorm

# The function, not the module hora.torch.metrics, which the imports above have bound to this name.
metrics = introspection.metrics

# Horovod's name for the base of all errors.
HorovodInternalError = HoraError

__all__ = [
    "Adasum",
    "AsyncDataLoaderMixin",
    "Average",
    "BaseDataLoader",
    "Compression",
    "Compressor",
    "DistributedDataLoader",
    "DistributedLossReducer",
    "DistributedOptimizer",
    "DistributedSampler",
    "Handle",
    "HoraError",
    "HorovodInternalError",
    "HorovodVersionMismatchError",
    "HostsUpdatedInterrupt",
    "InternalError",
    "Max",
    "Metric",
    "MetricAverager",
    "Min",
    "MismatchError",
    "NotInitializedError",
    "PeerFailedError",
    "ProcessSet",
    "Product",
    "ResourceError",
    "ShutDownError",
    "StallError",
    "Sum",
    "SyncBatchNorm",
    "UsageError",
    "WaitTimeoutError",
    "add_process_set",
    "allgather",
    "allgather_async",
    "allgather_object",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "alltoall",
    "alltoall_async",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_async",
    "broadcast_async_",
    "broadcast_object",
    "broadcast_optimizer_state",
    "broadcast_parameters",
    "ccl_built",
    "convert_sync_batchnorm",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "debug_state",
    "device",
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
    "init",
    "is_homogeneous",
    "is_initialized",
    "is_primary",
    "join",
    "local_rank",
    "local_size",
    "metric_average",
    "metrics",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "poll",
    "print_rank0",
    "rank",
    "reducescatter",
    "reducescatter_async",
    "remove_process_set",
    "rocm_built",
    "save_on_primary",
    "scale_lr",
    "set_device",
    "set_log_level",
    "shutdown",
    "size",
    "sparse_allreduce_async",
    "start_timeline",
    "stop_timeline",
    "symmetric_empty",
    "synchronize",
    "warmup",
]


if not TYPE_CHECKING:  # a type checker is to report the name, not to believe in it

    def __getattr__(name: str) -> NoReturn:
        by_folded_name = {known.lower(): known for known in __all__}
        close = difflib.get_close_matches(name.lower(), by_folded_name, n=1, cutoff=0.7)
        hint = f"; did you mean '{by_folded_name[close[0]]}'?" if close else ""
        raise AttributeError(f"module 'hora.torch' has no attribute '{name}'{hint}")
