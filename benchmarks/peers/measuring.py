"""Peers take turns: one order each, round after round, so that noise is everybody's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from driver import PeerError, RunningPeer
from protocol import Answer, Burst, Case, bus_factor

# Enough time per turn that the clock and the scheduler do not matter, little enough that a whole
# comparison takes minutes.
TURN_S = 0.06
MAX_SAMPLES = 40
SAMPLE_US = 200.0  # calls shorter than this are timed several at once


@dataclass(frozen=True)
class Entrant:
    """What one peer is asked to do."""

    peer: RunningPeer
    work: Case | Burst

    @property
    def name(self) -> str:
        """Of the peer."""
        return self.peer.peer.name


@dataclass
class Tally:
    """What one entrant has reached so far."""

    medians_us: list[float] = field(default_factory=list)  # one per round
    minimum_us: float = float("inf")
    wrong: int = 0
    refusal: str = ""

    def add(self, answer: Answer) -> None:
        """Counts one turn in."""
        self.medians_us.append(statistics.median(answer.times_us))
        self.minimum_us = min(self.minimum_us, *answer.times_us)
        self.wrong += answer.wrong

    @property
    def median_us(self) -> float:
        """Over the rounds."""
        return statistics.median(self.medians_us)


@dataclass(frozen=True)
class Plan:
    """How often to call in one turn."""

    samples: int
    calls: int

    @classmethod
    def for_time(cls, call_us: float, turn_s: float = TURN_S) -> Plan:
        """For calls that take about ``call_us``."""
        call_us = max(call_us, 0.05)
        calls = max(1, min(200, round(SAMPLE_US / call_us)))
        samples = int(turn_s * 1e6 / (calls * call_us))
        return cls(max(3, min(MAX_SAMPLES, samples)), calls)


def interleave(
    entrants: Sequence[Entrant], rounds: int, advance: Callable[[], None] = lambda: None
) -> dict[Entrant, Tally]:
    """Asks every entrant by turns, ``rounds`` times; a turn before these checks and finds plans.

    An entrant that refuses or breaks is left out of later rounds; its tally says why. ``advance``
    is called after every round, the first included.
    """
    tallies = {entrant: Tally() for entrant in entrants}
    plans: dict[Entrant, Plan] = {}
    for turn in range(rounds + 1):
        for entrant, tally in tallies.items():
            if tally.refusal:
                continue
            try:
                if turn == 0:
                    plans[entrant] = _first_turn(entrant, tally)
                else:
                    plan = plans[entrant]
                    order = entrant.work.order(plan.samples, plan.calls, False)
                    _count(tally, entrant.peer.ask(order))
            except PeerError as error:
                tally.refusal = str(error)
        advance()
    return tallies


def _count(tally: Tally, answer: Answer) -> None:
    tally.refusal = answer.refusal
    if not answer.refusal:
        tally.add(answer)


def _first_turn(entrant: Entrant, tally: Tally) -> Plan:
    """Checks, and finds out how often to call; what is short is called often to be warm by then."""
    plan = Plan(2, 1)
    for guess in (plan, Plan(3, 20)):
        check = guess is plan and entrant.name != "memory"
        answer = entrant.peer.ask(entrant.work.order(guess.samples, guess.calls, check))
        tally.refusal = answer.refusal
        if answer.refusal:
            return plan
        tally.wrong += answer.wrong
        shortest = min(answer.times_us)
        if shortest > 1000:
            break
    return Plan.for_time(shortest)


def record(entrant: Entrant, tally: Tally) -> dict[str, Any]:
    """The columns of nccl-tests, and what tells this record from others; times in µs."""
    work, ranks = entrant.work, entrant.peer.ranks
    op = work.op if isinstance(work, Case) else f"burst.{work.name}"
    what: dict[str, Any] = {
        "peer": entrant.name,
        "mode": work.mode,
        "ranks": ranks,
        "op": op,
        "dtype": work.dtype if isinstance(work, Case) else "float32",
        "bytes": work.nbytes,
    }
    if tally.refusal:
        return what | {"refusal": tally.refusal}
    algbw = work.nbytes / tally.median_us / 1e3
    factor = 1.0 if entrant.name == "memory" else bus_factor(op.partition(".")[0], ranks)
    return what | {
        "time_us": round(tally.median_us, 4),
        "min_us": round(tally.minimum_us, 4),
        "rounds_us": [round(time, 4) for time in tally.medians_us],
        "algbw_GBps": round(algbw, 5),
        "busbw_GBps": round(algbw * factor, 5),
        "wrong": tally.wrong,
    }
