"""Run Horovod's own PyTorch tests against hora, through ``horarun --horovod``.

    git clone https://github.com/horovod/horovod
    pip install mock packaging
    python tools/horovod_suite.py ./horovod -np 2

The tests stay where they are; nothing of them is part of this repository. Prints what passed,
failed and was skipped, with reasons, on every rank; exit code 1 when anything failed on any rank.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Newer than those tests, which try every optimizer on parameters of any shape: it takes matrices.
_WITHOUT_MUON = """
import torch

def _subclasses():
    return [c for c in type.__subclasses__(torch.optim.Optimizer) if c.__name__ != "Muon"]

torch.optim.Optimizer.__subclasses__ = _subclasses
"""
_SUMMARY = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED)\s+(.*)$", re.MULTILINE)


def main() -> int:
    """Runs the suite once and prints the outcome of every rank."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkout", type=Path, help="a checkout of Horovod")
    parser.add_argument("-np", type=int, default=2, metavar="N", help="ranks (default 2)")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="as of pytest")
    arguments = parser.parse_args()
    suite = arguments.checkout / "test" / "parallel" / "test_torch.py"
    if not suite.is_file():
        parser.error(f"{arguments.checkout} is not a checkout of Horovod: it has no {suite}")
    with tempfile.TemporaryDirectory() as folder:
        return _run(suite.resolve(), Path(folder), arguments.np, arguments.k)


def _run(suite: Path, folder: Path, ranks: int, expression: str) -> int:
    (folder / "without_muon.py").write_text(_WITHOUT_MUON)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    environment.setdefault("HORA_STALL_ABORT_SECONDS", "60")
    command = [
        *("horarun", "--horovod", "-np", str(ranks), "--quiet", "--output-dir", str(folder)),
        *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"),
        *("-p", "without_muon", str(suite)),
        *(["-k", expression] if expression else []),
    ]
    code = subprocess.run(command, env=environment, cwd=suite.parent, check=False).returncode
    failed = code != 0
    for log in sorted(folder.glob("rank.*/stdout")):
        found = _SUMMARY.findall(log.read_text(errors="replace"))
        counts = Counter(outcome for outcome, _ in found)
        failed |= counts["FAILED"] + counts["ERROR"] > 0
        numbers = ", ".join(f"{n} {outcome.lower()}" for outcome, n in sorted(counts.items()))
        print(f"{log.parent.name}: {numbers or 'ended before its summary'}")
        for outcome, text in sorted(found):
            if outcome != "PASSED":
                print(f"    {outcome.lower()}: {text}")
        if not found:
            print(log.read_text(errors="replace")[-4000:])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
