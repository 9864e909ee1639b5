"""GPU tensors between Python and the engine, on simulated devices: order, memory, results."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import simulated_gpu
import torch
from hora import _core
from hora.errors import InternalError, ResourceError, UsageError
from hora.torch import tensors
from simulated_gpu import GpuTensor

pytestmark = pytest.mark.any_backend


@pytest.fixture(params=["attributes", "dlpack"])
def tensor(gpu, request):
    """Makes tensors of either kind."""
    plain = simulated_gpu.plain_class(gpu)
    return GpuTensor if request.param == "attributes" else plain


def start(kind, name, tensor, output=None, **options):
    return _core.submit(kind, name, tensor, tensor if output is None else output, **options)


def ranks_sum(hvd):
    return sum(range(1, hvd.size() + 1))


def submit_until(gone, hvd):
    """Operations, each of which looks whether the device is past what was dropped."""
    return any(hvd.allreduce(torch.tensor(gone()), op=hvd.Min) for _ in range(1000))


def test_what_is_missing_is_said(hvd, tmp_path, monkeypatch):
    monkeypatch.setenv("HORA_PLUGIN_DIRECTORY", str(tmp_path))
    hvd.shutdown()
    hvd.init()
    try:
        with pytest.raises(ResourceError, match=r"no .*hora_cuda\.so: hora was built without nvcc"):
            _core.choose_device(0)
        with pytest.raises(ResourceError, match=r"allreduce 'none': .*install CUDA"):
            start(_core.ALLREDUCE, "none", GpuTensor(torch.ones(2)))
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()
    finally:
        monkeypatch.undo()
        hvd.shutdown()
        hvd.init()


def test_a_rank_has_one_gpu(hvd, gpu):
    _core.choose_device(0)
    _core.choose_device(0)
    assert _core.chosen_device() == 0
    with pytest.raises(UsageError, match=r"works on cuda:0, and cannot on cuda:1"):
        _core.choose_device(1)
    with pytest.raises(UsageError, match=r"there is no cuda:7"):
        _core.choose_device(7)
    with pytest.raises(UsageError, match=r"allreduce 'elsewhere': .*works on cuda:0"):
        start(_core.ALLREDUCE, "elsewhere", GpuTensor(torch.ones(2), device=1))


def test_the_operation_comes_after_what_the_stream_had(hvd, gpu, tensor):
    stream = gpu.current()
    gpu.hold(stream)
    operand = tensor(torch.zeros(100))
    handle = start(_core.ALLREDUCE, "order", operand)
    assert not handle.done()
    assert not (gpu.is_staged and handle.completed())
    operand.values.fill_(hvd.rank() + 1)  # as a kernel on the stream would, before the event
    gpu.release(stream)
    handle.wait()
    gpu.synchronize()
    assert handle.done()
    assert torch.equal(operand.values, torch.full((100,), float(ranks_sum(hvd))))


def test_waiting_orders_the_current_stream_and_not_the_host(hvd, gpu, tensor):
    operand = tensor(torch.full((1000,), 1.0))
    handle = start(_core.ALLREDUCE, "elsewhere", operand)
    before = gpu.use(gpu.new_stream())
    gpu.hold(gpu.current())
    handle.wait()  # returns, though the stream does not get there
    assert operand in gpu.recorded
    gpu.release(gpu.current())
    gpu.synchronize()
    assert torch.equal(operand.values, torch.full((1000,), float(hvd.size())))
    gpu.use(before)
    handle.wait()  # again, on the first stream
    gpu.synchronize()


def test_one_event_for_a_group(hvd, gpu):
    group = [GpuTensor(torch.full((4,), float(i))) for i in range(5)]
    before = gpu.asked
    handle = start(_core.ALLREDUCE, "group", group)
    assert gpu.asked == before + 1
    handle.wait()
    gpu.synchronize()
    for i, operand in enumerate(group):
        assert torch.equal(operand.values, torch.full((4,), float(i * hvd.size())))


def test_operands_are_let_go_when_the_stream_is_behind_them(hvd, gpu, tensor):
    operand = tensor(torch.ones(10))
    dropped = weakref.ref(operand)
    handle = start(_core.ALLREDUCE, "kept", operand)
    del operand
    gc.collect()
    assert dropped() is not None
    handle.wait()
    gc.collect()
    assert dropped() is None


def test_operands_stay_while_another_stream_waits(hvd, gpu, tensor):
    operand = tensor(torch.ones(10))
    dropped = weakref.ref(operand)
    handle = start(_core.ALLREDUCE, "kept", operand)
    before = gpu.use(gpu.new_stream())
    handle.wait()
    gpu.recorded.clear()
    del operand, handle
    gpu.use(before)
    assert submit_until(lambda: dropped() is None, hvd)


def test_operands_outlive_a_handle_that_is_dropped(hvd, gpu, tensor):
    stream = gpu.current()
    gpu.hold(stream)
    values = torch.ones(10)
    operand = tensor(values)
    dropped = weakref.ref(operand)
    handle = start(_core.ALLREDUCE, "dropped", operand)
    del operand, handle
    gc.collect()
    assert dropped() is not None
    gpu.release(stream)
    assert submit_until(lambda: dropped() is None, hvd)
    gpu.synchronize()
    assert torch.equal(values, torch.full((10,), float(hvd.size())))


def test_gathered_rows_are_the_allocators_memory(hvd, gpu, tensor):
    rank, size = hvd.rank(), hvd.size()
    operand = tensor(torch.full((rank + 1, 3), float(rank)))
    handle = _core.submit(_core.ALLGATHER, "rows", operand, None)
    handle.wait()
    (gathered,) = handle.gathered()
    gpu.synchronize()
    assert gathered.first_dims == list(range(1, size + 1))
    ((device, nbytes, stream),) = gpu.allocated
    assert (device, nbytes) == (0, gathered.nbytes)
    assert stream not in (0, gpu.current())
    expected = torch.cat([torch.full((r + 1, 3), float(r)) for r in range(size)])
    assert torch.equal(gathered.memory.values.view(torch.float32).view(-1, 3), expected)
    assert gathered.__dlpack_device__() == (2, 0)
    memory = weakref.ref(gathered.memory)
    del gathered, handle
    gc.collect()
    assert memory() is None


def test_alltoall(hvd, gpu, tensor):
    rank, size = hvd.rank(), hvd.size()
    splits = [rank + 1] * size
    operand = tensor(torch.full((sum(splits), 2), rank, dtype=torch.int64))
    handle = _core.run(_core.ALLTOALL, "exchange", operand, None, splits=splits)
    (gathered,) = handle.gathered()
    gpu.synchronize()
    expected = torch.cat([torch.full((r + 1, 2), r) for r in range(size)])
    assert torch.equal(gathered.memory.values.view(torch.int64).view(-1, 2), expected)


def test_broadcast_and_reducescatter(hvd, gpu, tensor):
    operand = tensor(torch.full((6,), hvd.rank(), dtype=torch.int32))
    _core.run(_core.BROADCAST, "root", operand, operand, root_rank=hvd.size() - 1)
    gpu.synchronize()
    assert torch.equal(operand.values, torch.full((6,), hvd.size() - 1, dtype=torch.int32))
    rows, more = divmod(6, hvd.size())
    share = tensor(torch.zeros(rows + (hvd.rank() < more)))
    _core.run(_core.REDUCESCATTER, "share", tensor(torch.ones(6)), share)
    gpu.synchronize()
    assert torch.equal(share.values, torch.full_like(share.values, float(hvd.size())))


def test_devices_do_not_mix_within_an_operation(hvd, gpu):
    with pytest.raises(UsageError, match=r"mixed"):
        start(_core.ALLREDUCE, "mixed", [GpuTensor(torch.ones(2)), torch.ones(2)])
    with pytest.raises(UsageError, match=r"mixed"):
        start(_core.ALLREDUCE, "mixed", torch.ones(2), GpuTensor(torch.ones(2)))


def test_the_short_ways_take_gpu_tensors(hvd, gpu):
    operand = simulated_gpu.plain_class(gpu)(torch.ones(5))
    plain = type(operand)
    _core.set_plain_types(plain, torch.Tensor, torch.nn.Parameter)
    assert _core.is_plain(operand)
    assert _core.try_run(_core.ALLREDUCE, "short", operand, operand)
    gpu.synchronize()
    assert torch.equal(operand.values, torch.full((5,), float(hvd.size())))


@pytest.mark.parametrize("early", [True, False])
def test_gradients(hvd, gpu, early):
    plain = simulated_gpu.plain_class(gpu)
    _core.set_plain_types(plain, torch.Tensor, torch.nn.Parameter)
    untold = []
    collector = _core.GradientCollector(
        _core.SUM, 1.0, 1.0, 0, 1, untold.append, untold.append, untold.append
    )
    collector.early = early
    parameters = [SimpleNamespace(grad=None) for _ in range(20)]
    for index, parameter in enumerate(parameters):
        collector.add(parameter, True)
        collector.set_key(index, f"device.gradient.{index}")
    stream = gpu.current()
    gpu.hold(stream)
    for index, parameter in enumerate(parameters):
        parameter.grad = plain(torch.zeros(7))
        collector.hook(index)(parameter)
        parameter.grad.values.fill_(index)  # on the stream, before the event
    gpu.release(stream)
    assert collector.submit() == len(parameters)
    collector.wait()
    assert untold == []
    assert collector.troubles() == []
    collector.forget()
    gpu.synchronize()
    for index, parameter in enumerate(parameters):
        assert torch.equal(parameter.grad.values, torch.full((7,), float(index * hvd.size())))


@pytest.fixture
def on_gpu(gpu, monkeypatch):
    """Makes tensors of PyTorch that are on a GPU for all but PyTorch's own copies."""
    made = simulated_gpu.torch_class(gpu)
    monkeypatch.setattr(tensors, "_PLAIN_TYPES", tensors._PLAIN_TYPES | {made})
    return made


