"""Measures hora on a GPU, in five minutes: packing, launching, a training step, host staging.

    python benchmarks/gpu/run.py --pack-bench build/gpu/tests/gpu/pack_bench

Writes benchmarks/results/gpu.jsonl and gpu.md after each part, and prints the latter in the end.
Each record has the GPU, the versions, the commit and the command. With ``--parts`` only some are
measured, with ``--limit`` those for which there is time; the figures of the others stay, where they
are of this commit on this machine. Without a GPU it says so and writes nothing. The exit code is 1
when a part could not be measured, 75 when the time was up before; a goal that is missed is not an
error. `make bench-gpu` builds what this needs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

import gpu_goals  # noqa: E402
import report  # noqa: E402

Record = dict[str, Any]
LIMIT_S = 240
TIME_IS_UP = 75
SECTIONS = ("pack", "submit", "step", "staged")
# Figures are of the same kind where these are the same.
SAME = ("gpu", "driver", "cuda", "torch", "nccl", "commit")
STAMP = (*SAME, "command", "when")


def records_of(section: str, output: str) -> list[Record]:
    """What a program printed: one record for each line that is a JSON object."""
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                found.append({"section": section, **json.loads(line)})
            except ValueError:
                continue
    return found


def run_part(section: str, words: Sequence[str], limit_s: float = LIMIT_S) -> list[Record]:
    """Runs one program; its records, or one with the reason why there are none."""
    print(f"bench-gpu: {shlex.join(words)}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return [{"section": section, "refusal": str(error)}]
    found = records_of(section, done.stdout)
    if done.returncode or not found:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()
        found.append({"section": section, "refusal": f"code {done.returncode}: {last[-1][:300]}"})
    return found


def machine(command: str) -> Record:
    """GPU, driver and versions: the first record."""
    import torch
    from hora import gpus

    facts = gpus.look()
    first = facts.gpus[0] if facts.gpus else None
    commit = os.environ.get("COMMIT") or report.commit()
    return report.context() | {
        "gpu": first.name if first else torch.cuda.get_device_name(0),
        "memory_bytes": first.memory_bytes if first else None,
        "driver": gpus.driver_version() or "unknown",
        "cuda": torch.version.cuda,
        "hora_cuda": facts.cuda or facts.problem,
        "nccl": gpus.nccl_text(facts.nccl_version) if facts.nccl_version else facts.nccl_problem,
        "commit": commit,
        "command": command,
    }


def parts(pack_bench: str) -> Iterator[tuple[str, list[str]]]:
    """Every program with the section that its records belong to."""
    python = sys.executable
    launch = [python, "-m", "hora.launch", "--no-prefix"]
    over_nccl = [*launch, "-np", "1", "--gpu-backend", "nccl", python]
    calling_it = ["env", "HORA_NCCL_ALONE=1", *over_nccl]
    yield "pack", [pack_bench]
    yield "pack", [python, str(HERE / "pack.py")]
    yield "submit", [*calling_it, str(HERE / "submit.py")]
    yield "step", [*over_nccl, str(HERE / "step.py")]
    yield "step", [*calling_it, str(HERE / "step.py")]
    staged = [*launch, "-np", "2", "--gpu-backend", "staged", python]
    yield "staged", [*staged, str(HERE / "staged.py")]


def kept(path: Path, here: Record) -> list[Record]:
    """Figures of an earlier run of this commit on this machine."""
    try:
        earlier = report.read_jsonl(path)
    except (OSError, ValueError):
        return []
    return [
        record
        for record in earlier
        if record["section"] != "machine" and all(record.get(name) == here[name] for name in SAME)
    ]


def write(folder: Path, records: list[Record]) -> str:
    """Both files; the page."""
    report.write_jsonl(folder / "gpu.jsonl", records)
    page = gpu_goals.page(records)
    (folder / "gpu.md").write_text(page, encoding="utf-8")
    return page


def has_gpu() -> bool:
    """Whether PyTorch finds one."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack-bench", required=True, metavar="F", help="the built program")
    parser.add_argument("--command", default="make bench-gpu", help="how this was started")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="D",
                        help="folder of gpu.jsonl and gpu.md (%(default)s)")  # fmt: skip
    parser.add_argument("--parts", default=" ".join(SECTIONS), help="what to measure (%(default)s)")
    parser.add_argument("--limit", type=float, default=0, metavar="S", help="stop after so long")
    args = parser.parse_args(words)
    chosen = args.parts.split()
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        parser.error(f"--parts: {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    if not has_gpu():
        print("bench-gpu: there is no GPU here that PyTorch can use: nothing was measured")
        return 0
    here = machine(args.command)
    stamp = {name: here[name] for name in STAMP}
    records = [here, *kept(args.output / "gpu.jsonl", here)]
    end = time.monotonic() + (args.limit or float("inf"))
    begun, left = set(), []
    for section, program in parts(args.pack_bench):
        if section not in chosen:
            continue
        left_s = end - time.monotonic()
        if left_s < 1:
            left.append(section)
            continue
        if section not in begun:  # its figures replace those of before
            begun.add(section)
            records = [one for one in records if one["section"] != section]
        records += [one | stamp for one in run_part(section, program, min(left_s, LIMIT_S))]
        write(args.output, records)
    print(write(args.output, records))
    if left:
        rest = " ".join(dict.fromkeys(left))
        print(f'bench-gpu: the time was up; go on with: make bench-gpu PARTS="{rest}"')
        return TIME_IS_UP
    return int(any("refusal" in record for record in records))


if __name__ == "__main__":
    sys.exit(main())
