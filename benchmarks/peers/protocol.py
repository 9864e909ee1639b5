"""The orders that workers take and the answers that they give, a line each (workers/worker.h)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class ProtocolError(ValueError):
    """A line that is no answer."""


def parse_bytes(text: str) -> int:
    """``64M`` → 67108864. Raises ``ValueError``."""
    match = re.fullmatch(r"(\d+)\s*([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is no size: write 4, 64K, 1M or 2G")
    return int(match[1]) * UNITS.get(match[2].upper(), 1)


def format_bytes(count: int) -> str:
    """67108864 → ``64 MiB``."""
    for unit, letter in ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {letter}B"
    return f"{count} B"


@dataclass(frozen=True)
class Case:
    """What is measured: one collective of one size."""

    op: str
    nbytes: int
    dtype: str = "float32"
    mode: str = "default"

    def order(self, samples: int, calls: int, check: bool) -> str:
        """The line that asks every rank of a peer for it."""
        what = f"{self.op} {self.dtype} {self.nbytes} {self.mode}"
        return f"run {what} {samples} {calls} {int(check)}"


@dataclass(frozen=True)
class Burst:
    """Many float32 allreduces that are submitted together; only the Python workers know it."""

    name: str
    elements: tuple[int, ...]  # of each tensor
    mode: str = "default"

    @property
    def nbytes(self) -> int:
        """Of all tensors together."""
        return 4 * sum(self.elements)

    def order(self, samples: int, calls: int, check: bool) -> str:
        """The line; a burst is always checked, and is long enough to be timed by itself."""
        return f"burst {','.join(map(str, self.elements))} {self.mode} {samples}"


@dataclass
class Answer:
    """What one rank, or all of them together, replied."""

    wrong: int = 0
    times_us: list[float] = field(default_factory=list)  # per call, one for each sample
    refusal: str = ""  # why this cannot be done, in which case there are no times
    facts: list[float] = field(default_factory=list)


def parse_answer(line: str) -> Answer:
    """One rank's line. Raises ``ProtocolError``."""
    kind, _, rest = line.strip().partition(" ")
    if kind in ("unsupported", "error"):
        return Answer(refusal=rest or kind)
    try:
        if kind == "ok":
            wrong, *times = rest.split()
            return Answer(wrong=int(wrong), times_us=[float(time) for time in times])
        if kind in ("ready", "facts"):
            return Answer(facts=[float(word) for word in rest.split()])
    except ValueError as error:
        raise ProtocolError(f"not an answer: {line!r}") from error
    raise ProtocolError(f"not an answer: {line!r}")


def merge(answers: list[Answer]) -> Answer:
    """A collective is over when its slowest rank is: the largest time of each sample.

    Wrong elements of all ranks add up; one refusal refuses. Facts are rank 0's.
    """
    for answer in answers:
        if answer.refusal:
            return answer
    times = [max(sample) for sample in zip(*(a.times_us for a in answers), strict=True)]
    return Answer(sum(a.wrong for a in answers), times, "", answers[0].facts)


def bus_factor(op: str, ranks: int) -> float:
    """What turns algbw into busbw, the load of a wire (nccl-tests, doc/PERFORMANCE.md)."""
    if op in ("allreduce", "burst"):
        return 2 * (ranks - 1) / ranks
    if op == "broadcast":
        return 1.0
    return (ranks - 1) / ranks
