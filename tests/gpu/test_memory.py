"""Memory in flight: tensors may be dropped at any time, and nobody gets their memory too early."""

from __future__ import annotations

import gc
import time

import torch

ELEMENTS = 1 << 20
LATE_CYCLES = 20_000_000
TURNS = 30


def noise() -> None:
    """Takes whatever PyTorch's allocator thinks is free, and spoils it."""
    for _ in range(4):
        torch.full((ELEMENTS,), float("nan"), device="cuda")


def total(hvd) -> float:
    return float(sum(range(1, hvd.size() + 1)))


def test_operands_that_are_dropped_after_submission(hvd):
    for _ in range(TURNS):
        torch.cuda._sleep(LATE_CYCLES)
        operand = torch.full((ELEMENTS,), hvd.rank() + 1.0, device="cuda")
        handle = hvd.allreduce_async(operand, op=hvd.Sum, name="dropped")
        del operand
        noise()
        result = handle.wait()
        del handle
        noise()
        assert (result == total(hvd)).all()


def test_operands_that_are_dropped_while_another_stream_waits(hvd):
    side = torch.cuda.Stream()
    for _ in range(TURNS):
        operand = torch.full((ELEMENTS,), hvd.rank() + 1.0, device="cuda")
        torch.cuda._sleep(LATE_CYCLES)
        handle = hvd.allreduce_async_(operand, op=hvd.Sum, name="elsewhere")
        del operand
        with torch.cuda.stream(side):
            kept = handle.wait().clone()
        del handle
        noise()
        side.synchronize()
        assert (kept == total(hvd)).all()


def test_handles_that_nobody_waits_for(hvd):
    tensors = [torch.full((ELEMENTS,), hvd.rank() + 1.0, device="cuda") for _ in range(TURNS)]
    for number, tensor in enumerate(tensors):
        hvd.allreduce_async_(tensor, op=hvd.Sum, name=f"forgotten.{number}")
        if number % 2:
            tensors[number] = torch.empty(0)
        noise()
    gc.collect()
    deadline = time.monotonic() + 60
    while hvd.debug_state()["pending"]:
        assert time.monotonic() < deadline, hvd.debug_state()
    torch.cuda.synchronize()
    assert all((tensor == total(hvd)).all() for tensor in tensors[::2])


def test_results_of_a_size_that_is_known_late(hvd):
    me, n = hvd.rank(), hvd.size()
    for turn in range(TURNS):
        torch.cuda._sleep(LATE_CYCLES)
        rows = torch.full((ELEMENTS // 64 + me, 8), me + 1.0 + turn, device="cuda")
        gathered = hvd.allgather(rows, name="late")
        received, counts = hvd.alltoall(rows, splits=[len(rows)] + [0] * (n - 1), name="late.all")
        del rows
        noise()
        ends = torch.tensor([ELEMENTS // 64 + rank for rank in range(n)]).cumsum(0) - 1
        assert gathered[ends.cuda(), 0].tolist() == [rank + 1.0 + turn for rank in range(n)]
        assert torch.equal(received, gathered) if me == 0 else len(received) == 0
        assert sum(counts.tolist()) == len(received)


def test_memory_does_not_grow(hvd):
    def turn() -> None:
        operand = torch.ones(ELEMENTS, device="cuda")
        hvd.allreduce(operand, name="grows")
        hvd.allgather(operand[:1000], name="grows.rows")

    for _ in range(5):
        turn()
    torch.cuda.synchronize()
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(TURNS):
        turn()
    torch.cuda.synchronize()
    hvd.allreduce(torch.ones(1, device="cuda"), name="grows.end")  # lets go of what is done
    gc.collect()
    assert torch.cuda.memory_allocated() - before <= 4 * ELEMENTS
