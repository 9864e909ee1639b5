"""Draws what the simulated coordinator costs: ``plot_coordinator.py [in.jsonl] [out.svg]``.

Needs matplotlib. The last record of each number of ranks and fan-out counts.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "coordinator.jsonl"
PICTURE = ROOT / "docs" / "concepts" / "coordinator.svg"

Record = dict[str, Any]
Curves = dict[int, list[Record]]


def read(path: Path) -> Curves:
    """Records by fan-out, each list in ascending order of ranks.

    Raises:
        SystemExit: there is no record of the coordinator in ``path``.
    """
    latest: dict[tuple[int, int], Record] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record.get("benchmark") == "coordinator":
            latest[record["fan_out"], record["ranks"]] = record
    if not latest:
        raise SystemExit(f"{path} holds no record of the coordinator; run the benchmark first")
    curves: Curves = defaultdict(list)
    for (fan_out, _), record in sorted(latest.items()):
        curves[fan_out].append(record)
    return curves


def ranks_by_tensors(curves: Curves) -> Curves:
    """Records of any fan-out by number of tensors, each list in ascending order of ranks."""
    groups: Curves = defaultdict(list)
    for records in curves.values():
        for record in records:
            groups[record["tensors"]].append(record)
    return {
        tensors: sorted(group, key=lambda record: int(record["ranks"]))
        for tensors, group in groups.items()
    }


def draw(curves: Curves, path: Path) -> None:
    """Writes the picture: messages at the root, time to decide (µs), memory (KiB)."""
    import matplotlib

    matplotlib.use("svg")
    # The same picture from the same records.
    matplotlib.rcParams["svg.hashsalt"] = "hora"
    from matplotlib import pyplot

    figure, (messages, time, memory) = pyplot.subplots(1, 3, figsize=(13, 4))
    for index, (fan_out, records) in enumerate(curves.items()):
        ranks = [record["ranks"] for record in records]
        color = f"C{index}"
        handled = [
            record["steady_root_received"] + record["steady_root_sent"] for record in records
        ]
        messages.plot(ranks, handled, "o-", color=color, label=f"fan-out {fan_out}", markersize=3)
        decided = [record["steady_decision_us"] for record in records]
        time.plot(ranks, decided, "o-", color=color, markersize=3)
        limit = [record["steady_limit_us"] for record in records]
        time.plot(ranks, limit, ":", color=color, linewidth=1)
        counts = [record["tensors"] for record in records]
        kib = [record["leaf_rank_bytes"] / 1024 for record in records]
        memory.plot(counts, kib, "o", color=color, markersize=3)
    for tensors, of_ranks in ranks_by_tensors(curves).items():
        highest = max(record["leaf_rank_bytes"] for record in of_ranks) / 1024
        text = f"{of_ranks[-1]['ranks']:,} ranks"
        if of_ranks[0]["ranks"] != of_ranks[-1]["ranks"]:
            text = f"{of_ranks[0]['ranks']:,} to {text}"
        above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        memory.annotate(text, (tensors, highest), **above)
    messages.set_title("messages at the root in a cached round")
    messages.set_yscale("log", base=2)
    time.set_title("µs until the last rank knows (dotted: limit)")
    time.set_ylim(bottom=0)
    memory.set_title("KiB at a leaf")
    memory.set_xlabel("tensors")
    memory.set_xscale("log", base=2)
    memory.set_yscale("log", base=2)
    memory.set_xlim(0.4, 500)
    memory.set_ylim(2, 256)
    memory.grid(alpha=0.3)
    for axes in (messages, time):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("ranks")
        axes.grid(alpha=0.3)
    figure.legend(loc="lower center", ncol=len(curves), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Reads the results and draws them."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    draw(read(results), Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURE)


if __name__ == "__main__":
    main()
