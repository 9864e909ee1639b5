"""What the ranks of ``hora test`` have told, folded into one verdict per part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DYING",
    "FAILED",
    "INSTALLATION",
    "PASSED",
    "SKIPPED",
    "WORK",
    "Report",
    "Verdict",
]

INSTALLATION, START, DYING, SPEED = "installation", "start", "a dying rank", "speed"
# In the order in which the ranks come to them (self_test_worker.py).
WORK = (
    "allreduce", "grouped allreduce", "allgather", "broadcast", "alltoall", "reducescatter",
    "process sets", "join", "optimizer",
)  # fmt: skip
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_DETECTION_LIMIT_S = 1.0
# Errors of ranks that only suffered from another one's.
_CONSEQUENCES = ("PeerFailedError", "ShutDownError")
_MOST_TOLD = 3
_FIGURES = {"allreduce_4B_us", "allreduce_64MiB_ms", "allreduce_64MiB_busbw_GBps"}


@dataclass(frozen=True)
class Verdict:
    """One line: ``state`` is "passed", "failed" or "skipped"."""

    part: str
    state: str
    detail: str


@dataclass
class _Told:
    """Of one part: by rank its checks and wrong results."""

    checks: dict[int, int] = field(default_factory=dict)
    wrong: dict[int, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Report:
    """Takes messages of the ranks, decides parts as soon as all ranks have told. Not thread-safe.

    A message without sense raises LookupError, TypeError or ValueError.
    """

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.figures: dict[str, float] = {}
        self.size = 0
        self.hosts = 0
        self._hellos: set[int] = set()
        self._told: dict[str, _Told] = {part: _Told() for part in WORK}
        self._errors: list[tuple[bool, int, str]] = []  # a consequence, rank, text
        self._survivors: dict[int, tuple[float, str, int]] = {}

    @property
    def passed(self) -> bool:
        """Whether nothing has failed so far."""
        return all(verdict.state != FAILED for verdict in self.verdicts)

    @property
    def decided(self) -> set[str]:
        """Parts with a verdict."""
        return {verdict.part for verdict in self.verdicts}

    def take(self, message: Mapping[str, Any]) -> None:
        """What a rank says."""
        kind, rank = message["kind"], int(message["rank"])
        if kind == "hello":
            self._hellos.add(rank)
            self.size = int(message["size"])
            self.hosts = max(self.hosts, int(message["hosts"]))
            if len(self._hellos) == self.size:
                hosts = f" on {self.hosts} hosts" if self.hosts > 1 else ""
                self.add(START, PASSED, f"{self.size} ranks{hosts}")
        elif kind == "wrong":
            self._told[message["part"]].texts.append(f"rank {rank}: {message['text']}")
        elif kind == "part":
            told = self._told[message["part"]]
            told.checks[rank], told.wrong[rank] = int(message["checks"]), int(message["wrong"])
            told.notes = [str(note) for note in message["notes"]]
            self._decide(message["part"], told)
        elif kind == "error":
            text = f"rank {rank}: {message['type']}: {message['text']}"
            self._errors.append((message["type"] in _CONSEQUENCES, rank, text))
        elif kind == "figure":
            self.figures[str(message["name"])] = float(message["value"])
        elif kind == "survivor":
            told_of_death = (float(message["seconds"]), message["text"], int(message["victim"]))
            self._survivors[rank] = told_of_death

    def add(self, part: str, state: str, detail: str) -> None:
        """A verdict that was reached elsewhere."""
        self.verdicts.append(Verdict(part, state, detail))

    def end_work(self, reason: str) -> None:
        """All that is not decided when the first job has ended has failed, and why.

        ``reason``: of the launcher, "" when the job ended as it should.
        """
        why = min(self._errors)[2] if self._errors else reason or "the ranks ended without a word"
        for part in (START, *WORK):
            if part in self.decided:
                continue
            if why:
                told = self._told.get(part)
                texts = told.texts[:_MOST_TOLD] if told else []
                self.add(part, FAILED, "; ".join([*texts, why]))
                why = ""
            else:
                self.add(part, SKIPPED, "not reached")
        if self.figures.keys() >= _FIGURES:
            self.add(SPEED, PASSED, self._speed())
        else:
            self.add(SPEED, FAILED if why else SKIPPED, why or "not reached")
        if reason and self.passed:
            self.add("end", FAILED, reason)

    def end_death(self, reason: str) -> None:
        """Whether all ranks but the dead one have named it in time."""
        problems = []
        for rank in range(self.size - 1):
            if rank not in self._survivors:
                problems.append(f"rank {rank} said nothing")
                continue
            seconds, text, victim = self._survivors[rank]
            if f"rank {victim}" not in text:
                problems.append(f"rank {rank} does not name rank {victim}: {text or 'no error'!r}")
            elif seconds > _DETECTION_LIMIT_S:
                problems.append(f"rank {rank} took {seconds:.2f} s to name rank {victim}")
        if problems:
            problems = problems[:_MOST_TOLD] + [reason] * bool(reason)
            self.add(DYING, FAILED, "; ".join(problems))
            return
        slowest = max(seconds for seconds, _, _ in self._survivors.values())
        victim = self.size - 1
        self.add(DYING, PASSED, f"rank {victim} named by all others within {slowest * 1e3:.0f} ms")

    def _decide(self, part: str, told: _Told) -> None:
        if len(told.checks) < self.size:
            return
        checks, wrong = sum(told.checks.values()), sum(told.wrong.values())
        if wrong:
            what = "; ".join(told.texts[:_MOST_TOLD])
            self.add(part, FAILED, f"{wrong} of {checks} checks: {what}")
        else:
            self.add(part, PASSED, ", ".join([f"{checks} checks", *told.notes]))

    def _speed(self) -> str:
        figures = self.figures
        return (
            f"allreduce of 4 B in {figures['allreduce_4B_us']:.1f} µs, of 64 MiB in "
            f"{figures['allreduce_64MiB_ms']:.1f} ms "
            f"({figures['allreduce_64MiB_busbw_GBps']:.2f} GB/s bus bandwidth)"
        )
