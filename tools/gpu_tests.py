"""Runs the steps of tools/gpu_steps.py on this machine's GPU and records each as it ends.

    python tools/gpu_tests.py [--parts "cpp np1 …"] [--limit S] [--fresh] [--list]

A step that passed with the same sources on the same GPU is not repeated, so a run that was cut
short, by whatever, is taken up by the next. Writes RESULTS/gpu-tests.jsonl and gpu-tests.md. Exit
code 0: all passed or cannot be here; 1: something failed; 75: the time was up before the end.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gpu_steps
from gpu_steps import Setting, Step

Record = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SOURCES = ("CMakeLists.txt", "cmake", "csrc", "python", "tests/gpu", "tests/cpp/collectives",
           "tests/cpp/simulated_device", "tests/python/parallel", "tests/python/simulated_gpu.py",
           "tools/gpu_steps.py", "tools/gpu_tests.py", "tools/sanitizer_errors.py")  # fmt: skip
PASSED, FAILED, SKIPPED, CUT = "passed", "FAILED", "skipped", "not run yet"
SHORTEST_S = 5
TIME_IS_UP = 75


def sources_hash(root: Path) -> str:
    """The same for the same files, wherever and whenever they were checked out."""
    found = hashlib.sha256()
    for name in SOURCES:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            parts = path.relative_to(root).parts
            if path.is_file() and not any(p == "__pycache__" or p.startswith(".") for p in parts):
                found.update(f"{'/'.join(parts)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def machine(command: str) -> Record:
    """GPU, driver, versions, commit: as benchmarks/gpu/run.py records them."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "gpu"))
    import run

    found: Record = run.machine(command)
    return {name: value for name, value in found.items() if name not in ("section", "when")}


class Ending:
    """SIGTERM ends the run only where what was started is known, and so ends, too."""

    def __init__(self) -> None:
        self._is_wanted = self._is_allowed = False

    def handle(self, *_: object) -> None:
        """Of the signal."""
        self._is_wanted = True
        if self._is_allowed:
            raise SystemExit(128 + signal.SIGTERM)

    def allow(self, is_allowed: bool) -> None:
        """Raises what came while it was not allowed."""
        self._is_allowed = is_allowed
        if is_allowed and self._is_wanted:
            raise SystemExit(128 + signal.SIGTERM)


ENDING = Ending()


