"""Operands of compiled operators, which are no objects of Python: who keeps them, and how long.

Through the table of C functions that the operators' library calls, on simulated devices.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time

import pytest
import torch
from hora import _core

pytestmark = pytest.mark.any_backend


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("gpu", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


class Call(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("kind", ctypes.c_int32),
        ("reduce_op", ctypes.c_int32),
        ("root_rank", ctypes.c_int32),
        ("process_set", ctypes.c_int32),
        ("prescale", ctypes.c_double),
        ("postscale", ctypes.c_double),
        ("inputs", ctypes.POINTER(Tensor)),
        ("outputs", ctypes.POINTER(Tensor)),
        ("tensor_count", ctypes.c_size_t),
        ("splits", ctypes.POINTER(ctypes.c_int64)),
        ("split_count", ctypes.c_size_t),
    )


class Result(ctypes.Structure):
    _fields_ = (
        ("owner", ctypes.c_void_p),
        ("error", ctypes.c_char_p),
        ("in_use", ctypes.c_bool),
        ("bytes", ctypes.c_size_t),
        ("rows", ctypes.POINTER(ctypes.c_int64)),
        ("row_count", ctypes.c_size_t),
    )


FLOAT32 = 10  # hora/tensor/dtype.h
Drop = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Api(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32),
        ("place", ctypes.c_void_p),
        ("run", ctypes.CFUNCTYPE(None, ctypes.POINTER(Call), ctypes.POINTER(Result))),
        ("keep", ctypes.CFUNCTYPE(None, ctypes.POINTER(Result), ctypes.c_void_p, Drop)),
        ("fetch", ctypes.c_void_p),
        ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(Result))),
    )


class Operator:
    """An allreduce of a few numbers on the GPU, as the operators' library runs it."""

    def __init__(self, name: str) -> None:
        self.api = Api.from_address(_core.torch_ops_api())
        assert self.api.version == 3
        self.dims = (ctypes.c_int64 * 1)(8)
        self.values = (ctypes.c_float * 8)(*[1.0] * 8)
        self.tensor = Tensor(ctypes.addressof(self.values), FLOAT32, 0, 1, self.dims)
        self.call = Call(
            name.encode(), int(_core.ALLREDUCE), int(_core.SUM), -1, 0, 1.0, 1.0,
            ctypes.pointer(self.tensor), ctypes.pointer(self.tensor), 1, None, 0,
        )  # fmt: skip
        self.result = Result()
        self.dropped: list[int] = []
        self.drop = Drop(self.dropped.append)

    def run(self) -> None:
        self.api.run(self.call, self.result)

    def keep(self) -> None:
        self.api.keep(self.result, 77, self.drop)
        self.api.release(self.result)


@pytest.fixture
def held(gpu):
    """The current stream, which operations have to wait for."""
    if not gpu.is_staged:
        pytest.skip("operations are done once they are on the device")
    stream = gpu.current()
    gpu.hold(stream)
    yield stream
    gpu.release(stream)


def await_submitted(name: str) -> None:
    deadline = time.monotonic() + 20
    while name not in [pending[2] for pending in _core.pending()]:
        assert time.monotonic() < deadline, f"only {_core.pending()}"


def test_operands_go_at_once_where_the_stream_waits(hvd, gpu):
    operator = Operator("operands.done")
    operator.run()
    assert not operator.result.error
    assert not operator.result.in_use
    gpu.synchronize()
    assert list(operator.values) == [float(hvd.size())] * 8
    operator.api.release(operator.result)


def test_what_is_refused_uses_nothing(hvd, gpu):
    operator = Operator("operands.captured")
    with gpu.capture():
        operator.run()
    assert b"allreduce 'operands.captured': the current stream is being" in operator.result.error
    assert not operator.result.in_use
    operator.api.release(operator.result)


def run_interrupted(operator: Operator, name: str) -> None:
    main = threading.current_thread()

    def interrupt():
        await_submitted(name)
        signal.pthread_kill(main.ident, signal.SIGUSR1)

    def told(*_):
        raise RuntimeError("a test interrupts it")

    before = signal.signal(signal.SIGUSR1, told)
    thread = threading.Thread(target=interrupt)
    thread.start()
    operator.run()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.ranks(2)
def test_operands_stay_when_the_wait_is_interrupted(hvd, gpu):
    operator = Operator("operands.interrupted")
    interrupted = hvd.rank() == 0
    if interrupted:
        run_interrupted(operator, "operands.interrupted")
        assert b"a test interrupts it" in operator.result.error
        assert operator.result.in_use, "it goes on"
        operator.keep()
        assert operator.dropped == []
    hvd.barrier()
    if not interrupted:
        operator.run()
        assert not operator.result.error
        operator.api.release(operator.result)
    # Each operation looks whether the device is past what was left behind.
    dropped = (torch.tensor(not interrupted or operator.dropped == [77]) for _ in range(1000))
    assert any(hvd.allreduce(each, op=hvd.Min) for each in dropped)
    gpu.synchronize()
    assert list(operator.values) == [float(hvd.size())] * 8


def test_operands_stay_when_the_group_is_lost_until_the_engine_has_ended(hvd, gpu, held):
    operator = Operator("operands.lost")
    thread = threading.Thread(target=operator.run)
    thread.start()
    if hvd.rank() == 0:
        await_submitted("operands.lost")
        gpu.lose_after(1)  # no event can be had, either
    thread.join()
    gpu.lose_after(0)
    gpu.release(held)
    in_use = operator.result.in_use
    try:
        assert operator.result.error
        assert in_use or hvd.rank() != 0, "the device may be at it for all one knows"
        if in_use:
            operator.keep()
            assert operator.dropped == []
    finally:
        hvd.shutdown()
        hvd.init()
        _core.set_device_calls(gpu.current, gpu.allocate, gpu.record)
    assert operator.dropped == ([77] if in_use else [])
