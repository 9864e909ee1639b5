"""GPU tensors where there is no GPU: the engine's plugin over simulated devices, and what Python
takes for tensors on them.

The memory of a simulated device is that of a CPU tensor; what its streams do to it happens on
threads, in order. ``hold`` keeps a stream from going on, so that a test sees who waits for what.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils._pytree import tree_map

_ROOT = Path(__file__).parents[2]
_CAPSULE = b"dlpack_exchange_api"
_DTYPES = {  # DLPack's code and bits
    torch.uint8: (1, 8), torch.int32: (0, 32), torch.int64: (0, 64), torch.float16: (2, 16),
    torch.float32: (2, 32), torch.float64: (2, 64),
}  # fmt: skip


# Memory of tensors that are gone. As with PyTorch's allocator, nobody gets it before the stream is
# past what it had when they went.
_dropped: list[torch.Tensor] = []


def _free_in_order(owner: object, values: torch.Tensor) -> None:
    weakref.finalize(owner, _dropped.append, values).atexit = False


def plugin_folder() -> Path | None:
    """Where the simulated hora_cuda.so was built; None: nowhere."""
    named = os.environ.get("HORA_SIMULATED_CUDA")
    built = [_ROOT / "build" / preset / "tests/cpp/simulated" for preset in ("release", "dev")]
    for folder in [Path(named)] if named else built:
        if (folder / "hora_cuda.so").exists():
            return folder
    return None


def fake_nccl() -> Path | None:
    """A library with NCCL's functions for these devices, built beside the plugin."""
    folder = plugin_folder()
    library = None if folder is None else folder.parent / "libfake_nccl.so"
    return library if library is not None and library.exists() else None


class Gpu:
    """The devices of the plugin, and which stream of each this process works on."""

    def __init__(self, folder: Path) -> None:
        # For a fake NCCL, too, which finds the streams' functions in the process.
        library = ctypes.CDLL(str(folder / "hora_cuda.so"), mode=os.RTLD_GLOBAL)
        library.simulated_stream.restype = ctypes.c_void_p
        library.simulated_stream.argtypes = [ctypes.c_int]
        for name in ("hold", "release", "synchronize", "begin_capture", "end_capture"):
            getattr(library, f"simulated_{name}").argtypes = [ctypes.c_void_p]
        library.simulated_end_capture.restype = ctypes.c_bool
        library.simulated_synchronize.argtypes.append(ctypes.c_int)
        library.simulated_synchronize.restype = ctypes.c_bool
        library.simulated_allocations.restype = ctypes.c_size_t
        library.simulated_limit_memory.argtypes = [ctypes.c_size_t]
        self._library = library
        self._current: dict[int, int] = {}
        self.asked = 0  # how often for the current stream
        self.allocated: list[tuple[int, int, int]] = []  # device, bytes, stream
        self.recorded: list[object] = []
        self.is_staged = True  # the engine works through the host's memory

    def new_stream(self, device: int = 0) -> int:
        """Another stream of the device; lives as long as the process."""
        return int(self._library.simulated_stream(device))

    def use(self, stream: int, device: int = 0) -> int:
        """Makes the stream the current one; returns the one before."""
        before = self.current(device)
        self._current[device] = stream
        return before

    def current(self, device: int = 0) -> int:
        """What torch.cuda.current_stream would tell."""
        self.asked += 1
        if device not in self._current:
            self._current[device] = self.new_stream(device)
        return self._current[device]

    def hold(self, stream: int) -> None:
        """The stream does nothing from now on."""
        self._library.simulated_hold(stream)

    def release(self, stream: int) -> None:
        """It goes on."""
        self._library.simulated_release(stream)

    @contextlib.contextmanager
    def capture(self, device: int = 0) -> Iterator[None]:
        """The current stream is captured; what it gets has to be a valid graph."""
        stream = self.current(device)
        self._library.simulated_begin_capture(stream)
        try:
            yield
        finally:
            valid = self._library.simulated_end_capture(stream)
        assert valid, "something forbidden was done while the stream was captured"

    def synchronize(self, device: int = 0) -> None:
        """Waits until the device is past all that the current stream has got."""
        dropped = len(_dropped)
        assert self._library.simulated_synchronize(self.current(device), device)
        del _dropped[:dropped]

    def allocations(self) -> int:
        """Pieces of device memory that the engine has."""
        return int(self._library.simulated_allocations())

    def limit_memory(self, nbytes: int) -> None:
        """No piece of device memory of more bytes can be had."""
        self._library.simulated_limit_memory(nbytes)

    def lose_after(self, calls: int) -> None:
        """Every call from that one on fails as on a lost device; 0: none."""
        self._library.simulated_lose_after(calls)

    # --- what hora.torch does on a real GPU ---

    def allocate(self, device: int, nbytes: int, stream: int) -> GpuTensor:
        self.allocated.append((device, nbytes, stream))
        return GpuTensor(torch.empty(nbytes, dtype=torch.uint8), device)

    def record(self, tensor: object) -> None:
        self.recorded.append(tensor)


