"""Draws a run: latency, bus bandwidth, and distance from the memory limit, against size.

python benchmarks/peers/pictures.py [RESULTS.jsonl] [FOLDER]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import report
from protocol import format_bytes
from screen import label

Record = dict[str, Any]
Curve = list[tuple[int, float]]
COLOURS = {
    "hora-core": "#1f77b4",
    "hora": "#17a2b8",
    "gloo": "#7f7f7f",
    "openmpi": "#2ca02c",
    "mpich": "#bcbd22",
    "intelmpi": "#9467bd",
    "oneccl": "#d62728",
    "memory": "#000000",
}
STYLES = {"default": "-", "zero": "--", "ordered": ":", "in_place": ":"}


def curves(records: list[Record], ranks: int, value: str) -> dict[str, Curve]:
    """One curve per peer and mode. The limit of memory is that of adding in place."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        wanted = record.get("section") == "sizes" and record.get("ranks") == ranks
        other_memory = record.get("peer") == "memory" and record.get("mode") != "in_place"
        if wanted and value in record and not other_memory:
            found[label(record)][record["bytes"]] = record[value]
    return {name: sorted(points.items()) for name, points in found.items()}


def to_limit(times: dict[str, Curve]) -> dict[str, Curve]:
    """How many times as long as memory allows."""
    limit = dict(times.get("memory in_place", []))
    return {
        name: [(nbytes, time / limit[nbytes]) for nbytes, time in points if nbytes in limit]
        for name, points in times.items()
        if name != "memory in_place"
    }


def draw(records: list[Record], ranks: int, target: Path) -> None:
    """Three pictures side by side; the format is that of the suffix. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times = curves(records, ranks, "time_us")
    times = {name: points for name, points in times.items() if name != "hora-core ordered"}
    rates = curves(records, ranks, "busbw_GBps")
    rates = {name: rates[name] for name in times if name != "memory in_place"}
    figure = Figure(figsize=(15, 5), layout="constrained")
    FigureCanvasAgg(figure)
    parts = (
        ("latency, µs", times),
        ("bus bandwidth, GB/s", rates),
        ("times as long as memory allows", to_limit(times)),
    )
    for axes, (title, drawn) in zip(figure.subplots(1, 3), parts, strict=True):
        for name, points in drawn.items():
            peer, _, mode = name.partition(" ")
            style = STYLES.get(mode or "default", "-.")
            if points:
                axes.plot(*zip(*points, strict=True), style, color=COLOURS[peer], label=name)
        ticks = [nbytes for nbytes in (4, 1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 26) if drawn]
        axes.set(xscale="log", yscale="log", title=title)
        axes.set_xticks(ticks, [format_bytes(nbytes) for nbytes in ticks], rotation=30)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    machine = next((record for record in records if record.get("section") == "machine"), {})
    figure.suptitle(f"float32 allreduce, {ranks} ranks on {machine.get('cores', '?')} cores")
    figure.savefig(target)


def main(words: list[str]) -> int:
    source = Path(words[0]) if words else report.LATEST
    folder = Path(words[1]) if len(words) > 1 else source.parent
    records = report.read_jsonl(source)
    for ranks in sorted({r["ranks"] for r in records if r.get("section") == "sizes"}):
        draw(records, ranks, folder / f"allreduce-{ranks}-ranks.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
