"""What a run shows: progress while it goes on, tables at the end."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from goals import Row
from protocol import format_bytes
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class Screen:
    """A progress line with an estimate of the time left. ``steps`` is a guess of all notes."""

    def __init__(self, console: Console, steps: int) -> None:
        self._progress = Progress(
            BarColumn(30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self._console = console
        self._task = self._progress.add_task("", total=steps)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def note(self, what: str) -> None:
        """Names what goes on; an empty text is one step done."""
        if what:
            self._progress.update(self._task, description=what)
        else:
            self._progress.advance(self._task)

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False)


def label(record: dict[str, Any]) -> str:
    """Peer and mode."""
    mode = record["mode"]
    return str(record["peer"]) + ("" if mode == "default" else f" {mode}")


def show(records: Iterable[dict[str, Any]], console: Console) -> None:
    """A table per section and number of ranks: a line per peer, a column per operation, µs."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for record in records:
        if "op" in record and "time_us" in record:
            groups.setdefault((record["section"], record["ranks"], record["op"]), []).append(record)
    for (section, ranks, op), group in groups.items():
        table = Table(title=f"{section}: {op}, {ranks} ranks, median µs (! wrong result)")
        columns = list(dict.fromkeys((record["bytes"], record["dtype"]) for record in group))
        table.add_column("peer")
        for nbytes, dtype in columns:
            name = "" if dtype == "float32" else f" {dtype}"
            table.add_column(format_bytes(nbytes) + name, justify="right")
        lines: dict[str, dict[tuple[int, str], str]] = {}
        for record in group:
            text = f"{record['time_us']:,.{2 if record['time_us'] < 100 else 0}f}"
            cells = lines.setdefault(label(record), {})
            cells[record["bytes"], record["dtype"]] = text + ("!" if record["wrong"] else "")
        for name, cells in lines.items():
            table.add_row(name, *(cells.get(what, "") for what in columns))
        console.print(table)


def show_goals(rows: Iterable[Row], console: Console) -> None:
    """The goals that this run can speak of."""
    table = Table(title="goals")
    for name in ("goal", "what", "wanted", "reached", ""):
        table.add_column(name)
    for row in rows:
        if row.met is not None:
            verdict = "[green]met" if row.met else "[red]missed"
            table.add_row(row.goal, row.what, row.wanted, row.reached, verdict)
    if table.row_count:
        console.print(table)
