"""hora beside its peers, interleaved in one run.

    python benchmarks/peers/run.py                                   # everything: `make bench`
    python benchmarks/peers/run.py --section sizes --ranks 2 --sizes 64K,1M
    python benchmarks/peers/run.py --section others --peers hora-core,openmpi --ops broadcast

Figures go to the terminal and, as JSON lines, to --output; goals.md and pictures beside it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hosts
import once
import pictures
import programs
import report
import sections
from driver import PeerError, RunningPeer
from goals import markdown, table
from installation import WHEELS, Installation
from peers import all_peers
from protocol import parse_bytes
from rich.console import Console
from screen import Screen, show, show_goals

ROOT = Path(__file__).resolve().parents[2]
# Those that the running peers take part in, and those that start processes of their own.
TOGETHER = {
    "sizes": sections.sizes,
    "dtypes": sections.dtypes,
    "bursts": sections.bursts,
    "others": sections.others,
}
ALONE = ("idle", "startup", "training", "negotiation")
ONLY_TWO_RANKS = {"dtypes", "bursts", "others"}


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = (*TOGETHER, "hosts", *ALONE)
    parser.add_argument(
        "--section", type=words, default=every, help=f"among {', '.join(every)} (default: all)"
    )
    parser.add_argument("--ranks", type=words, default=("2", "4"), help="default 2,4")
    parser.add_argument("--sizes", type=words, help="of sizes and hosts, as 4,64K,1M")
    parser.add_argument("--ops", type=words, default=sections.OPS, help="of section others")
    parser.add_argument("--peers", type=words, help="only these (default: all that install)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each peer (default 5)")
    parser.add_argument(
        "--core-program",
        type=Path,
        default=ROOT / "build" / "release" / "peers" / "hora_worker",
        help="hora_worker of the build to measure; memory_worker lies beside it",
    )
    parser.add_argument("--installation", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--output", type=Path, help="JSONL to write (default: none)")
    return parser.parse_args(argv)


def wanted_peers(
    args: argparse.Namespace, installed: Installation, ranks: int
) -> list[RunningPeer]:
    """Those that are wanted, not yet started."""
    peers = all_peers(installed, args.core_program.resolve().parent, ranks)
    return [RunningPeer(p, ranks) for p in peers if args.peers is None or p.name in args.peers]


def run_together(
    args: argparse.Namespace, installed: Installation, screen: Screen
) -> Iterator[dict[str, Any]]:
    """The sections of all peers, for each number of ranks."""
    names = [name for name in TOGETHER if name in args.section]
    chosen = sizes_of(args, sections.SIZES)
    for ranks in map(int, args.ranks):
        todo = [name for name in names if ranks == 2 or name not in ONLY_TWO_RANKS]
        if not todo:
            continue
        with ExitStack() as stack:
            running = []
            for peer in wanted_peers(args, installed, ranks):
                screen.note(f"starting {peer.peer.name}, {ranks} ranks")
                try:
                    running.append(stack.enter_context(peer))
                except PeerError as error:
                    screen.say(f"{peer.peer.name} is left out: {error}")
                    yield {"section": "peers", "peer": peer.peer.name, "refusal": str(error)}
            bench = sections.Bench(running, args.rounds, chosen, args.ops, screen.note)
            for name in todo:
                yield from TOGETHER[name](bench)


def run_hosts(
    args: argparse.Namespace, installed: Installation, screen: Screen
) -> Iterator[dict[str, Any]]:
    """The section of two hosts; what cannot be is left out, with the reason."""
    if "hosts" not in args.section:
        return
    if reason := hosts.why_impossible():
        screen.say(f"hosts is left out: {reason}")
        yield {"section": "hosts", "refusal": reason}
        return
    with hosts.Cable() as cable, ExitStack() as stack:
        peers = hosts.all_peers(cable, installed)
        wanted = [peer for peer in peers if args.peers is None or peer.name in args.peers]
        running = []
        for peer in wanted:
            screen.note(f"starting {peer.name} on two hosts")
            try:
                running.append(stack.enter_context(RunningPeer(peer, hosts.RANKS)))
            except PeerError as error:
                screen.say(f"{peer.name} is left out on two hosts: {error}")
                yield {"section": "hosts", "peer": peer.name, "refusal": str(error)}
        if running:
            bench = sections.Bench(running, args.rounds, progress=screen.note)
            yield from sections.hosts(bench, cable, sizes_of(args, sections.HOSTS_SIZES))


def sizes_of(args: argparse.Namespace, default: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the command line, if it names any."""
    return tuple(map(parse_bytes, args.sizes)) if args.sizes else default


def steps(args: argparse.Namespace) -> int:
    """How many rounds of turns there will be, so that the time left can be guessed."""
    sizes = len(args.sizes or sections.SIZES)
    orders = {"sizes": sizes, "dtypes": 2, "bursts": 3, "others": 2 * len(args.ops)}
    total = 0
    for ranks in args.ranks:
        names = [
            n for n in TOGETHER if n in args.section and (ranks == "2" or n not in ONLY_TWO_RANKS)
        ]
        total += sum(orders[name] for name in names)
    alone = sum((once.STEPS | programs.STEPS)[name] for name in ALONE if name in args.section)
    if "hosts" in args.section:
        total += len(args.sizes or sections.HOSTS_SIZES)
    return total * (int(args.rounds) + 1) + alone


def run_alone(args: argparse.Namespace, screen: Screen) -> Iterator[dict[str, Any]]:
    """The sections that start processes of their own."""
    micro = args.core_program.resolve().parents[1] / "benchmarks"
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "idle": lambda: once.idle(screen.note),
        "startup": lambda: once.startup(screen.note),
        "training": lambda: programs.training(screen.note),
        "negotiation": lambda: programs.negotiation(screen.note, micro),
    }
    for name in ALONE:
        if name in args.section:
            try:
                yield from parts[name]()
            except (PeerError, programs.ProgramError) as error:
                screen.say(f"{name} is left out: {error}")
                yield {"section": name, "refusal": str(error)}


def publish(records: list[dict[str, Any]], args: argparse.Namespace, console: Console) -> None:
    """Tables on the terminal; files, and beside them pictures, when --output is given."""
    show(records, console)
    rows = table(records)
    show_goals(rows, console)
    if args.output:
        report.write_jsonl(args.output, records)
        args.output.with_name("goals.md").write_text(markdown(rows), encoding="utf-8")
        pictures.main([str(args.output), str(args.output.parent)])


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    # Both end the peers, too; a shell's background jobs begin with SIGINT ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console(stderr=True)
    installed = Installation(args.installation)
    wanted = [name for name in WHEELS if args.peers is None or name in args.peers]
    installed.prepare(wanted, console.print)
    records: list[dict[str, Any]] = [report.context() | {"peers": dict(installed.versions)}]
    records += [
        {"section": "peers", "peer": name, "refusal": why}
        for name, why in installed.reasons.items()
    ]
    try:
        with Screen(console, steps(args)) as screen:
            records += run_together(args, installed, screen)
            records += run_hosts(args, installed, screen)
            records += run_alone(args, screen)
    except KeyboardInterrupt:
        console.print("interrupted; every peer was ended")
        return 130
    publish(records, args, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
