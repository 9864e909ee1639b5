"""What `make test-gpu` runs, step by step: commands, how long they may take, what shows success.

Pure descriptions; tools/gpu_tests.py runs them.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sanitizer_errors import judge, read_known

__all__ = ["PARTS", "Setting", "Step", "installed_nccl", "installed_sanitizer", "probe", "steps"]

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
# The one needs as much memory as compute-sanitizer keeps books of, the other is NCCL's own kernels.
KERNELS = ("--gtest_brief=1", "--gtest_filter=-*FourGigabytes*:NcclGpuTest*")
# NCCL is called by a single rank, too.
ALONE = {"HORA_NCCL_ALONE": "1"}
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
    nccl: str = ""  # PyTorch's, which a program without Python does not find; empty: the linker's

    @property
    def kernels(self) -> str:
        return str(self.build / "tests/gpu/gpu_test")


def tests_ran(text: str) -> str:
    """What is wrong with the output of pytest that ended well; empty where nothing is."""
    return "" if re.search(r"\b[1-9]\d* passed", text) else "nothing ran"


def kernels_ran(text: str) -> str:
    """The same of gpu_test, which skips what it cannot do."""
    passed, skipped = (
        sum(map(int, re.findall(rf"^\[\s*{word}\s*\] (\d+) test", text, re.MULTILINE)))
        for word in ("PASSED", "SKIPPED")
    )
    return "" if passed > skipped else f"{skipped} tests were skipped, {passed} passed"


def speeds_shown(text: str) -> str:
    """The same of pack_bench."""
    return "" if '"GB/s"' in text else "nothing was measured"


@dataclass(frozen=True)
class Step:
    """One command. Its output is ``logs/name/output``, that of ranks in files beside it."""

    part: str
    name: str
    command: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    what_output_lacks: Callable[[str], str] | None = None
    is_sanitized: bool = False

    def outputs(self, folder: Path) -> list[Path]:
        """What tells of its success: of each rank, as horarun or torchrun writes it, else all."""
        ranks = [*folder.glob("rank.*/stdout"), *folder.glob("**/stdout.log")]
        return sorted(ranks) or [folder / "output"]

    def what_is_wrong(self, folder: Path) -> str:
        """Why a run that ended with code 0 shows nothing, or shows errors; else empty."""
        texts = [path.read_text(errors="replace") for path in self.outputs(folder)]
        if self.what_output_lacks and (lacks := self.what_output_lacks(texts[0])):
            return lacks
        for text in texts if self.is_sanitized else ():
            verdict = judge(text, read_known(KNOWN))
            if verdict.remaining:
                first = verdict.remaining[0].splitlines()[0]
                return f"{len(verdict.remaining)} findings, the first: {first}"
            if verdict.problem:
                return verdict.problem
        return ""


def _pytest(setting: Setting, tests: tuple[str, ...]) -> tuple[str, ...]:
    words = ("-m", "pytest", "-p", "no:cacheprovider", "-q", f"--timeout={STEP_LIMIT_S}")
    return (setting.python, *words, *tests)


def _ranks(
    setting: Setting, name: str, how: tuple[int, str], tests: tuple[str, ...]
) -> tuple[str, ...]:
    """The tests on ranks; ``how`` is how many and what carries their tensors."""
    ranks, backend = how
    return (
        setting.python, "-m", "hora.launch", "-np", str(ranks), "--gpu-backend", backend,
        "--quiet", "--output-dir", str(setting.logs / name), *_pytest(setting, tests),
    )  # fmt: skip


def _torchrun(setting: Setting, name: str, ranks: int) -> tuple[str, ...]:
    """Starts ranks that inherit nothing but variables, which passes through other programs."""
    return (
        setting.python, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
        "--nproc-per-node", str(ranks), "--no-python", "--redirects", "3",
        "--log-dir", str(setting.logs / name),
    )  # fmt: skip


def _under(setting: Setting, tool: str) -> tuple[str, ...]:
    return (setting.sanitizer or "compute-sanitizer", "--tool", tool, *TOOLS[tool])


def probe(setting: Setting) -> tuple[str, ...]:
    """Shows whether compute-sanitizer works on this device."""
    return (*_under(setting, "memcheck"), setting.kernels, "--gtest_filter=*KnowsItsDevices*")


def steps(setting: Setting) -> Iterator[Step]:
    """All steps, in order; the quick ones that say most come first."""
    brief = (setting.kernels, "--gtest_brief=1")
    yield Step("cpp", "kernels", brief, what_output_lacks=kernels_ran)
    pack_bench = str(setting.build / "tests/gpu/pack_bench")
    yield Step("cpp", "pack_bench", (pack_bench,), what_output_lacks=speeds_shown)
    with_nccl = {"HORA_NCCL_LIBRARY": setting.nccl} if setting.nccl else {}
    command = (setting.kernels, "--gtest_filter=NcclGpuTest.DoesAllOfItAlone")
    yield Step("cpp", "nccl", command, with_nccl, kernels_ran)
    of_ranks = [
        ("np1", "np1-nccl", (1, "nccl"), ("tests/gpu",), ALONE),
        ("np1", "np1-nccl-parallel", (1, "nccl"), PARALLEL, ALONE),
        ("np1", "np1-no-call", (1, "nccl"), ("tests/gpu",), {}),
        ("np2", "np2-staged", (2, "auto"), ("tests/gpu",), {}),
        ("np2", "np2-staged-parallel", (2, "auto"), PARALLEL, {}),
        ("np4", "np4-staged", (4, "staged"), ("tests/gpu",), {}),
        ("np4", "np4-staged-parallel", (4, "staged"), BRIEF, {}),
    ]
    for part, name, how, tests, environ in of_ranks:
        yield Step(part, name, _ranks(setting, name, how, tests), environ, tests_ran)
    alone = 'import torch; assert torch.cuda.device_count() == 1; torch.ones(1, device="cuda")'
    launch = (setting.python, "-m", "hora.launch", "-np", "1", "--gpus-per-rank", "1")
    yield Step("np1", "slices", (*launch, setting.python, "-c", alone))
    for tool in TOOLS:
        command = (*_under(setting, tool), setting.kernels, *KERNELS)
        yield Step("sanitizer", f"{tool}-kernels", command, {}, kernels_ran, is_sanitized=True)
    # Without PyTorch's caching: else what is freed is still somebody's.
    environ = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "HORA_STALL_ABORT_SECONDS": "300",
               "HORA_START_TIMEOUT_SECONDS": "300"}  # fmt: skip
    alone = (*_under(setting, "memcheck"), *_pytest(setting, SANITIZED))
    staged = "memcheck-staged"
    for name, backend, more, command in (
        ("memcheck-nccl", "nccl", ALONE, alone),
        (staged, "staged", {}, (*_torchrun(setting, staged, 2), *alone)),
    ):
        variables = {**environ, **more, "HORA_GPU_BACKEND": backend}
        yield Step("sanitizer", name, command, variables, tests_ran, is_sanitized=True)


def installed_nccl() -> str:
    """The libnccl that is named, or that PyTorch for CUDA brings; empty: neither."""
    if named := os.environ.get("HORA_NCCL_LIBRARY"):
        return named
    try:
        found = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        return ""
    folders = found.submodule_search_locations if found else None
    libraries = (Path(folder) / "lib" / "libnccl.so.2" for folder in folders or ())
    return next((str(path) for path in libraries if path.exists()), "")


def installed_sanitizer() -> str | None:
    """compute-sanitizer on the PATH, or of CUDA's toolkit."""
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [*os.environ["PATH"].split(":"), *(f"{home}/bin" for home in toolkits if home)]
    found = (Path(folder) / "compute-sanitizer" for folder in folders)
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)
