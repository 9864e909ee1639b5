"""tools/gpu_tests.py, gpu_steps.py, sanitizer_errors.py: what runs, what counts, what is kept."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = {"gpu": "Chip", "driver": "580.95", "cuda": "13.0", "torch": "2.11.0", "nccl": "2.28.9",
        "cpu": "Core", "commit": "abc1234", "command": "make test-gpu"}  # fmt: skip
CLEAN = "========= COMPUTE-SANITIZER\n[  PASSED  ]\n========= ERROR SUMMARY: 0 errors\n"
# As two generations of the tool write it.
WRITE = """\
========= Invalid __global__ write of size 4 bytes
=========     at void hora::CopyMany<float>(hora::Table)+0x150
=========     by thread (0,0,0) in block (1,0,0)
=========
"""
OF_PYTORCH = """\
========= Leaked 1,048,576 bytes at 0x7f566f200000
=========     Saved host backtrace up to driver entry point at allocation time
=========         Host Frame: at::cuda::getCurrentCUDABlasHandle() [0x6f] in libtorch_cuda.so
=========
"""
OF_HORA = """\
========= Leaked 512 bytes at 0x7f566f200000
=========     Saved host backtrace up to driver entry point at allocation time
=========     Host Frame: [0x2da4eb]
=========                in /lib/x86_64-linux-gnu/libcuda.so.1
=========     Host Frame:ncclCommInitRankConfig [0x1]
=========                in /venv/lib/nvidia/nccl/lib/libnccl.so.2
=========     Host Frame: [0x2]
=========                in /venv/lib/python3.12/site-packages/hora/_core.cpython-312.so
=========
"""


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def module(name):
    return importlib.import_module(name)


@pytest.fixture
def setting(tmp_path):
    return module("gpu_steps").Setting("python", tmp_path / "b", tmp_path / "logs", "cs")


def with_findings(*findings: str) -> str:
    return CLEAN.replace("[  PASSED  ]\n", "[  PASSED  ]\n" + "".join(findings))


# --- what compute-sanitizer says -----------------------------------------------------------------


def judged(output):
    judge = module("sanitizer_errors")
    return judge.judge(output, judge.read_known(ROOT / "tests/gpu/sanitizer_known.txt"))


def test_a_clean_run():
    assert judged(CLEAN).is_clean
    race = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert judged("========= COMPUTE-SANITIZER\n" + race).is_clean


def test_what_pytorch_keeps_is_known_and_what_hora_does_is_not():
    verdict = judged(with_findings(OF_PYTORCH))
    assert verdict.is_clean and verdict.known == 1
    verdict = judged(with_findings(OF_PYTORCH, WRITE, OF_HORA))
    assert [one.split(" ")[0] for one in verdict.remaining] == ["Invalid", "Leaked"]
    assert "in block (1,0,0)" in verdict.remaining[0] and verdict.known == 1


def test_leaks_of_nccl_are_known_unless_hora_called():
    alone = OF_HORA.replace("hora/_core", "torch/_C")
    assert judged(with_findings(alone)).is_clean
    assert not judged(with_findings(OF_HORA)).is_clean


def test_other_errors_are_never_known():
    assert not judged(with_findings(WRITE.replace("hora::CopyMany", "at::native::fill"))).is_clean


def test_a_run_that_was_cut_proves_nothing():
    verdict = judged("========= COMPUTE-SANITIZER\nSegmentation fault\n")
    assert "no summary" in verdict.problem and not verdict.is_clean


def test_the_judge_as_a_program(tmp_path, capsys):
    judge = module("sanitizer_errors")
    clean, dirty = tmp_path / "clean", tmp_path / "dirty"
    clean.write_text(CLEAN)
    dirty.write_text(with_findings(OF_HORA))
    assert judge.main([str(clean)]) == 0
    assert judge.main([str(clean), str(dirty)]) == 1
    assert f"{dirty}: Leaked 512 bytes" in capsys.readouterr().out


# --- the steps -----------------------------------------------------------------------------------


def test_every_tool_runs_over_the_kernels_and_memcheck_over_ranks(setting):
    steps = {one.name: one for one in module("gpu_steps").steps(setting)}
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        command = steps[f"{tool}-kernels"].command
        assert command[:3] == ("cs", "--tool", tool) and setting.kernels in command
    for name, ranks in (("memcheck-nccl", 1), ("memcheck-staged", 2)):
        words = " ".join(steps[name].command)
        assert "cs --tool memcheck --leak-check full" in words
        assert (f"--nproc-per-node {ranks}" in words) == (ranks > 1)
        assert steps[name].environ["HORA_GPU_BACKEND"] == name.partition("-")[2]
    assert all(one.is_sanitized for one in steps.values() if one.part == "sanitizer")


def test_the_tests_of_the_steps_are_there(setting):
    for step in module("gpu_steps").steps(setting):
        for word in step.command:
            if word.startswith("tests/"):
                assert (ROOT / word).exists(), word
    named = (ROOT / "tests/gpu/test_errors.py").read_text()
    for part in module("gpu_steps").SANITIZED[-1].split(" or "):
        assert part in named
    assert "KnowsItsDevices" in (ROOT / "tests/gpu/runtime_test.cc").read_text()


def test_one_rank_calls_nccl_and_nobody_else_is_told_to(setting, tmp_path):
    steps = module("gpu_steps")
    found = {one.name: one for one in steps.steps(setting)}
    calling = {name for name, one in found.items() if one.environ.get("HORA_NCCL_ALONE") == "1"}
    assert calling == {"np1-nccl", "np1-nccl-parallel", "memcheck-nccl"}
    assert found["nccl"].environ == {}
    there = dataclasses.replace(setting, nccl="/opt/libnccl.so.2")
    (nccl,) = [one for one in steps.steps(there) if one.name == "nccl"]
    assert nccl.environ == {"HORA_NCCL_LIBRARY": "/opt/libnccl.so.2"}
    assert "DoesAllOfItAlone" in (ROOT / "tests/gpu/nccl_gpu_test.cc").read_text()
    (tmp_path / "output").write_text("[  PASSED  ] 0 tests.\n[  SKIPPED ] 1 test, listed below:")
    assert nccl.what_is_wrong(tmp_path) == "1 tests were skipped, 0 passed"
    (tmp_path / "output").write_text("[  PASSED  ] 1 test.")
    assert not nccl.what_is_wrong(tmp_path)


def test_where_nccl_is(tmp_path, monkeypatch):
    steps = module("gpu_steps")
    monkeypatch.delenv("HORA_NCCL_LIBRARY", raising=False)
    library = tmp_path / "nvidia/nccl/lib/libnccl.so.2"
    library.parent.mkdir(parents=True)
    library.touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia/nccl")])
    monkeypatch.setattr(steps.importlib.util, "find_spec", lambda name: spec)
    assert steps.installed_nccl() == str(library)
    library.unlink()
    assert not steps.installed_nccl()
    monkeypatch.setenv("HORA_NCCL_LIBRARY", "/opt/libnccl.so.2")
    assert steps.installed_nccl() == "/opt/libnccl.so.2"


def test_where_compute_sanitizer_is(tmp_path, monkeypatch):
    steps = module("gpu_steps")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    found = tmp_path / "bin/compute-sanitizer"
    found.touch(mode=0o755)
    assert steps.installed_sanitizer() == str(found)


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs steps that are shell commands; gives the code, what was printed, and the records."""
    tests, steps = module("gpu_tests"), module("gpu_steps")
    monkeypatch.setattr(tests, "machine", lambda command: dict(HERE))
    monkeypatch.setattr(tests, "sources_hash", lambda root: "1")
    monkeypatch.setattr(steps, "installed_sanitizer", lambda: "cs")
    monkeypatch.setattr(steps, "probe", lambda setting: ("true",))

    def go(commands, *options, **marks):
        made = [
            steps.Step("cpp", name, ("bash", "-c", command), {}, **marks)
            for name, command in commands.items()
        ]
        monkeypatch.setattr(steps, "steps", lambda setting: made)
        words = ["--results", str(tmp_path), "--build", str(tmp_path / "b"), *options]
        code = tests.main(words)
        lines = (tmp_path / "gpu-tests.jsonl").read_text().splitlines()
        return code, capsys.readouterr().out, [json.loads(line) for line in lines]

    return go


