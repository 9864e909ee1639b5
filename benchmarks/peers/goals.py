"""The goals, each with the figure that a run reached: pure functions of its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
KIB, MIB = 1 << 10, 1 << 20
MPI = ("openmpi", "mpich", "intelmpi")
NATIVE = (*MPI, "oneccl")
OTHERS = ("allgather", "broadcast", "reducescatter", "alltoall")
# Horovod does not build against today's PyTorch. What it took where it last did, on 2 cores of an
# AMD EPYC, in µs; only the ratios that goals name are formed with these.
HOROVOD_4B = 1070.0
HOROVOD_RESNET50 = 144_000.0


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    goal: str  # P1 … P19
    what: str
    wanted: str
    reached: str
    met: bool | None  # None: the run did not measure it


class Figures:
    """Looks records up. The last record of a kind counts."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = list(records)

    def find(self, section: str, **what: Any) -> Record | None:
        """The last record of the section with these fields, unless it is a refusal."""
        for record in reversed(self._records):
            wanted = record.get("section") == section and "refusal" not in record
            if wanted and all(record.get(key) == value for key, value in what.items()):
                return record
        return None

    def us(
        self, peer: str, nbytes: int, mode: str = "default", ranks: int = 2, **more: Any
    ) -> float | None:
        """Microseconds of a float32 collective, an allreduce unless ``op`` is given."""
        what = {"op": "allreduce", "dtype": "float32", "section": "sizes"} | more
        record = self.find(**what, peer=peer, bytes=nbytes, mode=mode, ranks=ranks)
        return None if record is None else float(record["time_us"])

    def burst(self, peer: str, name: str, mode: str = "default") -> float | None:
        """Microseconds of a burst of tensors."""
        record = self.find("bursts", peer=peer, op=f"burst.{name}", mode=mode)
        return None if record is None else float(record["time_us"])

    def best(
        self, peers: Iterable[str], nbytes: int, ranks: int = 2, **more: Any
    ) -> tuple[float, str] | None:
        """The fastest of these peers, with its name."""
        times = [(self.us(peer, nbytes, ranks=ranks, **more), peer) for peer in peers]
        return min(((time, peer) for time, peer in times if time is not None), default=None)


def text(value: float) -> str:
    """Three digits, as 0.21, 8.4, 113 or 4,120."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def at_most(goal: str, what: str, limit: float, value: float | None, unit: str) -> Row:
    """A figure that must not exceed its limit."""
    wanted = f"≤ {text(limit)} {unit}"
    if value is None:
        return Row(goal, what, wanted, "not measured", None)
    return Row(goal, what, wanted, f"{text(value)} {unit}", value <= limit)


def times(
    goal: str, what: str, factor: float, own: float | None, other: tuple[float, str] | None
) -> Row:
    """A ratio, the other's time over ours, that must reach ``factor``."""
    wanted = f"≥ {factor:g} × {'' if other is None else other[1]}".rstrip()
    if own is None or other is None:
        return Row(goal, what, wanted, "not measured", None)
    ratio = other[0] / own
    reached = f"{ratio:.2f} × ({text(own)} against {text(other[0])} µs)"
    return Row(goal, what, wanted, reached, ratio >= factor)


def named(value: float | None, name: str) -> tuple[float, str] | None:
    return None if value is None else (value, name)


def small_messages(f: Figures) -> Iterator[Row]:
    """P1–P3."""
    ordered = f.us("hora-core", 4, "ordered")
    yield times("P1", "4 B, core, ordered", 1.0, ordered, f.best(MPI, 4))
    python = f.us("hora", 4)
    gloo = named(f.us("gloo", 4), "gloo")
    yield at_most("P2", "4 B, Python, by name", 5.0, python, "µs")
    yield times("P2", "4 B, Python", 25, python, gloo)
    yield times("P2", "4 B, Python", 200, python, (HOROVOD_4B, "Horovod (elsewhere)"))
    core4, python4 = f.us("hora-core", 4, "ordered", 4), f.us("hora", 4, ranks=4)
    gloo4 = named(f.us("gloo", 4, ranks=4), "gloo")
    yield times("P3", "4 B, core, 4 ranks", 1.5, core4, f.best(MPI, 4, 4))
    yield at_most("P3", "4 B, Python, 4 ranks", 30, python4, "µs")
    yield times("P3", "4 B, Python, 4 ranks", 10, python4, gloo4)


