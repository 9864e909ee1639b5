"""What other benchmarks of the project measure: training (P12) and negotiation (P14)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import report

Progress = Callable[[str], None]
BENCHMARKS = Path(__file__).resolve().parents[1]
MODELS = ("digits", "gpt")
LARGEST_JOB = 131_072
FAN_OUT = 8  # the default of hora
STEPS = {"training": len(MODELS), "negotiation": 2}


class ProgramError(RuntimeError):
    """A benchmark that is part of the project failed."""


def _output_of(*command: str, timeout: float) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError as error:
        raise ProgramError(f"{command[0]} is not built") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{command[0]} took longer than {timeout} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "it printed nothing").strip().splitlines()[-1]
        raise ProgramError(f"{command[0]} ended with code {error.returncode}: {last}") from error
    return done.stdout


def training(progress: Progress) -> Iterator[dict[str, Any]]:
    """A training step alone, beside another, with hora and with DDP; see train_step.py."""
    script = BENCHMARKS / "training" / "train_step.py"
    for model in MODELS:
        progress(f"training steps, {model}")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "steps.jsonl"
            command = (sys.executable, str(script), "-np", "2", "--model", model)
            _output_of(*command, "--output", str(target), timeout=300)
            yield from ({"section": "training"} | step for step in report.read_jsonl(target))
        progress("")


def negotiation(progress: Progress, programs: Path) -> Iterator[dict[str, Any]]:
    """The negotiators of two ranks for 161 cached tensors, and the root of a very large job.

    ``programs`` is the folder with the micro-benchmarks. The simulation is not run again: its
    figures are counts and model times, which do not depend on the machine.
    """
    progress("negotiating")
    command = (str(programs / "negotiator_bench"), "--benchmark_filter=CachedRound/161$")
    text = _output_of(*command, "--benchmark_format=json", timeout=120)
    (found,) = json.loads(text)["benchmarks"]
    assert found["time_unit"] == "ns"
    yield {"section": "negotiation", "what": "round", "time_us": found["real_time"] / 1e3}
    progress("")
    simulated = report.RESULTS / "coordinator.jsonl"
    if simulated.exists():
        for record in report.read_jsonl(simulated):
            if (record["ranks"], record["fan_out"]) == (LARGEST_JOB, FAN_OUT):
                yield {"section": "negotiation", "what": "coordinator"} | record
    progress("")