def results(records):
    return {one["step"]: one["result"] for one in records}


def test_each_step_is_recorded_with_machine_and_reason(run, tmp_path):
    code, said, records = run({"good": "echo fine", "bad": "echo oh; exit 3"})
    assert code == 1 and results(records) == {"good": "passed", "bad": "FAILED"}
    assert records[1]["reason"] == "code 3" and records[1]["gpu"] == "Chip"
    assert "test-gpu: FAILED: bad (code 3)" in said and "oh" in said
    page = (tmp_path / "gpu-tests.md").read_text()
    assert "Chip, driver 580.95; CUDA 13.0, PyTorch 2.11.0, NCCL 2.28.9" in page
    assert "| bad | FAILED: code 3 |" in page


def test_what_has_passed_is_not_repeated_before_the_sources_change(run, tmp_path, monkeypatch):
    count = {"counted": f"echo x >>{tmp_path}/count"}
    for options, times in (((), 1), ((), 1), (("--fresh",), 2)):
        assert run(count, *options)[0] == 0
        assert len((tmp_path / "count").read_text().split()) == times
    monkeypatch.setattr(module("gpu_tests"), "sources_hash", lambda root: "2")
    assert run(count)[0] == 0
    assert len((tmp_path / "count").read_text().split()) == 3


