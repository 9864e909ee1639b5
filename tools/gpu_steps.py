"""What `make test-gpu` runs, step by step: commands, how long they may take, what shows success.

Pure descriptions; tools/gpu_tests.py runs them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sanitizer_errors import judge, read_known

__all__ = ["PARTS", "Setting", "Step", "installed_sanitizer", "probe", "steps"]

PARTS = ("cpp", "np1", "np2", "np4", "sanitizer")
STEP_LIMIT_S = 400
KNOWN = Path(__file__).resolve().parent.parent / "tests/gpu/sanitizer_known.txt"
# The tests of the ranks, but for those of simulated devices, and for compilers that take minutes.
PARALLEL = ("tests/python/parallel", "--device=cuda", "--deselect",
            "tests/python/parallel/test_parallel_device.py", "-k", "not inductor")  # fmt: skip
BRIEF = (*(f"tests/python/parallel/test_parallel_{name}.py"
           for name in ("operations", "exchanges", "optimizer")), "--device=cuda")  # fmt: skip
# Enough for each kind of memory, and for what is left when the group is left and joined again.
SANITIZED = ("tests/gpu/test_errors.py", "-k",
             "stay_on_the_device or beside_gpu_tensors or joined_again")  # fmt: skip
# The one needs as much memory as compute-sanitizer keeps books of.
KERNELS = ("--gtest_brief=1", "--gtest_filter=-*FourGigabytes*")
TOOLS = {
    "memcheck": ("--leak-check", "full", "--report-api-errors", "no"),
    "racecheck": (),
    "synccheck": (),
    "initcheck": (),
}


@dataclass(frozen=True)
class Setting:
    """The programs of one machine, and where what they print goes."""

    python: str
    build: Path
    logs: Path
    sanitizer: str = "compute-sanitizer"

    @property
    def kernels(self) -> str:
        return str(self.build / "tests/gpu/gpu_test")


@dataclass(frozen=True)
class Step:
    """One command. Its output is ``logs/name/output``, that of rank N ``logs/name/rank.N/…``."""

    part: str
    name: str
    command: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    is_pytest: bool = False
    is_sanitized: bool = False

    def outputs(self, folder: Path) -> list[Path]:
        """What tells of its success: of each rank, else of the command."""
        return sorted(folder.glob("rank.*/stdout")) or [folder / "output"]

    def what_is_wrong(self, folder: Path) -> str:
        """Why a run that ended with code 0 shows nothing, or shows errors; else empty."""
        texts = [path.read_text(errors="replace") for path in self.outputs(folder)]
        if self.is_pytest and not re.search(r"\b[1-9]\d* passed", texts[0]):
            return "nothing ran"
        for text in texts if self.is_sanitized else ():
            verdict = judge(text, read_known(KNOWN))
            if verdict.remaining:
                first = verdict.remaining[0].splitlines()[0]
                return f"{len(verdict.remaining)} findings, the first: {first}"
            if verdict.problem:
                return verdict.problem
        return ""


def _ranks(
    setting: Setting, name: str, how: tuple[int, str], tests: tuple[str, ...], *under: str
) -> tuple[str, ...]:
    """The tests on ranks; ``how`` is how many and what carries their tensors."""
    ranks, backend = how
    return (
        setting.python, "-m", "hora.launch", "-np", str(ranks), "--gpu-backend", backend,
        "--quiet", "--output-dir", str(setting.logs / name), *under,
        setting.python, "-m", "pytest", "-p", "no:cacheprovider", "-q",
        f"--timeout={STEP_LIMIT_S}", *tests,
    )  # fmt: skip


def _under(setting: Setting, tool: str) -> tuple[str, ...]:
    return (setting.sanitizer or "compute-sanitizer", "--tool", tool, *TOOLS[tool])


def probe(setting: Setting) -> tuple[str, ...]:
    """Shows whether compute-sanitizer works on this device."""
    return (*_under(setting, "memcheck"), setting.kernels, "--gtest_filter=*KnowsItsDevices*")


def steps(setting: Setting) -> Iterator[Step]:
    """All steps, in order; the quick ones that say most come first."""
    yield Step("cpp", "kernels", (setting.kernels, "--gtest_brief=1"))
    yield Step("cpp", "pack_bench", (str(setting.build / "tests/gpu/pack_bench"),))
    of_ranks = [
        ("np1", "np1-nccl", (1, "nccl"), ("tests/gpu",)),
        ("np1", "np1-nccl-parallel", (1, "nccl"), PARALLEL),
        ("np2", "np2-staged", (2, "auto"), ("tests/gpu",)),
        ("np2", "np2-staged-parallel", (2, "auto"), PARALLEL),
        ("np4", "np4-staged", (4, "staged"), ("tests/gpu",)),
        ("np4", "np4-staged-parallel", (4, "staged"), BRIEF),
    ]
    for part, name, how, tests in of_ranks:
        yield Step(part, name, _ranks(setting, name, how, tests), is_pytest=True)
    alone = 'import torch; assert torch.cuda.device_count() == 1; torch.ones(1, device="cuda")'
    launch = (setting.python, "-m", "hora.launch", "-np", "1", "--gpus-per-rank", "1")
    yield Step("np1", "slices", (*launch, setting.python, "-c", alone))
    for tool in TOOLS:
        command = (*_under(setting, tool), setting.kernels, *KERNELS)
        yield Step("sanitizer", f"{tool}-kernels", command, is_sanitized=True)
    # Without PyTorch's caching: else what is freed is still somebody's.
    environ = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "HORA_STALL_ABORT_SECONDS": "300",
               "HORA_START_TIMEOUT_SECONDS": "300"}  # fmt: skip
    for name, how in (("memcheck-nccl", (1, "nccl")), ("memcheck-staged", (2, "staged"))):
        command = _ranks(setting, name, how, SANITIZED, *_under(setting, "memcheck"))
        yield Step("sanitizer", name, command, environ, is_pytest=True, is_sanitized=True)


def installed_sanitizer() -> str | None:
    """compute-sanitizer on the PATH, or of CUDA's toolkit."""
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [*os.environ["PATH"].split(":"), *(f"{home}/bin" for home in toolkits if home)]
    found = (Path(folder) / "compute-sanitizer" for folder in folders)
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)
