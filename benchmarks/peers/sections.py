"""What is measured, part by part: which peers do what. Each part yields records (JSONL lines)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from driver import PeerError, RunningPeer
from hosts import HOSTS, Cable
from measuring import Entrant, interleave, record
from protocol import Burst, Case, format_bytes

Record = dict[str, Any]
Progress = Callable[[str], None]

KIB, MIB = 1 << 10, 1 << 20
SIZES = (4, 64, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
HOSTS_SIZES = (4, KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB)
SLOW_LINKS = (1000, 100)  # Mbit/s
OPS = ("allgather", "broadcast", "reducescatter", "alltoall")
# Modes beyond "default" that a worker may know; one that it does not know refuses, and is left out.
EXTRA_MODES: dict[str, dict[str, tuple[str, ...]]] = {
    "hora-core": {"allreduce": ("ordered", "zero")},
    "hora": {"allreduce": ("zero",)},
}
MEMORY_MODES = ("read", "write", "copy", "in_place")


@dataclass
class Bench:
    """The running peers of one number of ranks, and how thoroughly they are measured."""

    running: list[RunningPeer]
    rounds: int = 5
    sizes: tuple[int, ...] = SIZES
    ops: tuple[str, ...] = OPS
    progress: Progress = lambda what: None
    refused: set[tuple[str, str, str]] = field(default_factory=set)  # peer, op, mode

    @property
    def ranks(self) -> int:
        """Of every peer."""
        return self.running[0].ranks

    def entrants(self, op: str, nbytes: int, dtype: str = "float32") -> list[Entrant]:
        """Everybody in every mode that has not been refused before."""
        found = []
        for peer in self.running:
            if peer.broken:
                continue
            name = peer.peer.name
            modes: tuple[str, ...] = ("default", *EXTRA_MODES.get(name, {}).get(op, ()))
            if name == "memory":
                modes = MEMORY_MODES if op == "allreduce" and nbytes >= 64 * KIB else ()
            found += [
                Entrant(peer, Case(op, nbytes, dtype, mode))
                for mode in modes
                if (name, op, mode) not in self.refused
            ]
        return found

    def measure(self, section: str, entrants: list[Entrant], what: str) -> Iterator[Record]:
        """One record per entrant."""
        self.progress(f"{what}, {self.ranks} ranks")
        for entrant, tally in interleave(entrants, self.rounds, lambda: self.progress("")).items():
            work = entrant.work
            if tally.refusal and isinstance(work, Case) and work.mode != "default":
                self.refused.add((entrant.name, work.op, work.mode))
                continue
            yield {"section": section} | record(entrant, tally)


def sizes(bench: Bench) -> Iterator[Record]:
    """Allreduce of every size, float32 (P1–P8)."""
    for nbytes in bench.sizes:
        entrants = bench.entrants("allreduce", nbytes)
        yield from bench.measure("sizes", entrants, f"allreduce of {format_bytes(nbytes)}")


def dtypes(bench: Bench) -> Iterator[Record]:
    """Halves beside singles of the same bytes (P9)."""
    for nbytes in (MIB, 64 * MIB):
        entrants = [
            Entrant(peer, Case("allreduce", nbytes, dtype))
            for dtype in ("float32", "bfloat16", "float16")
            for peer in bench.running
            if peer.peer.name in ("hora-core", "oneccl", "gloo")
        ]
        yield from bench.measure("dtypes", entrants, f"16-bit floats, {format_bytes(nbytes)}")


def others(bench: Bench) -> Iterator[Record]:
    """The other collectives at 1 and 64 MiB (P16)."""
    for op in bench.ops:
        for nbytes in (MIB, 64 * MIB):
            yield from bench.measure(
                "others", bench.entrants(op, nbytes), f"{op} of {format_bytes(nbytes)}"
            )


def bursts(bench: Bench) -> Iterator[Record]:
    """Many tensors at once, as a backward pass submits them (P10, P11)."""
    network, small = resnet50(), (64,) * 500
    works = {
        "hora": [Burst("resnet50", network), Burst("resnet50", network, "zero")],
        "gloo": [Burst("resnet50", network)],
    }
    tiny = {"hora": [Burst("500x64", small)], "gloo": [Burst("500x64", small, "each")]}
    many = {"hora": [Burst("161x1", (1,) * 161)]}
    for what, table in (("ResNet-50", works), ("500 × 64", tiny), ("161 × 1", many)):
        entrants = [
            Entrant(peer, work)
            for peer in bench.running
            for work in table.get(peer.peer.name, ())
            if (peer.peer.name, "burst", work.mode) not in bench.refused
        ]
        yield from bench.measure("bursts", entrants, f"burst {what}")


def resnet50() -> tuple[int, ...]:
    """Elements of ResNet-50's 161 parameters, in the order in which gradients become ready."""
    shapes = [64 * 3 * 49, 64, 64]
    width_in = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [width_in * width, width, width, width * width * 9, width, width]
            shapes += [width * width * 4, width * 4, width * 4]
            if block == 0:
                shapes += [width_in * width * 4, width * 4, width * 4]
            width_in = width * 4
    shapes += [2048 * 1000, 1000]
    return tuple(reversed(shapes))


