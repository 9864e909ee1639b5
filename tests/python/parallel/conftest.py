"""Every rank runs the same tests in the same order:

horarun -np 2 python -m pytest tests/python/parallel
"""

from __future__ import annotations

import os

import pytest
import simulated_gpu
import torch


def pytest_addoption(parser):
    choices = ("cpu", "cuda")
    parser.addoption("--device", default="cpu", choices=choices, help="where tensors are")


def device_of(config):
    return config.getoption("--device", "cpu")


@pytest.fixture(scope="session")
def group(pytestconfig):
    """``hora.torch``, initialised once for all tests."""
    # A test that fails on one rank leaves the others waiting for it: not for the default 300 s.
    os.environ.setdefault("HORA_STALL_ABORT_SECONDS", "30")
    torch.set_num_threads(1)
    import hora.torch as hvd

    hvd.init()
    if device_of(pytestconfig) == "cuda":
        hvd.set_device()
    yield hvd
    hvd.shutdown()


@pytest.fixture
def hvd(group):
    return group


@pytest.fixture(scope="module", params=["staged", "nccl"])
def devices(group, request):
    """The group anew, with simulated devices: one that all ranks share, or one for each."""
    from hora import _core

    folder, nccl = simulated_gpu.plugin_folder(), simulated_gpu.fake_nccl()
    if folder is None:
        pytest.skip("no simulated hora_cuda.so: build the C++ tests (make build)")
    settings = {
        "HORA_PLUGIN_DIRECTORY": str(folder),
        "HORA_GPU_BACKEND": request.param,
        "SIMULATED_DEVICES": "2",
    }
    if request.param == "nccl":
        if nccl is None:
            pytest.skip("no fake NCCL: build the C++ tests (make build)")
        settings |= {
            "HORA_NCCL_LIBRARY": str(nccl),
            "HORA_NCCL_ALONE": "1",  # a single rank calls it as well
            "SIMULATED_BOARD": f" of {group.rank()}",
        }
    os.environ.update(settings)
    calls = simulated_gpu.Gpu(folder)
    calls.is_staged = request.param == "staged"
    group.shutdown()
    group.init()
    _core.set_device_calls(calls.current, calls.allocate, calls.record)
    _core.set_plain_types(simulated_gpu.plain_class(calls), torch.Tensor, torch.nn.Parameter)
    yield calls
    _core.set_plain_types(torch.Tensor, torch.nn.Parameter)
    group.shutdown()
    for name in settings:
        del os.environ[name]
    group.init()


@pytest.fixture
def gpu(devices):
    devices.allocated.clear()
    devices.recorded.clear()
    return devices


@pytest.fixture(autouse=True)
def in_step(group):
    """Brings the ranks together after each test, so that one cannot disturb the next."""
    yield
    group.barrier()


def pytest_collection_modifyitems(config, items):
    for item in items:
        only = item.get_closest_marker("cpu_only")
        if only and device_of(config) != "cpu":
            item.add_marker(pytest.mark.skip(reason=f"on the CPU only: {only.args[0]}"))
        if item.get_closest_marker("ranks"):
            item.fixturenames.insert(0, "enough_ranks")  # before others make sets of ranks


def pytest_configure(config):
    if device_of(config) == "cuda":
        if not torch.cuda.is_available():
            raise pytest.UsageError("--device=cuda: PyTorch finds no GPU")
        torch.set_default_device("cuda")  # of what tests make without saying where: nearly all
    config.addinivalue_line("markers", "cpu_only(reason): not with --device=cuda")
    config.addinivalue_line("markers", "ranks(n): needs at least n ranks")
    config.addinivalue_line("markers", "any_backend: the same whatever moves the bytes")


@pytest.fixture
def enough_ranks(group, request):
    needed = request.node.get_closest_marker("ranks").args[0]
    if group.size() < needed:
        pytest.skip(f"needs {needed} ranks")
