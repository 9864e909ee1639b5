"""What a run on a GPU reached, against the goals: pure functions of its records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from goals import Row, at_most, markdown, text

__all__ = ["launch_table", "page", "rows", "staged_table"]

Record = dict[str, Any]
LAUNCH_LIMIT_US = 15.0
STEP_LIMIT_PERCENT = 1.0
SHARE_OF_COPY = 0.8
TIMES_COPY_PER_TENSOR = 3.0
LAUNCHED = "scaled average in place"  # of ways.py
STEPS = {
    True: "gradients packed, averaged by NCCL, unpacked",
    False: "agreement and events, the gradients where they are",
}
# What pack_bench and pack.py call the ways that are compared.
ONE_LAUNCH, ONE_LARGE_COPY, PER_TENSOR = "pack and unpack", "one large copy", "one copy_ per tensor"


def rows(records: Iterable[Record]) -> list[Row]:
    """All goals, in order; what the run did not measure says so."""
    found = [record for record in records if "refusal" not in record]
    return [*_packing(found), _launch(found), *_step(found)]


def _packing(records: list[Record]) -> Iterator[Row]:
    speed = {r["way"]: float(r["GB/s"]) for r in records if "way" in r and "GB/s" in r}
    own = speed.get(ONE_LAUNCH)
    for goal, factor, other, unit in (
        ("G1", SHARE_OF_COPY, ONE_LARGE_COPY, "of the device's copy bandwidth"),
        ("G2", TIMES_COPY_PER_TENSOR, PER_TENSOR, "× one copy_ per tensor"),
    ):
        beside = speed.get(other)
        what = "161 tensors of ResNet-50 packed and unpacked"
        wanted = f"≥ {100 * factor:g} % {unit}" if factor < 1 else f"≥ {factor:g} {unit}"
        if own is None or beside is None:
            yield Row(goal, what, wanted, "not measured", None)
            continue
        ratio = own / beside
        reached = f"{100 * ratio:.1f} %" if factor < 1 else f"{ratio:.2f} ×"
        against = f" ({text(own)} against {text(beside)} GB/s)"
        yield Row(goal, what, wanted, reached + against, ratio >= factor)


def _launch(records: list[Record]) -> Row:
    """Of the way with a kernel of hora's and one of NCCL's: others have less in them."""
    times = {
        record["bytes"]: float(record["launch_us"])
        for record in records
        if record["section"] == "submit" and record.get("way") == LAUNCHED
    }
    what = f"submit to launch, {LAUNCHED}, 4 B, 1 rank that calls NCCL"
    row = at_most("G3", what, LAUNCH_LIMIT_US, times.get(4), "µs")
    if row.met is None:
        return row
    return replace(row, reached=f"{row.reached} ({times[4] / LAUNCH_LIMIT_US:.2f} × the limit)")


def _step(records: list[Record]) -> Iterator[Row]:
    """With all that several ranks do but for the transport, and as a single rank usually goes."""
    wanted = "≤ 1 % more"
    for is_called, contains in STEPS.items():
        what = f"training step of ResNet-50, 1 rank, over plain PyTorch: {contains}"
        steps = [
            record
            for record in records
            if record["section"] == "step" and record.get("nccl_called") is is_called
        ]
        if not steps:
            yield Row("G4", what, wanted, "not measured", None)
            continue
        last = steps[-1]
        added = 100 * (float(last["ratio"]) - 1)
        reached = f"{added:+.2f} % ({text(last['hora_us'])} against {text(last['plain_us'])} µs)"
        yield Row("G4", what, wanted, reached, added <= STEP_LIMIT_PERCENT)


def launch_table(records: Iterable[Record]) -> str:
    """From the submission to where the work is on the stream, by way and size, and what it is."""
    found = [r for r in records if r["section"] == "submit" and "way" in r]
    if not found:
        return ""
    sizes = sorted({record["bytes"] for record in found})
    head = "".join(f" {nbytes:,} B, µs |" for nbytes in sizes)
    lines = [f"| operation | contains |{head}", "|---|---|" + "---|" * len(sizes)]
    for way in dict.fromkeys(record["way"] for record in found):
        of_way = {record["bytes"]: record for record in found if record["way"] == way}
        times = [text(of_way[n]["launch_us"]) if n in of_way else "–" for n in sizes]
        contains = next(iter(of_way.values()))["contains"]
        lines.append(f"| {way} | {contains} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def staged_table(records: Iterable[Record]) -> str:
    """Allreduce through the host's memory, hora beside gloo, by size."""
    times: dict[int, dict[str, float]] = {}
    for record in records:
        if record["section"] == "staged" and "refusal" not in record:
            times.setdefault(record["bytes"], {})[record["peer"]] = float(record["time_us"])
    if not times:
        return ""
    lines = ["| MiB | hora, µs | gloo, µs | ratio |", "|---|---|---|---|"]
    for nbytes, by_peer in sorted(times.items()):
        own, other = by_peer.get("hora"), by_peer.get("gloo")
        shown = ["–" if time is None else text(time) for time in (own, other)]
        ratio = f"{other / own:.2f} ×" if own and other else "–"
        lines.append(f"| {nbytes >> 20} | {shown[0]} | {shown[1]} | {ratio} |")
    return "\n".join(lines) + "\n"


def page(records: list[Record]) -> str:
    """The page of results: the machine, the goals, the table, what could not be measured."""
    machine = next(record for record in records if record["section"] == "machine")
    refusals = [record for record in records if "refusal" in record]
    lines = [
        "# On a GPU",
        "",
        f"{machine['gpu']}, driver {machine['driver']}; CUDA {machine['cuda']}, PyTorch "
        f"{machine['torch']}, NCCL {machine['nccl']}; {machine['cpu']}; commit "
        f"{machine['commit']}, {machine['when']}: `{machine['command']}`",
        "",
        markdown(rows(records)),
    ]
    if launches := launch_table(records):
        lines += ["From the submission to where the work is on the stream, 1 rank:", "", launches]
    if staged := staged_table(records):
        what = (
            "Allreduce of float32 tensors of a GPU that 2 ranks share, through the host's memory:"
        )
        lines += [what, "", staged]
    lines += [f"Not measured: {one['section']}: {one['refusal']}\n" for one in refusals]
    return "\n".join(lines)
