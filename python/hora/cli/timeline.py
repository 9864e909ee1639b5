"""``hora timeline merge OUT FILES…``: the timelines of several ranks as one file for Perfetto."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "merge", "read_events"]

Event = dict[str, Any]


class NotATimelineError(ValueError):
    """A file that holds no event of a Chrome trace."""


def read_events(path: Path) -> Iterator[Event]:
    """Yields the events of a Chrome trace, which may end in the middle of one.

    A rank that was killed leaves such a file. Hora writes an event a line, so that all but the last
    one are whole. Traces of other programs are taken as well if they are complete. Raises
    ``NotATimelineError`` for a file without events, and ``OSError``.
    """
    found = False
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            event = _event_of(line)
            if event is not None:
                found = True
                yield event
    if not found:
        yield from _events_of_whole(path)


def merge(target: Path, sources: Sequence[Path]) -> list[str]:
    """Writes the events of ``sources`` to ``target``; returns what a reader should know about them.

    Each rank is a process of the trace. Times are those of the ranks' wall clocks. Raises
    ``NotATimelineError`` and ``OSError``, and leaves ``target`` as it was then.
    """
    remarks: list[str] = []
    seen: dict[Any, Path] = {}
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as out:
            separator = "[\n"
            for source in sources:
                for event in read_events(source):
                    first = seen.setdefault(event.get("pid"), source)
                    if first != source:
                        remarks.append(f"rank {event.get('pid')} is in {first} and in {source}")
                        seen[event.get("pid")] = source
                    out.write(separator + json.dumps(event, separators=(",", ":")))
                    separator = ",\n"
                if not _is_complete(source):
                    remarks.append(f"{source} ends early: that rank was stopped while it wrote")
            out.write("\n]\n")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return remarks


def _event_of(line: str) -> Event | None:
    text = line.strip().removesuffix(",")
    if not text.startswith("{"):
        return None
    try:
        event = json.loads(text)
    except ValueError:  # the last line of a rank that was killed
        return None
    return event if isinstance(event, dict) and "ph" in event else None


def _events_of_whole(path: Path) -> Iterator[Event]:
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotATimelineError(f"{path} is no timeline: {error}") from None
    events = trace.get("traceEvents") if isinstance(trace, dict) else trace
    if not isinstance(events, list):
        raise NotATimelineError(f"{path} is no timeline: it has no list of events")
    yield from (event for event in events if isinstance(event, dict) and "ph" in event)


def _is_complete(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16))
        return file.read().rstrip().endswith((b"]", b"}"))


def main(words: Sequence[str]) -> int:
    """Runs ``hora timeline``; returns 1 when a file cannot be read or written."""
    parser = argparse.ArgumentParser(
        prog="hora timeline", description="Work on timelines.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="merge")
    merging = commands.add_parser(
        "merge",
        help="put the timelines of several ranks into one file, a process for each rank",
        allow_abbrev=False,
    )
    merging.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    merging.add_argument("files", type=Path, nargs="+", metavar="FILE", help="one rank's timeline")
    args = parser.parse_args(words)
    if args.out.resolve() in {file.resolve() for file in args.files}:
        parser.error(f"{args.out} would overwrite what it is made of")
    try:
        remarks = merge(args.out, args.files)
    except (NotATimelineError, OSError) as error:
        print(f"hora timeline: {error}", file=sys.stderr)
        return 1
    for remark in remarks:
        print(f"hora timeline: {remark}", file=sys.stderr)
    print(f"{args.out}: {len(args.files)} timelines; open it in https://ui.perfetto.dev")
    return 0
