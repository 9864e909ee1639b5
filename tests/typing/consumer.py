"""What a typed training script may rely on: checked by ``mypy --strict``, never run."""

from __future__ import annotations

import hora
import hora.torch as hvd
import torch
from typing_extensions import assert_type


def lifecycle() -> None:
    hvd.init()
    hvd.init(process_sets=[hvd.ProcessSet([0, 1])])
    hvd.init(process_sets="dynamic")
    assert_type(hvd.is_initialized(), bool)
    assert_type(hvd.rank() + hvd.size() + hvd.local_rank() + hvd.local_size(), int)
    assert_type(hvd.cross_rank() + hvd.cross_size(), int)
    assert_type(hvd.is_homogeneous(), bool)
    assert_type(hvd.mpi_built(), bool)
    assert_type(hvd.gloo_enabled(), bool)
    hvd.start_timeline("trace.json", mark_cycles=True)
    hvd.stop_timeline()
    hvd.set_log_level("debug")
    assert_type(hvd.set_device("cuda:1"), torch.device)
    assert_type(hvd.device(), torch.device)
    hvd.shutdown()


def sets() -> hvd.ProcessSet:
    added = hvd.add_process_set([0, 2])
    assert_type(added, hvd.ProcessSet)
    assert_type(added.included(), bool)
    assert_type(added.size(), int | None)
    assert_type(hvd.remove_process_set(added), bool)
    return hvd.global_process_set


def operations(tensor: torch.Tensor, pair: list[torch.Tensor], group: hvd.ProcessSet) -> None:
    assert_type(hvd.allreduce(tensor, name="a", op=hvd.Sum, process_set=group), torch.Tensor)
    assert_type(hvd.allreduce_(tensor, op=hvd.Adasum), torch.Tensor)
    handle = hvd.allreduce_async(tensor, op=hvd.Max, prescale_factor=0.5)
    assert_type(hvd.poll(handle), bool)
    hvd.synchronize(handle)
    assert_type(hvd.grouped_allreduce(pair, op=hvd.Min), list[torch.Tensor])
    assert_type(hvd.grouped_allgather(pair), list[torch.Tensor])
    assert_type(hvd.grouped_reducescatter(pair, op=hvd.Product), list[torch.Tensor])
    assert_type(hvd.allgather(tensor), torch.Tensor)
    assert_type(hvd.broadcast(tensor, root_rank=0), torch.Tensor)
    assert_type(hvd.broadcast_(tensor, 0), torch.Tensor)
    assert_type(hvd.alltoall(tensor), torch.Tensor)
    assert_type(
        hvd.alltoall(tensor, splits=torch.tensor([1, 2])), tuple[torch.Tensor, torch.Tensor]
    )
    assert_type(hvd.reducescatter(tensor, compression=hvd.Compression.bf16), torch.Tensor)
    assert_type(hvd.join(), int)
    hvd.barrier(process_set=group)
    shared = hvd.symmetric_empty(2, 3, dtype=torch.bfloat16, process_set=group)
    assert_type(shared, torch.Tensor)
    assert_type(hvd.symmetric_empty(pair[0].shape), torch.Tensor)


def training(model: torch.nn.Module, loss: torch.Tensor) -> None:
    model = hvd.convert_sync_batchnorm(model)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=hvd.scale_lr(0.1)),
        named_parameters=model.named_parameters(),
        compression=hvd.Compression.fp16,
        backward_passes_per_step=2,
        op=hvd.Average,
        gradient_predivide_factor=2.0,
        groups=4,
        sparse_as_dense=True,
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    with optimizer.no_sync():
        loss.backward()  # type: ignore[no-untyped-call]
    optimizer.synchronize()
    with optimizer.skip_synchronize():
        optimizer.step()
    mean_loss = hvd.DistributedLossReducer()
    mean_loss(loss)
    hvd.metric_average(0.5, "accuracy")


def objects() -> None:
    hvd.broadcast_object({"epoch": 3}, root_rank=0)
    gathered = hvd.allgather_object({"rank": hvd.rank()})
    print(len(gathered), hvd.metrics(), hvd.debug_state())


def failures() -> None:
    try:
        hvd.barrier()
    except hvd.MismatchError as mismatch:
        print(mismatch)
    except hvd.HorovodInternalError:
        hvd.shutdown()


def launcher() -> None:
    results = hora.run(lifecycle, np=2)
    assert_type(len(results), int)
