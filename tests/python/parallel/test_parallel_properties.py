"""Random operations against NumPy, bit for bit: kinds, dtypes, shapes, layouts, scales, groups,
process sets, and the order in which each rank submits them.

Rank 0 draws the cases, and shrinks one that fails on any rank; the others play what it sends.
HORA_PROPERTY_CASES sets how many (default 1000 a run: `make test` runs 2 and 4 ranks).
"""

from __future__ import annotations

import os
import traceback

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_cases import Part, cases

CASES = int(os.environ.get("HORA_PROPERTY_CASES", "1000"))


@pytest.fixture(scope="module")
def sets(group):
    """Overlapping and disjoint process sets by their ranks, the global one included."""
    size = group.size()
    wanted = {tuple(range(size)): group.global_process_set}
    for ranks in ([0], [size - 1], [0, 1], [1, 2], [2, 3], [1, 3], [0, 2, 3], [0, 1, 2]):
        if tuple(ranks) not in wanted and max(ranks) < size:
            wanted[tuple(ranks)] = group.add_process_set(ranks)
    yield wanted
    for ranks, process_set in wanted.items():
        if len(ranks) < size:
            group.remove_process_set(process_set)


def play(hvd, sets, case) -> str:
    """Runs this rank's part; what went wrong, or nothing."""
    problems = []

    def attempt(action, part) -> bool:
        try:
            action()
        except Exception:
            problems.append(f"{part.name}: {traceback.format_exc()}")
            return False
        return True

    parts = {
        number: Part(hvd, sets, each["operation"], f"property.{number}")
        for number, each in enumerate(case)
        if hvd.rank() in each["operation"]["ranks"]
    }
    order = [parts[number] for number in case[0]["place"][hvd.rank()] if number in parts]
    # What one rank refuses, all refuse; the rest must go on.
    started = [part for part in order if attempt(part.start, part)]
    for part in reversed(started):
        attempt(part.finish, part)
    return "\n".join(problems)


@pytest.mark.ranks(2)
def test_random_operations(hvd, sets):
    torch.set_num_threads(1)
    if hvd.rank() > 0:
        while (case := hvd.broadcast_object(None, name="property.case")) is not None:
            hvd.allgather_object(play(hvd, sets, case), name="property.verdict")
        return

    played = 0

    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize="HORA_PROPERTY_RANDOM" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(hvd.size(), [list(ranks) for ranks in sets]))
    def every_rank_agrees_with_numpy(case):
        nonlocal played
        played += 1
        hvd.broadcast_object(case, name="property.case")
        verdicts = hvd.allgather_object(play(hvd, sets, case), name="property.verdict")
        failed = [f"rank {rank}: {text}" for rank, text in enumerate(verdicts) if text]
        assert not failed, "\n".join(failed)

    try:
        every_rank_agrees_with_numpy()
    finally:
        hvd.broadcast_object(None, name="property.case")
    print(f"{played} cases on {hvd.size()} ranks")
