"""Which GPU a rank works on, and what becomes of tensors there: logic that needs no GPU."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hora.errors import UsageError


@pytest.fixture
def gpus(hvd, monkeypatch):
    """As many GPUs as the test says, as far as hora asks PyTorch."""
    chosen = []

    def of(count, build="13.0"):
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return of


@pytest.mark.parametrize("wanted", [2, "cuda:2", torch.device("cuda", 2)])
def test_set_device_chooses_for_both(hvd, core, gpus, wanted):
    chosen = gpus(4)
    assert hvd.set_device(wanted) == torch.device("cuda", 2)
    assert hvd.set_device(wanted) == torch.device("cuda", 2)
    assert core.device == 2
    assert chosen == [torch.device("cuda", 2)] * 2
    assert hvd.device() == torch.device("cuda", 2)
    assert hvd.set_device() == torch.device("cuda", 2)


def test_the_device_is_the_local_ranks(hvd, core, gpus):
    gpus(4)
    assert hvd.device() == torch.device("cuda", 0)
    assert hvd.set_device() == torch.device("cuda", 0)
    assert core.device == 0


def test_cuda_without_a_number_is_the_current_one(hvd, core, gpus):
    gpus(2)
    assert hvd.set_device("cuda") == torch.device("cuda", 1)


def test_the_cpu_needs_no_choice(hvd, core, gpus):
    gpus(0)
    assert hvd.set_device() == hvd.set_device("cpu") == hvd.device() == torch.device("cpu")
    assert core.device is None


def test_another_one_is_refused(hvd, gpus):
    chosen = gpus(2)
    hvd.set_device(0)
    with pytest.raises(UsageError, match="works on cuda:0"):
        hvd.set_device(1)
    assert chosen == [torch.device("cuda", 0)]


@pytest.mark.parametrize("wanted", [1.5, "gpu", True, -1, ["cuda:0"]])
def test_what_is_no_device(hvd, gpus, wanted):
    gpus(2)
    with pytest.raises(UsageError, match="set_device"):
        hvd.set_device(wanted)


def test_other_kinds_of_devices(hvd, gpus):
    gpus(2)
    with pytest.raises(UsageError, match="CPU and on CUDA devices only"):
        hvd.set_device("meta")


def test_what_is_missing_is_said(hvd, gpus):
    gpus(0, build=None)
    with pytest.raises(UsageError, match=r"built without CUDA.*install a build with CUDA"):
        hvd.set_device(0)
    gpus(0)
    with pytest.raises(UsageError, match=r"finds no GPU.*nvidia-smi"):
        hvd.set_device(0)
    gpus(2)
    with pytest.raises(UsageError, match=r"no cuda:2, only cuda:0 to cuda:1"):
        hvd.set_device(2)


def test_tensors_of_other_devices_are_refused(hvd):
    with pytest.raises(UsageError, match=r"on meta are not supported.*CPU and of CUDA"):
        hvd.allreduce(torch.ones(2, device="meta"))


def test_what_the_engine_asks_is_registered(hvd, core):
    current_stream, allocate, record, empty_cache = core.device_calls
    assert callable(current_stream)
    assert callable(allocate)
    assert callable(empty_cache)
    record(torch.ones(1))  # of the CPU: nothing to be done


def test_memory_is_given_back_on_the_device_that_is_short(hvd, core, monkeypatch):
    *_, empty_cache = core.device_calls
    done = []

    @contextlib.contextmanager
    def device(index):
        done.append(index)
        yield
        done.append("back")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    empty_cache(1)
    assert done == [1, "emptied", "back"]


def test_internal_tensors_stay_on_the_cpu_whatever_the_default_is(hvd, core):
    with torch.device("meta"):
        assert hvd.broadcast_object([1, "two"], 0) == [1, "two"]
        assert hvd.allgather_object({"a": 1}) == [{"a": 1}]
        assert hvd.metric_average(2.0) == 2.0
        averages = hvd.MetricAverager("loss")
        averages.update(loss=3.0)
        assert averages.compute() == {"loss": 3.0}


def test_plain_data_knows_where_tensors_were(hvd):
    from hora.torch.plain_data import decode, encode, fill

    text, tensors = encode({"a": torch.arange(3)}, "data")
    data, (spec,) = decode(text)
    assert not spec.on_gpu
    assert fill(data, tensors)["a"] is tensors[0]
