"""``hora bench``: collectives on this machine, in the columns of nccl-tests."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hora.cli import bench_options

__all__ = ["HEADING", "line_of", "main"]

_MEASURES = f"{'time':>9} {'algbw':>7} {'busbw':>7} {'#wrong':>6}"
_UNITS = f"{'(us)':>9} {'(GB/s)':>7} {'(GB/s)':>7} {'':>6}"
HEADING = "\n".join(
    (
        f"#{'':>51} {'out-of-place':>32} {'in-place':>32}",
        f"#{'size':>11} {'count':>11} {'type':>9} {'redop':>8} {'root':>5}    {_MEASURES}"
        f"  {_MEASURES}  library",
        f"#{'(B)':>11} {'(elements)':>11} {'':>9} {'':>8} {'':>5}    {_UNITS}  {_UNITS}",
    )
)


def line_of(record: dict[str, Any]) -> str:
    """One row of the table."""
    what = (
        f" {record['bytes']:>11} {record['count']:>11} {record['dtype']:>9} "
        f"{record['redop']:>8} {record['root']:>5}"
    )
    forms = (_measures(record.get(form)) for form in ("out_of_place", "in_place"))
    return f"{what}    {'  '.join(forms)}  {record['library']}"


def _measures(figures: dict[str, float] | None) -> str:
    if figures is None:
        return f"{'-':>9} {'-':>7} {'-':>7} {'-':>6}"
    time_us = figures["time_us"]
    digits = 2 if time_us < 1000 else 1 if time_us < 10_000 else 0
    return (
        f"{time_us:>9.{digits}f} {figures['algbw_GBps']:>7.2f} {figures['busbw_GBps']:>7.2f} "
        f"{figures['wrong']:>6}"
    )


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """What was asked for, and what the ranks are told. Leaves with code 2 for a usage error."""
    parser = bench_options.make_parser()
    args = parser.parse_args(words)
    try:
        sizes = bench_options.sizes_between(args.min_bytes, args.max_bytes, args.step_factor)
        operations = bench_options.chosen(args.collectives)
    except ValueError as error:
        parser.error(str(error))
    told = {key: getattr(args, key) for key in ("op", "dtype", "iters", "warmup", "peers")}
    return args, {
        **told,
        "zero_copy": args.zero_copy,
        "sizes": sizes,
        "operations": operations,
    }


def _records(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            print(line, end="", file=sys.stderr)  # something that a library printed
            continue
        yield record


def _show(records: Iterator[dict[str, Any]], total: int) -> list[dict[str, Any]]:
    """Prints rows as they come, above a progress bar when a person looks on."""
    from rich.console import Console
    from rich.progress import Progress

    rows: list[dict[str, Any]] = []
    previous = ""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=total)
        for record in records:
            progress.advance(task)
            if "skipped" in record:
                print(f"# {record['skipped']}", flush=True)
                continue
            if record["collective"] != previous:
                previous = record["collective"]
                print(f"# {previous}, {record['ranks']} ranks\n{HEADING}", flush=True)
            print(line_of(record), flush=True)
            rows.append(record)
    return rows


def _all_figures(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row[form] for row in rows for form in ("out_of_place", "in_place") if form in row]


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    """The last lines that nccl-tests prints, too."""
    wrong = sum(figures["wrong"] for figures in _all_figures(rows))
    own = _all_figures([row for row in rows if row["library"] == "hora"])
    average = sum(figures["busbw_GBps"] for figures in own) / max(1, len(own))
    verdict = "OK" if wrong == 0 else "FAILED"
    return f"# Out of bounds values : {wrong} {verdict}\n# Avg bus bandwidth    : {average:.4g}"


def main(words: Sequence[str]) -> int:
    """Runs ``hora bench``; 1 when a result was wrong or a rank failed, 130 when interrupted."""
    if words and words[0] == "plot":
        from hora.cli.bench_plot import main as plot

        return plot(words[1:])
    args, told = _options(words)
    launch = (sys.executable, "-m", "hora.launch", "-np", str(args.num_proc), "--no-prefix", "--")
    process = subprocess.Popen(
        [*launch, sys.executable, "-m", "hora.cli.bench_worker", json.dumps(told)],
        env={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **os.environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    libraries = 2 if args.peers else 1
    try:
        rows = _show(_records(process), len(told["sizes"]) * len(told["operations"]) * libraries)
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        return 130
    if args.json:
        lines = (json.dumps(row, sort_keys=True) + "\n" for row in rows)
        args.json.write_text("".join(lines), encoding="utf-8")
    print(_summary(rows))
    return code or int(any(figures["wrong"] for figures in _all_figures(rows)))
