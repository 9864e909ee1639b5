"""When to do what about a job that ends: a short plan of ever stronger steps, each at its time."""

from __future__ import annotations

import time
from collections import deque
from enum import Enum


class Step(Enum):
    """What happens when a step's time has come."""

    BLAME = "say who failed first"
    TERMINATE = "SIGTERM"
    KILL = "SIGKILL"
    ABANDON = "give up waiting"


class Escalation:
    """The steps still to come. One thread; never blocks; time is ``time.monotonic`` seconds."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, Step]] = deque()

    def plan(self, *steps: tuple[float, Step]) -> None:
        """Replaces the plan; each step comes that many seconds after the one before it."""
        self._steps.clear()
        due = time.monotonic()
        for delay_s, step in steps:
            due += delay_s
            self._steps.append((due, step))

    def seconds_left(self) -> float | None:
        """Until the next step; None when there is none."""
        return max(0.0, self._steps[0][0] - time.monotonic()) if self._steps else None

    def take_due(self) -> Step | None:
        """Removes and returns the step whose time has come, if any."""
        if self._steps and self._steps[0][0] <= time.monotonic():
            return self._steps.popleft()[1]
        return None
