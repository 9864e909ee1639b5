"""Order by streams alone: nobody waits for the GPU, and still everything comes in its turn.

Streams are made late by a kernel that only takes time, so that whatever does not wait for them
reads what was there before.
"""

from __future__ import annotations

import pytest
import torch

ELEMENTS = 1 << 20
LATE_CYCLES = 200_000_000  # 0.1 to 0.2 s
VERY_LATE_CYCLES = 10 * LATE_CYCLES


def late(cycles: int = LATE_CYCLES) -> None:
    """What the current stream gets from now on has to wait."""
    torch.cuda._sleep(cycles)


def gpu_zeros() -> torch.Tensor:
    tensor = torch.zeros(ELEMENTS, device="cuda")
    torch.cuda.synchronize()
    return tensor


def total(hvd) -> float:
    return float(sum(range(1, hvd.size() + 1)))


def test_operands_that_a_side_stream_writes(hvd):
    tensor, side = gpu_zeros(), torch.cuda.Stream()
    with torch.cuda.stream(side):
        late()
        tensor.fill_(hvd.rank() + 1)
        result = hvd.allreduce(tensor, op=hvd.Sum)
        in_place = hvd.allreduce_async_(tensor, op=hvd.Sum).wait()
        sums = torch.stack([result.min(), result.max(), in_place.min(), in_place.max()])
    torch.cuda.current_stream().wait_stream(side)
    assert sums.tolist() == [total(hvd)] * 4


def test_results_that_another_stream_reads(hvd):
    tensor, side = gpu_zeros(), torch.cuda.Stream()
    late()
    tensor.fill_(hvd.rank() + 1)
    handle = hvd.allreduce_async(tensor, op=hvd.Sum)
    with torch.cuda.stream(side):
        copy = handle.wait().clone()  # side waits, by wait()
    side.synchronize()
    assert (copy == total(hvd)).all()


def test_streams_of_several_operations(hvd):
    streams = [torch.cuda.Stream() for _ in range(4)]
    tensors = [gpu_zeros() for _ in streams]
    handles = []
    for number, (stream, tensor) in enumerate(zip(streams, tensors, strict=True)):
        with torch.cuda.stream(stream):
            late()
            tensor.fill_((hvd.rank() + 1) * (number + 1))
            handles.append(hvd.allreduce_async_(tensor, op=hvd.Sum, name=f"several.{number}"))
    for handle in reversed(handles):
        handle.wait()
    for number, tensor in enumerate(tensors):
        assert (tensor == total(hvd) * (number + 1)).all()


def test_every_kind_comes_after_what_was_there(hvd):
    me, n = hvd.rank(), hvd.size()
    rows = torch.zeros(2 * n, 1000, device="cuda")
    torch.cuda.synchronize()
    late()
    rows.fill_(me + 1)
    gathered = hvd.allgather(rows[: me + 1])
    assert gathered[:, 0].tolist() == [float(r + 1) for r in range(n) for _ in range(r + 1)]
    late()
    rows.fill_(10 * (me + 1))
    received = hvd.alltoall(rows)
    assert received[:, 0].tolist() == [10.0 * (r + 1) for r in range(n) for _ in range(2)]
    late()
    rows.fill_(me + 2)
    assert (hvd.reducescatter(rows, op=hvd.Sum) == total(hvd) + n).all()
    late()
    rows.fill_(me)
    assert (hvd.broadcast(rows, n - 1) == n - 1).all()
    late()
    rows.fill_(me + 1)
    a, b = hvd.grouped_allreduce([rows, rows[0]], op=hvd.Max)
    assert (a == n).all() and (b == n).all()


@pytest.mark.ranks(1, 1)
def test_waiting_does_not_block_the_host(hvd):
    tensor = gpu_zeros()
    hvd.allreduce_(tensor, name="blocks")  # what happens at the first operation only
    torch.cuda.synchronize()
    late(VERY_LATE_CYCLES)
    behind = torch.cuda.Event()
    behind.record()
    handle = hvd.allreduce_async_(tensor, name="blocks")
    handle.wait()
    assert not behind.query()  # wait() returned while what came before it still ran
    assert not handle.poll()
    torch.cuda.synchronize()
    assert handle.poll()
    assert hvd.poll(handle)


@pytest.mark.ranks(1, 1)
def test_a_step_does_not_block_the_host(hvd):
    model = torch.nn.Linear(64, 64, device="cuda")
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    inputs = torch.ones(8, 64, device="cuda")
    for turn in range(2):
        optimizer.zero_grad()
        torch.cuda.synchronize()
        late(VERY_LATE_CYCLES * turn)
        behind = torch.cuda.Event()
        behind.record()
        model(inputs).sum().backward()
        optimizer.step()
        assert turn == 0 or not behind.query()


def test_the_current_device_stays(hvd):
    before = torch.cuda.current_device()
    hvd.allreduce(gpu_zeros())
    assert torch.cuda.current_device() == before == hvd.device().index
