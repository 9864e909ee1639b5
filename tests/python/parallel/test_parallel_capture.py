"""CUDA graphs, on simulated devices: what cannot be part of one is refused, and breaks none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import simulated_gpu
import torch
from hora import _core
from hora.errors import UsageError

pytestmark = pytest.mark.any_backend

REFUSAL = r"'{}': the current stream is being captured into a CUDA graph, and .* Leave it outside"


def ones(gpu, count=4):
    return simulated_gpu.plain_class(gpu)(torch.ones(count))


def agrees(hvd):
    """The set is as it was, and no rank waits for what another one was refused."""
    return hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()


@pytest.mark.parametrize("kind", ["ALLREDUCE", "ALLGATHER", "BROADCAST", "ALLTOALL"])
def test_an_operation_is_refused_before_others_hear_of_it(hvd, gpu, kind):
    operand = ones(gpu, hvd.size())
    output = operand if kind in ("ALLREDUCE", "BROADCAST") else None
    options = {"root_rank": 0} if kind == "BROADCAST" else {}
    if hvd.rank() == 0:
        with gpu.capture(), pytest.raises(UsageError, match=REFUSAL.format("inside")):
            _core.submit(getattr(_core, kind), "inside", operand, output, **options)
    assert agrees(hvd)
    handle = _core.submit(getattr(_core, kind), "inside", operand, output, **options)
    handle.wait()  # the name is free, and the stream works
    gpu.synchronize()


def test_a_group_is_refused_by_its_name(hvd, gpu):
    with gpu.capture(), pytest.raises(UsageError, match=REFUSAL.format("group")):
        _core.submit(_core.ALLREDUCE, "group", [ones(gpu), ones(gpu)], [ones(gpu), ones(gpu)])
    assert agrees(hvd)


def test_streams_that_are_not_captured_go_on(hvd, gpu):
    with gpu.capture():
        before = gpu.use(gpu.new_stream())
        operand = ones(gpu)
        _core.submit(_core.ALLREDUCE, "beside", operand, operand).wait()
        gpu.synchronize()
        assert operand.values[0] == hvd.size()
        gpu.use(before)


def test_waiting_is_refused_and_can_be_done_later(hvd, gpu):
    operand = ones(gpu)
    handle = _core.submit(_core.ALLREDUCE, "earlier", operand, operand)
    with gpu.capture():
        with pytest.raises(UsageError, match=r"cannot wait for .* outside of it. Wait before"):
            handle.wait()
        handle.done()  # asks for the event
    handle.wait()
    gpu.synchronize()
    assert operand.values[0] == hvd.size()
    assert agrees(hvd)


@pytest.mark.parametrize("early", [True, False])
def test_gradients_are_left_to_python_which_says_why(hvd, gpu, early):
    plain = simulated_gpu.plain_class(gpu)
    parameter = SimpleNamespace(grad=plain(torch.ones(3)))
    told = []
    collector = _core.GradientCollector(
        _core.SUM, 1.0, 1.0, 0, 1, told.append, told.append, told.append
    )
    collector.early = early
    collector.add(parameter, True)
    collector.set_key(0, "capture.gradient")
    with gpu.capture():
        collector.hook(0)(parameter)
        assert early or collector.submit() == 0
    assert told == ([0] if early else [])
    assert agrees(hvd)
