"""Writes the table of results in README.md from the last whole run.

    python benchmarks/peers/readme_table.py [--check]

The table stands between two comments of the README. With --check nothing is written; the exit code
is 1 when the table is not that of the run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import report
from goals import NATIVE, Figures, text
from protocol import format_bytes

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- results: written by benchmarks/peers/readme_table.py -->", "<!-- end -->"
SIZES = (4, 1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 26)
FULL_NAMES = {
    "openmpi": "Open MPI",
    "mpich": "MPICH",
    "intelmpi": "Intel MPI",
    "oneccl": "oneCCL",
}


def _cell(value: float | None) -> str:
    return "–" if value is None else text(value)


def row(figures: Figures, nbytes: int, ranks: int) -> str:
    """One size: hora copying, zero-copy and from Python; the best native peer; gloo."""
    core = figures.us("hora-core", nbytes, ranks=ranks)
    zero = figures.us("hora-core", nbytes, "zero", ranks)
    python = figures.us("hora", nbytes, ranks=ranks)
    gloo = figures.us("gloo", nbytes, ranks=ranks)
    best = figures.best(NATIVE, nbytes, ranks)
    other = "–" if best is None else f"{text(best[0])} ({FULL_NAMES[best[1]]})"
    native = "–" if core is None or best is None else f"**{best[0] / core:.1f}×**"
    if zero is not None and best is not None and nbytes >= 1 << 16:
        native += f" / **{best[0] / zero:.1f}×**"
    above = "–" if python is None or gloo is None else f"**{gloo / python:.0f}×**"
    cells = (_cell(core), _cell(zero), other, native, _cell(python), _cell(gloo), above)
    return f"| {format_bytes(nbytes)} | {' | '.join(cells)} |"


def table(records: list[dict[str, Any]]) -> str:
    """The lines between the two comments."""
    machine = next(r for r in records if r["section"] == "machine")
    figures = Figures(records)
    heads = "C++ | zero-copy | best of MPI and oneCCL | ratio | Python | gloo | ratio"
    lines = []
    for ranks in (2, 4):
        lines += [f"| {ranks} ranks, µs | {heads} |", "|---|---|---|---|---|---|---|---|"]
        lines += [row(figures, nbytes, ranks) for nbytes in SIZES]
        lines += [""]
    peers = ", ".join(machine["peers"].values())
    lines += [
        f"Medians of one interleaved run, float32 allreduce, on {machine['cores']} cores of "
        f"{machine['cpu']}; torch {machine['torch']}; {peers}; {machine['when'][:10]}.",
    ]
    return "\n".join(lines)


def replaced(page: str, inside: str) -> str:
    """The page with another text between the comments. Raises ``ValueError`` without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no line {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}\n{inside}\n{END}{after}"


def main(words: list[str]) -> int:
    page = README.read_text(encoding="utf-8")
    written = replaced(page, table(report.read_jsonl(report.LATEST)))
    if "--check" in words:
        return int(written != page)
    README.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
