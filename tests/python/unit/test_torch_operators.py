"""The operators' library, and ranges in the profiler. Results are tested on several ranks."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_core import FakeCore, hora_over
from hora.torch.profiling import profiled

LIBRARY = Path(importlib.util.find_spec("hora._core").origin).with_name("_torch_ops.so")

# PyTorch's promise of stability covers its C functions, in these two headers.
STABLE = re.compile(r"(aoti_torch|torch)_\w+")
SYSTEM = re.compile(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_")
WEAK = {"w", "v"}


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without the PyTorch operators")
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_library_uses_only_the_stable_functions_of_pytorch():
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", LIBRARY], check=True, capture_output=True, text=True
    ).stdout
    symbols = [line.split()[-2:] for line in listing.splitlines()]
    foreign = [
        name
        for kind, name in symbols
        if kind not in WEAK and not SYSTEM.search(name) and not STABLE.fullmatch(name)
    ]
    assert foreign == []
    assert any(STABLE.fullmatch(name) for _, name in symbols)


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without the PyTorch operators")
def test_an_operator_without_an_engine_says_so():
    from hora.torch import operators

    assert operators.missing is None
    with pytest.raises(RuntimeError, match="has not been initialised"):
        torch.ops.hora.allreduce(torch.ones(2), "x", 1, 1.0, 1.0, 0)


# What PyTorch 2.8 does not have.
OLD_PYTORCH = """
import types, torch

def load_library(path):
    raise OSError("undefined symbol: torch_call_dispatcher")

torch.__version__, torch.Tag = "2.8.0", types.SimpleNamespace()
torch.ops.load_library = load_library
from hora.torch import operators
print(operators.missing)
"""


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without the PyTorch operators")
def test_an_old_pytorch_is_told_which_one_has_operators():
    said = subprocess.run(
        [sys.executable, "-c", OLD_PYTORCH], check=True, capture_output=True, text=True
    ).stdout
    assert "needs PyTorch 2.10 or newer" in said


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without the PyTorch operators")
def test_no_operator_goes_into_a_cuda_graph():
    from hora.torch import operators
    from torch._inductor import utils

    assert operators.missing is None
    graph = torch.fx.Graph()
    for schema in operators._SCHEMAS:
        operator = getattr(torch.ops.hora, schema.partition("(")[0]).default
        assert torch.Tag.cudagraph_unsafe in operator.tags
        is_unsafe = getattr(utils, "is_cudagraph_unsafe_fx_node", None)  # PyTorch 2.13
        assert is_unsafe is None or is_unsafe(graph.call_function(operator))


def test_ranges_have_the_kind_and_the_name():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        with profiled("allreduce", "grad.w"):
            pass
        with profiled("barrier", None):
            pass
    names = {event.key for event in profile.key_averages()}
    assert {"hora::allreduce grad.w", "hora::barrier"} <= names


def test_operations_are_ranges():
    with hora_over(FakeCore()) as hvd:
        hvd.init()
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            hvd.allreduce(torch.ones(2), name="grad.w")
            hvd.broadcast_(torch.ones(2), 0)
            hvd.allgather_async(torch.ones(2), name="rows").wait()
        hvd.shutdown()
    names = {event.key for event in profile.key_averages() if event.key.startswith("hora::")}
    assert names == {
        "hora::allreduce grad.w",
        "hora::broadcast broadcast.noname.0",
        "hora::allgather_async rows",
        "hora::wait rows",
    }


def test_without_a_profiler_no_range_is_made():
    assert profiled("allreduce", "grad.w") is profiled("allgather", None)