def hosts(bench: Bench, cable: Cable, chosen: tuple[int, ...] = HOSTS_SIZES) -> Iterator[Record]:
    """Allreduce over two hosts of two ranks each: time, bytes on the link, slow links (P17–P19)."""
    for nbytes in chosen:
        entrants = [
            Entrant(peer, Case("allreduce", nbytes)) for peer in bench.running if not peer.broken
        ]
        yield from bench.measure("hosts", entrants, f"two hosts, {format_bytes(nbytes)}")
    for nbytes in (size for size in (MIB, 16 * MIB) if size in chosen):
        for peer in bench.running:
            yield from _link_bytes(peer, nbytes, cable)
    for mbit_per_s in SLOW_LINKS if 16 * MIB in chosen else ():
        with cable.limited(mbit_per_s):
            entrants = [
                Entrant(peer, Case("allreduce", 16 * MIB))
                for peer in bench.running
                if peer.peer.name in ("hora-auth", "hora-tls", "gloo-unbound") and not peer.broken
            ]
            bench.progress(f"two hosts, {mbit_per_s} Mbit/s")
            for entrant in entrants:
                yield from _on_slow_link(entrant, mbit_per_s)
    bench.progress("")


def _link_bytes(peer: RunningPeer, nbytes: int, cable: Cable) -> Iterator[Record]:
    """What the busier host sends for one call, beside the least that it can be."""
    calls = 4
    if peer.broken:
        return
    try:
        # One sample more is timed to be warm, and not told of.
        before = cable.sent_bytes()
        answer = peer.ask(Case("allreduce", nbytes).order(3, calls, False))
    except PeerError:
        return
    after = cable.sent_bytes()
    sent = max(b - a for a, b in zip(before, after, strict=True)) / (4 * calls)
    if not answer.refusal:
        least = 2 * (HOSTS - 1) / HOSTS * nbytes
        what = {"section": "links", "peer": peer.peer.name, "bytes": nbytes}
        yield what | {"sent_bytes": round(sent), "least_bytes": round(least)}


def _on_slow_link(entrant: Entrant, mbit_per_s: int) -> Iterator[Record]:
    try:
        answer = entrant.peer.ask(entrant.work.order(2, 1, False), timeout=60)
    except PeerError:
        return
    if answer.refusal:
        return
    time_us = min(answer.times_us)
    share = 8 * entrant.work.nbytes / time_us / mbit_per_s
    what = {"section": "slow links", "peer": entrant.name, "mbit_per_s": mbit_per_s}
    yield what | {"bytes": entrant.work.nbytes, "us": round(time_us), "share": round(share, 4)}