def test_what_failed_is_repeated_and_parts_add_up(run, tmp_path):
    commands = {"first": f"test -e {tmp_path}/mended", "second": "true"}
    assert run(commands, "--parts", "first")[0] == 1
    (tmp_path / "mended").touch()
    code, _, records = run(commands, "--parts", "second")
    assert code == 0 and results(records) == {"first": "FAILED", "second": "passed"}
    assert results(run(commands)[2]) == {"first": "passed", "second": "passed"}


def test_when_the_time_is_up_the_rest_is_left_to_the_next_call(run, monkeypatch):
    monkeypatch.setattr(module("gpu_tests"), "SHORTEST_S", 0.5)
    commands = {"quick": "true", "slow": "sleep 60", "last": "true"}
    code, said, records = run(commands, "--limit", "2")
    assert code == 75 and "goes on with what is not run yet" in said
    assert results(records) == {"quick": "passed", "slow": "not run yet", "last": "not run yet"}


def test_a_step_that_takes_too_long_has_failed_and_is_ended(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module("gpu_steps"), "STEP_LIMIT_S", 1)
    held = tmp_path / "held"  # at its end when nobody has it open any more
    os.mkfifo(held)
    end = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    code, _, records = run({"slow": f"(echo x; exec sleep 100) >{held} & wait"})
    assert code == 1 and records[0]["reason"] == "not done after 1 s"
    os.set_blocking(end, True)
    with open(end) as reader:
        assert reader.read() == "x\n"


@pytest.mark.parametrize(
    ("said", "wrong"), [("3 passed, 2 skipped", ""), ("5 skipped", "nothing ran"),
                        ("0 passed", "nothing ran")],
)  # fmt: skip
def test_tests_that_were_all_skipped_show_nothing(run, said, wrong):
    (record,) = run({"tests": f"echo '{said}'"}, what_output_lacks=module("gpu_steps").tests_ran)[2]
    assert record["reason"] == wrong


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("[  PASSED  ] 18 tests.\n[  SKIPPED ] 1 test, listed below:\n", ""),
        ("[  PASSED  ] 2 tests.\n[  SKIPPED ] 17 tests.\n", "17 tests were skipped, 2 passed"),
        ("", "0 tests were skipped, 0 passed"),
    ],
)
def test_kernels_that_were_skipped_show_nothing(said, wrong):
    assert module("gpu_steps").kernels_ran(said) == wrong


def test_speeds_that_were_not_measured_show_nothing():
    shown = module("gpu_steps").speeds_shown
    assert shown("pack_bench: skipped: no driver") == "nothing was measured"
    assert shown('{"way": "one large copy", "us": 1.0, "GB/s": 4000.0}') == ""


