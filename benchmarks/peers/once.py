"""What is measured on processes of their own: idling (P13), starting and importing (P15)."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from driver import RunningPeer
from peers import python_peer

Progress = Callable[[str], None]
IDLE_S = 5.0
STARTS = 5
IMPORTS = 5
STEPS = {"idle": 2, "startup": STARTS + IMPORTS}

IMPORT_PROGRAM = """
import time
begin = time.perf_counter()
import torch
between = time.perf_counter()
import hora.torch
print(between - begin, time.perf_counter() - between)
"""
RESIDENT_PROGRAM = """
import os
import torch
torch.zeros(1)
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


def _python(program: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    )
    return [float(word) for word in done.stdout.split()]


def _cpu_seconds(pid: int) -> float:
    """Of a process with all its threads, from user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(progress: Progress) -> Iterator[dict[str, Any]]:
    """The CPU time that an initialised process uses when nothing happens, and its memory."""
    progress("an idle process")
    (plain,) = _python(RESIDENT_PROGRAM)
    progress("")
    with RunningPeer(python_peer("hora"), 2) as peer:
        peer.ask("run allreduce float32 4 default 1 10 1")
        pid, resident, _ = peer.ask("facts").facts
        before = _cpu_seconds(int(pid))
        time.sleep(IDLE_S)  # what is measured is that nothing happens meanwhile
        used = _cpu_seconds(int(pid)) - before
    progress("")
    yield {
        "section": "idle",
        "ranks": 2,
        "cpu_percent": 100 * used / IDLE_S,
        "extra_MiB": (resident - plain) / (1 << 20),
    }


def startup(progress: Progress) -> Iterator[dict[str, Any]]:
    """``hvd.init()`` of 4 local ranks after imports, and what importing adds to torch's."""
    progress("starting 4 ranks")
    inits = []
    for _ in range(STARTS):
        with RunningPeer(python_peer("hora"), 4) as peer:
            inits.append(1e3 * peer.ask("facts").facts[2])
        progress("")
    progress("importing")
    imports = []
    for _ in range(IMPORTS):
        imports.append([1e3 * seconds for seconds in _python(IMPORT_PROGRAM)])
        progress("")
    yield {
        "section": "startup",
        "ranks": 4,
        "init_ms": statistics.median(inits),
        "import_torch_ms": statistics.median(first for first, _ in imports),
        "import_hora_ms": statistics.median(second for _, second in imports),
    }
