"""``hora bench plot``: draws the log of the autotuner."""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sample", "main", "plot", "read_log"]

_PARAMETERS = ("fusion_threshold_bytes", "chunk_bytes", "small_allreduce_bytes", "urgent_bytes")
_MEASURED = ("sample", "phase", "seconds", "bytes", "gigabytes_per_second", "relative_speed")
_COLUMNS = (*_MEASURED, *_PARAMETERS)


class NotALogError(ValueError):
    """A file that the autotuner has not written."""


class PlotLibraryMissingError(ImportError):
    """Matplotlib is not installed."""


@dataclass(frozen=True)
class Sample:
    """One line of the log: how fast operations were with one tuning."""

    number: int
    phase: str  # warmup, start, screen, duel, check or settled
    relative_speed: float  # to the mean of all steps of about the same size
    parameters: tuple[int, ...]  # bytes, in the order of the log's columns


def read_log(path: Path) -> list[Sample]:
    """The samples of the autotuner's last run in the file; a line that is cut short is left out.

    Raises ``NotALogError`` and ``OSError``.
    """
    samples: list[Sample] = []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != _COLUMNS:
            raise NotALogError(f"{path} is no log of the autotuner (HORA_AUTOTUNE_LOG)")
        for row in rows:
            if tuple(row) == _COLUMNS:  # a later run appended its own
                samples.clear()
            elif len(row) == len(_COLUMNS) and row[-1]:
                samples.append(Sample(int(row[0]), row[1], float(row[5]), tuple(map(int, row[6:]))))
    if not samples:
        raise NotALogError(f"{path} has no samples yet; the autotuner adds one every few steps")
    return samples


def plot(samples: Sequence[Sample], target: Path) -> None:
    """Draws speed, the best so far, and the parameters over the samples.

    The format is that of ``target``'s suffix. Raises ``PlotLibraryMissingError``, ``ValueError``
    for a suffix that is no format, and ``OSError``.
    """
    try:
        canvas = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
        figure = importlib.import_module("matplotlib.figure").Figure(
            figsize=(9, 7), layout="constrained"
        )
    except ImportError:
        raise PlotLibraryMissingError("plots need matplotlib: pip install 'hora[plot]'") from None
    canvas(figure)
    numbers = [sample.number for sample in samples]
    speed, tuning = figure.subplots(2, 1, sharex=True)
    for phase in dict.fromkeys(sample.phase for sample in samples):
        chosen = [sample for sample in samples if sample.phase == phase]
        marker = "*" if phase == "settled" else "o"
        speed.plot(
            [sample.number for sample in chosen],
            [sample.relative_speed for sample in chosen],
            marker,
            label=phase,
        )
    speed.plot(numbers, _best_so_far(samples), drawstyle="steps-post", label="best so far")
    speed.set_ylabel("speed, relative to steps of the same size")
    speed.legend(loc="lower right", ncols=2)
    for index, name in enumerate(_PARAMETERS):
        values = [max(sample.parameters[index], 1) for sample in samples]
        tuning.plot(numbers, values, drawstyle="steps-post", label=name.replace("_", " "))
    tuning.set_yscale("log", base=2)
    tuning.set_xlabel("sample")
    tuning.legend(loc="upper right")
    figure.savefig(target)


def _best_so_far(samples: Sequence[Sample]) -> list[float]:
    best, line = 0.0, []
    for sample in samples:
        if sample.phase != "warmup":
            best = max(best, sample.relative_speed)
        line.append(best if best else float("nan"))
    return line


def main(words: Sequence[str]) -> int:
    """Runs ``hora bench plot``; returns 1 when a file or a library is not what is needed."""
    parser = argparse.ArgumentParser(
        prog="hora bench plot",
        description="Draws the log of the autotuner "
        "(HORA_AUTOTUNE=1 HORA_AUTOTUNE_LOG=autotune.csv).",
        allow_abbrev=False,
    )
    parser.add_argument("log", type=Path, metavar="LOG", help="what HORA_AUTOTUNE_LOG named")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("autotune.png"),
        metavar="FILE",
        help="the picture, .png, .svg or .pdf (default: %(default)s)",
    )
    args = parser.parse_args(words)
    try:
        samples = read_log(args.log)
        plot(samples, args.output)
    except (ImportError, OSError, ValueError) as error:
        print(f"hora bench plot: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(samples)} samples, {samples[-1].phase}")
    return 0