def large_messages(f: Figures) -> Iterator[Row]:
    """P4–P8."""
    yield times("P4", "64 KiB, core", 1.5, f.us("hora-core", 64 * KIB), f.best(NATIVE, 64 * KIB))
    table = (
        ("P5", MIB, "1 MiB", 2, (1.4, 4.0), None),
        ("P6", 64 * MIB, "64 MiB", 2, (5.0, 9.0), (8.0, 14.0)),
        ("P7", 64 * MIB, "64 MiB, 4 ranks", 4, (4.0, 7.0), (8.0, 13.0)),
    )
    modes = (("default", "copying"), ("zero", "zero-copy"))
    for goal, nbytes, size, ranks, factors, gloo_factors in table:
        best = f.best(NATIVE, nbytes, ranks)
        gloo = named(f.us("gloo", nbytes, ranks=ranks), "gloo")
        for index, (mode, how) in enumerate(modes):
            core = f.us("hora-core", nbytes, mode, ranks)
            yield times(goal, f"{size}, core, {how}", factors[index], core, best)
            if gloo_factors is not None:
                python = f.us("hora", nbytes, mode, ranks)
                yield times(goal, f"{size}, Python, {how}", gloo_factors[index], python, gloo)
    yield times(
        "P8",
        "64 MiB, zero-copy",
        0.8,
        f.us("hora-core", 64 * MIB, "zero"),
        named(f.us("memory", 64 * MIB, "in_place"), "the in-place limit of memory"),
    )


def half_precision(f: Figures) -> Iterator[Row]:
    """P9: against float32 of as many bytes, that is, half the elements."""
    for nbytes, size in ((MIB, "1 MiB"), (64 * MIB, "64 MiB")):
        single = f.us("hora-core", nbytes, section="dtypes")
        for dtype in ("bfloat16", "float16"):
            half = f.us("hora-core", nbytes, section="dtypes", dtype=dtype)
            wanted, what = "≤ 1.15 × float32 of as many bytes", f"{dtype}, {size}"
            if single is None or half is None:
                yield Row("P9", what, wanted, "not measured", None)
                continue
            ratio = half / single
            reached = f"{ratio:.2f} × ({text(half)} against {text(single)} µs)"
            yield Row("P9", what, wanted, reached, ratio <= 1.15)


def bursts(f: Figures) -> Iterator[Row]:
    """P10, P11."""
    bucket = named(f.burst("gloo", "resnet50"), "one flat gloo bucket")
    copying, zero = f.burst("hora", "resnet50"), f.burst("hora", "resnet50", "zero")
    what = "161 tensors of ResNet-50, Python"
    yield times("P10", f"{what}, copying", 6, copying, bucket)
    yield times("P10", what, 9, copying, (HOROVOD_RESNET50, "Horovod (elsewhere)"))
    yield times("P10", f"{what}, zero-copy", 12, zero, bucket)
    yield at_most("P11", "500 × 64 floats, Python", 1000, f.burst("hora", "500x64"), "µs")


def training(f: Figures) -> Iterator[Row]:
    """P12: hora is its better mode, as a user would choose it."""
    for model in ("digits", "gpt"):
        step = {
            mode: record["time_us"]
            for mode in ("alone", "apart", "hora", "views", "gloo")
            if (record := f.find("training", model=model, mode=mode)) is not None
        }
        own = min((step[mode] for mode in ("hora", "views") if mode in step), default=None)
        ddp = named(step.get("gloo"), "DDP on gloo")
        yield times("P12", f"training step, {model}", 1.0, own, ddp)
        what, wanted = f"communication's share, {model}", "≤ 5 % of a single process's step"
        if own is None or "alone" not in step:
            yield Row("P12", what, wanted, "not measured", None)
            continue
        added = 100 * (own / step["alone"] - 1)
        beside = f", {100 * (own / step['apart'] - 1):+.1f} % of two that do not communicate"
        reached = f"{added:+.1f} %" + (beside if "apart" in step else "")
        yield Row("P12", what, wanted, reached, added <= 5)


def footprint(f: Figures) -> Iterator[Row]:
    """P13, P15."""
    idle, start = f.find("idle") or {}, f.find("startup") or {}
    yield at_most("P13", "idle process", 0.2, idle.get("cpu_percent"), "% of a core")
    yield at_most("P13", "memory beyond import torch", 40, idle.get("extra_MiB"), "MiB")
    yield at_most("P15", "init of 4 local ranks", 100, start.get("init_ms"), "ms")
    yield at_most("P15", "import beyond import torch", 200, start.get("import_hora_ms"), "ms")