class GpuTensor:
    """What the engine reads by attributes, as of torch.Tensor before PyTorch 2.11."""

    layout = torch.strided
    requires_grad = False
    _version = 0

    def __init__(self, values: torch.Tensor, device: int = 0) -> None:
        self.values = values.contiguous()
        _free_in_order(self, self.values)
        self.dtype = values.dtype
        self.shape = tuple(values.shape)
        self.device = SimpleNamespace(type="cuda", index=device)

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def is_contiguous(self) -> bool:
        return True


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Read = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_DLTensor))
_Stream = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)
)


class _ExchangeApi(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("managed_to_object", ctypes.c_void_p),
        ("tensor_from_object", _Read),
        ("current_work_stream", _Stream),
    )


def _capsule(gpu: Gpu) -> tuple[object, object]:
    """DLPack's functions for tensors with ``values`` and ``device``; and what must live as long."""
    dims: dict[tuple[int, ...], ctypes.Array[ctypes.c_int64]] = {}

    def array(numbers: tuple[int, ...]) -> object:
        if numbers not in dims:
            dims[numbers] = (ctypes.c_int64 * max(1, len(numbers)))(*numbers)
        return ctypes.cast(dims[numbers], ctypes.POINTER(ctypes.c_int64))

    def read(tensor: GpuTensor, out: ctypes._Pointer[_DLTensor]) -> int:
        values = tensor.values
        code, bits = _DTYPES[values.dtype]
        out[0] = _DLTensor(
            values.data_ptr(), 2, tensor.device.index, values.dim(), code, bits, 1,
            array(tuple(values.shape)), array(values.stride()), 0,
        )  # fmt: skip
        return 0

    def stream(kind: int, index: int, out: ctypes._Pointer[ctypes.c_void_p]) -> int:
        assert kind == 2
        out[0] = gpu.current(index)
        return 0

    api = _ExchangeApi(1, 3, None, None, None, None, _Read(read), _Stream(stream))
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(api), _CAPSULE, None), api


def plain_class(gpu: Gpu) -> type[GpuTensor]:
    """A class of tensors that the engine reads as those of PyTorch, by DLPack's C exchange API."""
    capsule, api = _capsule(gpu)

    class PlainGpuTensor(GpuTensor):
        __dlpack_c_exchange_api__ = capsule
        keeps = api

        def is_neg(self) -> bool:
            return False

    return PlainGpuTensor


def torch_class(gpu: Gpu) -> type[torch.Tensor]:
    """A subclass of torch.Tensor that is on "cuda": its operations wait for the stream and compute
    on the CPU. Without gradients, for which PyTorch wants a driver."""
    capsule, api = _capsule(gpu)

    class TorchGpuTensor(torch.Tensor):
        __dlpack_c_exchange_api__ = capsule
        keeps = api
        values: torch.Tensor

        @staticmethod
        def __new__(cls, values: torch.Tensor) -> TorchGpuTensor:
            self = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, values.shape, strides=values.stride(), dtype=values.dtype, device="cuda:0"
            )
            self.values = values
            _free_in_order(self, values)
            return self

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            gpu.synchronize()
            own = {**(kwargs or {})}
            if "device" in own:
                own["device"] = torch.device("cpu")
            inner = tree_map(lambda each: each.values if isinstance(each, cls) else each, args)
            result = function(*inner, **own)
            return tree_map(lambda e: cls(e) if isinstance(e, torch.Tensor) else e, result)

    return TorchGpuTensor
