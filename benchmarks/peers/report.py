"""What every benchmark writes beside its figures: the machine, the versions, the commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
LATEST = RESULTS / "peers.jsonl"


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """The checked-out commit, with ``+`` when the tree has changes; else "unknown".

    Results that were written before are none.
    """
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "-C", here, "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
        dirty = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "-uno", "--", ":/", f":!{RESULTS}"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def context() -> dict[str, Any]:
    """Machine, versions and commit: the first record of a run."""
    import hora
    import torch

    return {
        "section": "machine",
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hora": hora.__version__,
        "commit": commit(),
    }


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """One line per record; what the file held before is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All records. Raises ``OSError`` and ``ValueError``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