def negotiation(f: Figures) -> Iterator[Row]:
    """P14."""
    round_ = f.find("negotiation", what="round") or {}
    yield at_most("P14", "161 cached tensors negotiated", 30, round_.get("time_us"), "µs")
    root = f.find("negotiation", what="coordinator")
    what, wanted = "simulated root, 131,072 ranks", "≤ 2 × fan-out messages, ≤ the latency's limit"
    if root is None:
        yield Row("P14", what, wanted, "not measured", None)
        return
    messages = root["steady_root_received"] + root["steady_root_sent"]
    reached = (
        f"{messages} messages at fan-out {root['fan_out']}, {text(root['steady_decision_us'])} of "
        f"{text(root['steady_limit_us'])} µs"
    )
    met = messages <= 2 * root["fan_out"] and root["steady_decision_us"] <= root["steady_limit_us"]
    yield Row("P14", what, wanted, reached, met)


def other_collectives(f: Figures) -> Iterator[Row]:
    """P16."""
    for op in OTHERS:
        for nbytes, size in ((MIB, "1 MiB"), (64 * MIB, "64 MiB")):
            where: dict[str, Any] = {"section": "others", "op": op}
            own = f.us("hora-core", nbytes, **where)
            yield times("P16", f"{op}, {size}, core", 1.2, own, f.best(MPI, nbytes, **where))
            gloo = named(f.us("gloo", nbytes, **where), "gloo")
            python = f.us("hora", nbytes, **where)
            yield times("P16", f"{op}, {size}, Python", 4, python, gloo)


def two_hosts(f: Figures) -> Iterator[Row]:
    """P17–P19: two ranks on each of two hosts, from Python.

    gloo is the better of its two, bound to the host's cores and unbound, at each size.
    """

    def us(peer: str, nbytes: int) -> float | None:
        return f.us(peer, nbytes, section="hosts", ranks=4)

    sizes = (
        (4, "4 B", 20),
        (MIB, "1 MiB", 6),
        (16 * MIB, "16 MiB", 2.2),
        (64 * MIB, "64 MiB", 2.2),
    )
    for nbytes, size, factor in sizes:
        gloo = f.best(("gloo-bound", "gloo-unbound"), nbytes, section="hosts", ranks=4)
        yield times("P17", f"two hosts, {size}", factor, us("hora-auth", nbytes), gloo)
    large = 16 * MIB
    flat = named(us("hora-flat", large), "hora's flat ring")
    what = "two hosts, 16 MiB, beside the flat ring"
    yield times("P17", what, 1.6, us("hora-auth", large), flat)
    link = f.find("links", peer="hora-auth", bytes=large)
    ratio = None if link is None else link["sent_bytes"] / link["least_bytes"]
    yield at_most("P17", "bytes on each host's link, 16 MiB", 1.05, ratio, "× the least")
    for mbit_per_s in (1000, 100):
        slow = f.find("slow links", peer="hora-auth", mbit_per_s=mbit_per_s)
        what, wanted = f"share of a line of {mbit_per_s:,} Mbit/s", "≥ 0.9"
        share = None if slow is None else slow["share"]
        reached = "not measured" if share is None else f"{share:.2f}"
        yield Row("P17", what, wanted, reached, None if share is None else share >= 0.9)
    for nbytes, size, _ in sizes:
        other = named(us("hora-auth", nbytes), "authenticated")
        what = f"two hosts, {size}, TLS beside authenticated"
        yield times("P18", what, 0.5, us("hora-tls", nbytes), other)
    # MPI's other way to be run flat is without hora.
    for library, over, flat_ones in (
        ("gloo", "hora-over-gloo", ("hora-flat-gloo",)),
        ("Open MPI", "hora-over-mpi", ("hora-flat-mpi", "openmpi")),
    ):
        for nbytes, size in ((16 * MIB, "16 MiB"), (64 * MIB, "64 MiB")):
            best = f.best(flat_ones, nbytes, section="hosts", ranks=4)
            yield times("P19", f"between hosts by {library}, {size}", 1.8, us(over, nbytes), best)


PARTS: tuple[Callable[[Figures], Iterator[Row]], ...] = (
    small_messages,
    large_messages,
    half_precision,
    bursts,
    training,
    footprint,
    negotiation,
    other_collectives,
    two_hosts,
)


def table(records: Iterable[Record]) -> list[Row]:
    """All rows, in the order of the goals."""
    figures = Figures(records)
    rows = [row for part in PARTS for row in part(figures)]
    return sorted(rows, key=lambda row: int(row.goal[1:]))


def markdown(rows: Iterable[Row]) -> str:
    """The table as a page shows it."""
    verdict = {True: "met", False: "**missed**", None: "–"}
    lines = ["| goal | what | wanted | reached | |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.goal} | {row.what} | {row.wanted} | {row.reached} | {verdict[row.met]} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
