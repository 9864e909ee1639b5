"""What compute-sanitizer found, without what is known to be somebody else's.

    python tools/sanitizer_errors.py [--known tests/gpu/sanitizer_known.txt] OUTPUT…

Prints the findings that remain; the exit code is 1 when there are any, or when an output is not of
a run that came to its end. The tool's own exit code cannot tell: it counts what PyTorch and NCCL
leave behind, too.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Verdict", "findings", "judge", "read_known"]

_LINE = re.compile(r"^=========(?: (?P<text>.*))?$")
# Not findings: headings and counts.
_SUMMARY = re.compile(r"^(COMPUTE-SANITIZER|(ERROR|LEAK|RACECHECK|SYNCCHECK)[ -]SUMMARY)")
_END = re.compile(r"^(ERROR|RACECHECK|SYNCCHECK) SUMMARY")
# A finding that names one of these on its way is hora's, whoever else it names.
_OWN = re.compile(r"\bhora::|\bhora_cuda\.so|\b_(core|torch_ops)[.\w-]*\.so|\bgpu_test\b")


@dataclass
class Verdict:
    """``remaining``: findings nobody else is known for; ``known``: how many are left out.

    ``problem`` says why the output proves nothing; else it is empty.
    """

    remaining: list[str] = field(default_factory=list)
    known: int = 0
    problem: str = ""

    @property
    def is_clean(self) -> bool:
        return not self.remaining and not self.problem


def findings(output: str) -> list[str]:
    """Each finding with its indented lines; what the program itself printed is left out."""
    found: list[str] = []
    is_open = False
    for line in output.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue  # of the program, which may print in between
        text = (match["text"] or "").rstrip()
        if not text:
            is_open = False
        elif text.startswith("    "):
            if is_open:
                found[-1] += "\n" + text
        else:
            is_open = not _SUMMARY.match(text)
            if is_open:
                found.append(text)
    return found


def judge(output: str, known: Iterable[re.Pattern[str]] = ()) -> Verdict:
    """Sorts the findings of one run."""
    patterns, verdict = list(known), Verdict()
    for finding in findings(output):
        if not _OWN.search(finding) and any(pattern.search(finding) for pattern in patterns):
            verdict.known += 1
        else:
            verdict.remaining.append(finding)
    marked = (match["text"] or "" for line in output.splitlines() if (match := _LINE.match(line)))
    if not any(_END.match(text) for text in marked):
        verdict.problem = "compute-sanitizer printed no summary: it did not come to its end"
    return verdict


def read_known(path: Path) -> list[re.Pattern[str]]:
    """One regular expression in a line, searched in the whole finding; ``#`` begins a comment."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [re.compile(line, re.DOTALL) for line in lines if line and not line.startswith("#")]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--known", type=Path, metavar="F", help="findings that are not ours")
    parser.add_argument("outputs", nargs="+", type=Path, metavar="OUTPUT")
    args = parser.parse_args(words)
    known, bad = read_known(args.known) if args.known else [], False
    for path in args.outputs:
        verdict = judge(path.read_text(encoding="utf-8", errors="replace"), known)
        for text in [*verdict.remaining, *filter(None, [verdict.problem])]:
            print(f"{path}: {text}")
        if verdict.known:
            print(f"{path}: {verdict.known} findings of others left out")
        bad = bad or not verdict.is_clean
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