def test_findings_fail_a_step_that_ended_well(run, tmp_path):
    (tmp_path / "said").write_text(with_findings(OF_HORA))
    (record,) = run({"memcheck": f"cat {tmp_path}/said"}, is_sanitized=True)[2]
    assert record["reason"] == "1 findings, the first: Leaked 512 bytes at 0x7f566f200000"


@pytest.mark.parametrize("file", ["rank.{}/stdout", "run_1/attempt_0/{}/stdout.log"])
def test_every_rank_is_judged(tmp_path, setting, file):
    step = module("gpu_steps").Step("sanitizer", "s", ("true",), is_sanitized=True)
    for rank, text in enumerate((CLEAN, with_findings(WRITE))):
        path = tmp_path / file.format(rank)
        path.parent.mkdir(parents=True)
        path.write_text("1 passed in 2 s\n" + text)
    assert step.what_is_wrong(tmp_path).startswith("1 findings, the first: Invalid __global__")


def test_where_the_device_refuses_compute_sanitizer_it_is_skipped(run, monkeypatch):
    refusal = "========= Error: Device not supported. Please refer to the manual"
    words = ("bash", "-c", f"echo '{refusal}'; exit 1")
    monkeypatch.setattr(module("gpu_steps"), "probe", lambda setting: words)
    code, said, records = run({"one": "false", "two": "false"}, is_sanitized=True)
    assert code == 0 and results(records) == {"one": "skipped", "two": "skipped"}
    assert "skipped: one (Error: Device not supported." in said


def test_without_compute_sanitizer_it_is_skipped(run, monkeypatch):
    monkeypatch.setattr(module("gpu_steps"), "installed_sanitizer", lambda: None)
    code, said, _ = run({"one": "false"}, is_sanitized=True)
    assert code == 0 and "skipped: one (there is no compute-sanitizer" in said


def test_a_program_that_is_not_there(run, monkeypatch):
    monkeypatch.setattr(module("gpu_tests").subprocess, "Popen", raise_not_found)
    code, said, _ = run({"gone": "true"})
    assert code == 1 and "FAILED: gone ([Errno 2] No such file" in said


def raise_not_found(*_, **__):
    raise FileNotFoundError(2, "No such file or directory")


def test_parts_that_are_not_there(run):
    with pytest.raises(SystemExit):
        run({"one": "true"}, "--parts", "moon")


WHOLE = """
import sys
sys.path.insert(0, {tools!r})
import gpu_steps, gpu_tests
gpu_tests.machine = lambda command: {here!r}
gpu_steps.steps = lambda setting: [
    gpu_steps.Step("cpp", "first", ("true",)),
    gpu_steps.Step("cpp", "second", ("bash", "-c", "echo $$ >{folder}/second; exec sleep 100")),
]
sys.exit(gpu_tests.main(["--results", {folder!r}, "--build", {folder!r}]))
"""


def test_a_run_that_is_ended_ends_its_step_and_keeps_what_was_done(tmp_path):
    text = WHOLE.format(tools=str(ROOT / "tools"), here=HERE, folder=str(tmp_path))
    started = tmp_path / "second"
    os.mkfifo(started)
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.DEVNULL)
    child = int(started.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{child}").exists()
    (record,) = (tmp_path / "gpu-tests.jsonl").read_text().splitlines()
    assert json.loads(record)["result"] == "passed"


def test_sources_have_the_same_hash_wherever_they_are(tmp_path):
    tests = module("gpu_tests")
    before = tests.sources_hash(tmp_path)
    (tmp_path / "csrc/__pycache__").mkdir(parents=True)
    (tmp_path / "csrc/__pycache__/a.pyc").write_text("x")
    assert tests.sources_hash(tmp_path) == before
    (tmp_path / "csrc/a.cc").write_text("x")
    after = tests.sources_hash(tmp_path)
    assert after != before
    (tmp_path / "csrc/a.cc").rename(tmp_path / "csrc/b.cc")
    assert tests.sources_hash(tmp_path) not in (before, after)
