"""What happened to each rank, in words for people."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from hora.launch.crew import Rank


def signal_name(signum: int) -> str:
    """Returns "SIGKILL" for 9; real-time signals have no name of their own."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def shell_code(exit_code: int) -> int:
    """The code a shell would report: 128 + n for signal n."""
    return 128 - exit_code if exit_code < 0 else exit_code


def describe_failure(rank: Rank, oom_kills_seen: int) -> str:
    """One sentence on a rank that failed by itself."""
    assert rank.exit_code
    who = f"rank {rank.rank} ({rank.where})"
    if rank.exit_code > 0:
        return f"{who} exited with code {rank.exit_code}"
    sentence = f"{who} was ended by {signal_name(-rank.exit_code)}"
    if rank.exit_code == -signal.SIGKILL:
        sentence += (
            "; the kernel killed a process for lack of memory meanwhile: likely this one"
            if oom_kills_seen > 0
            else "; if nobody sent it, the usual cause is lack of memory (see dmesg)"
        )
    elif rank.exit_code == -signal.SIGBUS:
        sentence += "; a usual cause is a full /dev/shm (see df /dev/shm)"
    return sentence


def summarise(ranks: Sequence[Rank], expected: Iterable[int]) -> str:
    """One line with the fate of every rank, equal fates together, in rank order."""
    groups: dict[str, list[int]] = {}
    for rank in ranks:
        groups.setdefault(_fate(rank), []).append(rank.rank)
    if missing := sorted(set(expected) - {rank.rank for rank in ranks}):
        groups["not started"] = missing
    return "; ".join(f"{_rank_list(members)}: {fate}" for fate, members in groups.items())


def count_oom_kills() -> int:
    """How often this machine's kernel has killed for lack of memory; 0 where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _fate(rank: Rank) -> str:
    if rank.is_lost:
        return "lost"
    if rank.exit_code is None:
        return f"still there ({rank.where})"
    if rank.exit_code >= 0:
        return f"exit {rank.exit_code}"
    name = signal_name(-rank.exit_code)
    return f"{name} from the launcher" if rank.sent == -rank.exit_code else name


def _rank_list(ranks: Iterable[int]) -> str:
    """Returns "rank 3" or "ranks 0,2-5"."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and spans[-1][1] == rank - 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"{'ranks' if len(spans) > 1 or '-' in text else 'rank'} {text}"