def run_command(
    command: Sequence[str], environ: dict[str, str], output: Path, limit_s: float
) -> int:
    """The exit code; -1 where the time was not enough. What was started ends before this does."""
    with output.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, **environ}, start_new_session=True,
        )  # fmt: skip
        try:
            ENDING.allow(True)
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            ENDING.allow(False)
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """First politely, so that a launcher ends its ranks."""
    for how, patience_s in ((signal.SIGTERM, 15.0), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue


def run_step(step: Step, setting: Setting, limit_s: float, is_cut: bool) -> Record:
    """Result, reason and seconds. Where ``is_cut``, the limit is not the step's own."""
    print(f"test-gpu: {step.name}: {shlex.join(step.command)}", flush=True)
    folder = setting.logs / step.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begin = time.monotonic()
    try:
        code = run_command(step.command, step.environ, folder / "output", limit_s)
    except OSError as error:
        return {"result": FAILED, "reason": str(error), "seconds": 0}
    seconds = round(time.monotonic() - begin)
    if code == -1 and is_cut:
        return {"result": CUT, "reason": "the time was up", "seconds": seconds}
    if code == -1:
        reason = f"not done after {limit_s:.0f} s"
    else:
        reason = f"code {code}" if code else step.what_is_wrong(folder)
    _show(step, folder, 40 if reason else 3)
    return {"result": FAILED if reason else PASSED, "reason": reason, "seconds": seconds}


def _show(step: Step, folder: Path, lines: int) -> None:
    """The end of what the first rank said; of what everybody said, errors too, when it failed."""
    paths = step.outputs(folder)[:1]
    if lines > 3:
        paths = sorted({folder / "output", *folder.glob("**/std*")})
    for path in paths:
        end = path.read_text(errors="replace").splitlines()[-lines:]
        if len(paths) > 1 and end:
            print(f"--- the end of {path}")
        print("\n".join(end))


def why_no_sanitizer(setting: Setting) -> str:
    """Why compute-sanitizer cannot be used; empty when it can."""
    if not setting.sanitizer:
        return "there is no compute-sanitizer (it is a part of CUDA's toolkit)"
    setting.logs.mkdir(parents=True, exist_ok=True)
    said = setting.logs / "sanitizer-probe"
    code = run_command(gpu_steps.probe(setting), {}, said, 120)
    text = said.read_text(errors="replace")
    for line in text.splitlines():
        if "not supported" in line:
            return line.strip("= ")
    return "" if code == 0 else f"compute-sanitizer ends with code {code} on one test: {said}"


def passed_before(path: Path, here: Record) -> dict[str, Record]:
    """The last record of each step, of the same sources on the same machine."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    records = [json.loads(line) for line in lines if line.strip()]
    same = ("sources", "gpu", "driver", "hora_cuda", "torch", "nccl")
    return {one["step"]: one for one in records if all(one.get(k) == here.get(k) for k in same)}


def take(
    chosen: Iterable[Step], setting: Setting, known: dict[str, Record], end: float
) -> Iterator[tuple[Step, Record]]:
    """Runs, one by one, what has not passed yet; ``end`` is when to stop (``time.monotonic``)."""
    no_sanitizer: str | None = None
    for step in chosen:
        before = known.get(step.name, {})
        if before.get("result") == PASSED:
            yield step, before
            continue
        left_s = end - time.monotonic()
        if left_s < SHORTEST_S:
            yield step, {"result": CUT, "reason": "the time was up", "seconds": 0}
            continue
        if step.is_sanitized and no_sanitizer is None:
            no_sanitizer = why_no_sanitizer(setting)
        if step.is_sanitized and no_sanitizer:
            yield step, {"result": SKIPPED, "reason": no_sanitizer, "seconds": 0}
            continue
        limit_s = min(left_s, gpu_steps.STEP_LIMIT_S)
        yield step, run_step(step, setting, limit_s, limit_s < gpu_steps.STEP_LIMIT_S)


def page(records: Sequence[Record]) -> str:
    """What ran, with what came of it, and on what."""
    here = records[0]
    lines = [
        "# Tests on a GPU", "",
        f"{here['gpu']}, driver {here['driver']}; CUDA {here['cuda']}, PyTorch {here['torch']}, "
        f"NCCL {here['nccl']}; {here['cpu']}; commit {here['commit']}: `{here['command']}`", "",
        "| step | result | seconds | when |", "|---|---|---|---|",
    ]  # fmt: skip
    for one in records:
        result = one["result"] + (f": {one['reason']}" if one["reason"] else "")
        lines.append(f"| {one['step']} | {result} | {one['seconds']} | {one['when']} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, records: Sequence[Record]) -> None:
    """Both files; nothing is half written."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    for name, text in (("gpu-tests.jsonl", lines), ("gpu-tests.md", page(records))):
        new = folder / f"{name}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(folder / name)


def run_all(chosen: Sequence[Step], setting: Setting, args: argparse.Namespace) -> int:
    """Runs them, records each at once, and reports."""
    end = time.monotonic() + (args.limit or float("inf"))
    here = machine(args.command) | {"sources": sources_hash(ROOT)}
    known = {} if args.fresh else passed_before(args.results / "gpu-tests.jsonl", here)
    records: dict[str, Record] = dict(known)
    own: list[Record] = []
    for step, outcome in take(chosen, setting, known, end):
        record = {"step": step.name, **outcome}
        if "when" not in outcome:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            record |= {"when": now, "run": shlex.join(step.command), **here}
        records[step.name] = record
        own.append(record)
        write(args.results, list(records.values()))
    return report(own, args.results)


def report(records: Sequence[Record], results: Path) -> int:
    """Prints a line for each step; the exit code."""
    for one in records:
        reason = f" ({one['reason']})" if one["reason"] else f" ({one['seconds']} s)"
        print(f"test-gpu: {one['result']}: {one['step']}{reason}")
    print(f"test-gpu: recorded in {results / 'gpu-tests.md'}")
    found = {one["result"] for one in records}
    if FAILED in found:
        return 1
    if CUT in found:
        print("test-gpu: the time was up; the same command goes on with what is not run yet")
        return TIME_IS_UP
    return 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/gpu"), metavar="D")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="D")
    parser.add_argument("--parts", default=" ".join(gpu_steps.PARTS), help="parts or steps")
    parser.add_argument("--limit", type=float, default=0, metavar="S", help="stop after so long")
    parser.add_argument("--command", default="make test-gpu", help="how this was started")
    parser.add_argument("--fresh", action="store_true", help="repeat what has passed")
    parser.add_argument("--list", action="store_true", help="print the steps and run nothing")
    args = parser.parse_args(words)
    sanitizer = gpu_steps.installed_sanitizer() or ""
    logs, nccl = args.build / "test-logs", gpu_steps.installed_nccl()
    setting = Setting(sys.executable, args.build, logs, sanitizer, nccl)
    wanted, every = args.parts.split(), list(gpu_steps.steps(setting))
    names = {*gpu_steps.PARTS, *(one.name for one in every)}
    if unknown := sorted(set(wanted) - names):
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(sorted(names))}")
    chosen = [one for one in every if one.part in wanted or one.name in wanted]
    if args.list:
        print(*(f"{one.part}: {one.name}: {shlex.join(one.command)}" for one in chosen), sep="\n")
        return 0
    before = signal.signal(signal.SIGTERM, ENDING.handle)
    try:
        return run_all(chosen, setting, args)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
