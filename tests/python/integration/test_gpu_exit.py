"""What threads of the engine do to Python at the end of a process; on a simulated device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "python"
sys.path.insert(0, str(ROOT))
import simulated_gpu  # noqa: E402 - it lies among other tests

FOLDER = simulated_gpu.plugin_folder()
DEADLINE_S = 60

pytestmark = pytest.mark.skipif(FOLDER is None, reason="no simulated hora_cuda.so (make build)")

# Nobody shuts the engine down, so its threads are there to the last.
PREAMBLE = """
import atexit, sys, threading, time

@atexit.register  # before hora is imported: it runs when hora's own exit is over
def after_hora():
    last_of_all()

last_of_all = lambda: None
import simulated_gpu, torch
from pathlib import Path
from hora import _core, runtime
import hora.torch as hvd

gpu = simulated_gpu.Gpu(Path(sys.argv[1]))
hvd.init()
atexit.unregister(runtime._leave)
operand = simulated_gpu.GpuTensor(torch.ones(4))

def gather(name):
    return _core.submit(_core.ALLGATHER, name, operand, None)
"""

ENDS_WHILE_IT_ALLOCATES = """
inside = threading.Event()
ending = threading.Event()

def main_runs_python():
    return threading.main_thread().ident in sys._current_frames()

def allocate(*which):
    inside.set()
    assert ending.wait(30)
    deadline = time.monotonic() + 30
    while main_runs_python() and time.monotonic() < deadline:
        time.sleep(0.001)
    tensor = gpu.allocate(*which)
    print("allocated", flush=True)
    return tensor

_core.set_device_calls(gpu.current, allocate, gpu.record)
handle = gather("last")
assert inside.wait(30)
atexit.register(ending.set)  # last, so it runs first
"""

ALLOCATES_WHEN_ALL_IS_OVER = """
_core.set_device_calls(gpu.current, gpu.allocate, gpu.record)
gather("first").wait()

def last_of_all():
    try:
        gather("late").wait()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


def run(script):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {
        "PYTHONPATH": path,
        "HORA_PLUGIN_DIRECTORY": str(FOLDER),
        "HORA_GPU_BACKEND": "staged",
    }
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, str(FOLDER)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_end_waits_for_an_allocation_that_is_under_way():
    assert run(ENDS_WHILE_IT_ALLOCATES) == "allocated\n"


def test_nobody_asks_python_for_memory_when_it_has_ended():
    assert "Python is ending" in run(ALLOCATES_WHEN_ALL_IS_OVER)