@pytest.mark.parametrize("grouped", [False, True])
def test_the_api_on_tensors_of_a_gpu(hvd, gpu, on_gpu, grouped):
    size = hvd.size()

    def ones():
        return (
            [on_gpu(torch.ones(2, 3)), on_gpu(torch.ones(5))] if grouped else on_gpu(torch.ones(4))
        )

    def check(tensors):
        for each in tensors if grouped else [tensors]:
            assert each.is_cuda
            assert torch.equal(each.values, torch.full(each.shape, float(size)))

    word = "grouped_allreduce" if grouped else "allreduce"
    for suffix, name in (("", "a"), ("_", None), ("_async", None), ("_async_", "b")):
        result = getattr(hvd, word + suffix)(ones(), name=name, op=hvd.Sum)
        result = result.wait() if "async" in suffix else result
        gpu.synchronize()
        check(result)


def test_other_operations_of_the_api(hvd, gpu, on_gpu):
    rank, size = hvd.rank(), hvd.size()
    tensor = on_gpu(torch.full((3,), float(rank)))
    assert hvd.broadcast_(tensor, size - 1) is tensor
    gpu.synchronize()
    assert torch.equal(tensor.values, torch.full((3,), float(size - 1)))
    share = hvd.reducescatter(on_gpu(torch.ones(size * 2)), op=hvd.Sum)
    gpu.synchronize()
    assert torch.equal(share.values, torch.full((2,), float(size)))
    hvd.broadcast_parameters([("w", tensor), ("b", on_gpu(torch.ones(2)))], root_rank=0)
    handle = hvd.allreduce_async_(on_gpu(torch.ones(2)), op=hvd.Sum)
    hvd.synchronize(handle)
    gpu.synchronize()
    assert hvd.poll(handle)


