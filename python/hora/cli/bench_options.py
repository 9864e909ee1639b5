"""The options of ``hora bench``, checked, and the sizes that they mean."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "OPERATIONS",
    "REDUCTIONS",
    "chosen",
    "dtype_names",
    "make_parser",
    "parse_bytes",
    "sizes_between",
]

OPERATIONS = ("allreduce", "allgather", "broadcast", "reducescatter", "alltoall")
REDUCTIONS = ("sum", "average", "min", "max", "product")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_bytes(text: str) -> int:
    """``64M`` → 67108864. Raises ``argparse.ArgumentTypeError``."""
    match = re.fullmatch(r"(\d+)([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 4, 64K, 1M or 2G")
    return int(match[1]) * _UNITS[match[2].upper()]


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return number


def dtype_names() -> tuple[str, ...]:
    """Those that every collective here can move and reduce."""
    return (
        "float32", "float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64",
    )  # fmt: skip


def sizes_between(least: int, most: int, factor: int) -> list[int]:
    """``least``, ``least · factor``, … up to ``most``, all in bytes. Raises ``ValueError``."""
    if least > most:
        raise ValueError(f"--min-bytes {least} is more than --max-bytes {most}")
    sizes = [least]
    while sizes[-1] * factor <= most:
        sizes.append(sizes[-1] * factor)
    return sizes


def make_parser() -> argparse.ArgumentParser:
    """Of ``hora bench``; words after it are those of nccl-tests where it has them."""
    parser = argparse.ArgumentParser(
        prog="hora bench",
        description="Measures collectives on this machine, from Python, with the columns of "
        "nccl-tests. 'hora bench plot LOG' draws the log of the autotuner.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "collectives",
        nargs="*",
        metavar="COLLECTIVE",
        default=["allreduce"],
        help=f"{', '.join(OPERATIONS)}, or all (default: allreduce)",
    )
    number: dict[str, Any] = {"type": _at_least(1), "metavar": "N"}
    size: dict[str, Any] = {"type": parse_bytes, "metavar": "SIZE"}
    add("-np", "--num-proc", **number, default=2, help="ranks (%(default)s)")
    of_what = "of the larger of what a rank sends and receives (%(default)s)"
    add("-b", "--min-bytes", **size, default="8", help=of_what)
    add("-e", "--max-bytes", **size, default="64M", help="(%(default)s)")
    add("-f", "--step-factor", type=_at_least(2), default=4, metavar="N", help="(%(default)s)")
    add("-o", "--op", choices=REDUCTIONS, default="sum", help="reduction (%(default)s)")
    add("-d", "--dtype", choices=dtype_names(), default="float32", help="(%(default)s)")
    of_what = "calls in each of the 5 rounds in which libraries take turns (%(default)s)"
    add("-n", "--iters", **number, default=20, help=of_what)
    add("-w", "--warmup", type=_at_least(0), default=5, metavar="N", help="calls (%(default)s)")
    add("--zero-copy", action="store_true", help="in-place operands lie in symmetric memory")
    add("--peers", choices=["gloo"], help="measure torch.distributed's gloo by turns with it")
    add("--json", type=Path, metavar="FILE", help="write the figures as JSON lines, too")
    return parser


def chosen(collectives: Sequence[str]) -> list[str]:
    """The operations that these words name. Raises ``ValueError``."""
    if "all" in collectives:
        return list(OPERATIONS)
    for word in collectives:
        if word not in OPERATIONS:
            raise ValueError(f"no collective {word!r}; there are {', '.join(OPERATIONS)}, all")
    return list(collectives)