def test_a_device_that_is_lost(hvd, gpu, tensor):
    operand = tensor(torch.ones(3))
    gone = weakref.ref(operand)
    gpu.lose_after(1)
    with pytest.raises(InternalError, match=r"allreduce 'lost': .*cannot use the device any more"):
        start(_core.ALLREDUCE, "lost", operand)
    gpu.lose_after(0)
    del operand
    assert gone() is None
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()


def test_shutdown_with_a_result_under_way(hvd, gpu):
    stream = gpu.current()
    gpu.hold(stream)
    operand = GpuTensor(torch.ones(4, 4))
    handle = _core.submit(_core.ALLGATHER, "last", operand, None)
    gpu.release(stream)
    hvd.shutdown()
    assert handle.completed()
    hvd.init()
    _core.set_device_calls(gpu.current, gpu.allocate, gpu.record)


@pytest.mark.ranks(2)
def test_what_pytorch_keeps_is_asked_for_where_memory_is_short(hvd, gpu):
    """A rank that has joined works on memory of the engine's own."""
    asked = []

    def empty_cache(device):
        asked.append(device)
        gpu.limit_memory((1 << 64) - 1)

    _core.set_device_calls(gpu.current, gpu.allocate, gpu.record, empty_cache)
    try:
        if hvd.rank() != 0:
            gpu.limit_memory(64)
        else:
            operand = GpuTensor(torch.ones(100_000))
            start(_core.ALLREDUCE, "short", operand).wait()
            gpu.synchronize()
            assert torch.equal(operand.values, torch.ones(100_000))
        hvd.join()
        assert asked == ([] if hvd.rank() == 0 else [_core.chosen_device()])
    finally:
        gpu.limit_memory((1 << 64) - 1)
        _core.set_device_calls(gpu.current, gpu.allocate, gpu.record)
