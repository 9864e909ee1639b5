"""What the values of HORA_* variables may be, and the variables that Python itself reads.

The engine reads most variables (csrc/hora/base/config.h). The launcher checks what it passes on
with the same ranges, so that a mistake is explained before anything starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from hora.errors import UsageError

__all__ = ["marks_cycles", "rank_path", "timeline_path"]

# Takes a user's word and returns the variable's value; raises ValueError saying what is wrong.
Reader = Callable[[str], str]

LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "off")
LONGEST_WARNING_S = 86400
LONGEST_ABORT_S = 604800
NEVER_STALLED = {"HORA_STALL_WARNING_SECONDS": "0", "HORA_STALL_ABORT_SECONDS": "0"}
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def whole(low: int, high: int, unit: int = 1) -> Reader:
    """Whole numbers from ``low`` to ``high``, multiplied by ``unit``."""

    def read(word: str) -> str:
        text = word.strip()
        # len() first: int() of a very long digit string is slow and, from Python 3.11, an error.
        if text.isascii() and text.isdigit() and len(text) <= 18 and low <= int(text) <= high:
            return str(int(text) * unit)
        raise ValueError(f"{word!r} is not a whole number from {low} to {high}")

    return read


def number(low: float, high: float, what: str = "a number") -> Reader:
    """Decimal numbers from ``low`` to ``high``."""

    def read(word: str) -> str:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # true for NaN
            raise ValueError(f"{word!r} is not {what} from {low:.12g} to {high:.12g}")
        return f"{value:.12g}"

    return read


def seconds(high: float, low: float = 0.01) -> Reader:
    """Seconds, fractions included."""
    return number(low, high, "a number of seconds")


def seconds_or_never(high: float) -> Reader:
    """Seconds, where 0 means never."""

    def read(word: str) -> str:
        try:
            never = float(word) == 0
        except ValueError:
            never = False
        return "0" if never else seconds(high)(word)

    return read


def stall_warning(word: str) -> str:
    """Horovod's seconds until a warning; 0 means at once."""
    return f"{max(0.01, float(seconds(LONGEST_WARNING_S, 0)(word))):.12g}"


def stall_abort(word: str) -> str:
    """Horovod's seconds until a stalled job is ended; 0 means never."""
    value = seconds(LONGEST_ABORT_S, 0)(word)
    return "0" if float(value) == 0 else f"{max(0.01, float(value)):.12g}"


def switch(word: str) -> str:
    """Returns "1" or "0"."""
    text = word.strip().lower()
    if text not in _TRUE + _FALSE:
        raise ValueError(f"{word!r} is neither 1 nor 0")
    return "1" if text in _TRUE else "0"


def one_of(*words: str) -> Reader:
    """One of these words, as they are."""

    def read(word: str) -> str:
        if word not in words:
            raise ValueError(f"{word!r} is not one of {', '.join(words)}")
        return word

    return read


def log_level(word: str) -> str:
    """A level's name in any case; Horovod's "fatal" is "off", for there are no fatal messages."""
    text = word.strip().lower()
    if text == "fatal":
        return "off"
    if text not in LOG_LEVELS:
        raise ValueError(f"{word!r} is not one of {', '.join(LOG_LEVELS)}")
    return text


def output_file(word: str) -> str:
    """A file that can be made: its folder is there."""
    if not word:
        raise ValueError("'' is not the name of a file")
    if not Path(word).parent.is_dir():
        raise ValueError(f"{word!r}: there is no folder {str(Path(word).parent)!r}")
    return word


def timeline_path(environ: Mapping[str, str], rank: int) -> Path | None:
    """The file that ``rank`` writes its timeline to from ``init`` on.

    ``HORA_TIMELINE`` names rank 0's. None when it is not set, or ``DYNAMIC``: then a timeline
    begins with ``start_timeline`` (which needs no variable at all).
    """
    path = environ.get("HORA_TIMELINE", "")
    return rank_path(Path(path), rank) if path not in ("", "DYNAMIC") else None


def rank_path(path: Path, rank: int) -> Path:
    """``path`` itself for rank 0; ``trace.rank3.json`` for rank 3 and ``trace.json``."""
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path


def marks_cycles(environ: Mapping[str, str]) -> bool:
    """Whether HORA_TIMELINE_MARK_CYCLES asks for a mark per batch; raises UsageError."""
    word = environ.get("HORA_TIMELINE_MARK_CYCLES") or "0"
    try:
        return switch(word) == "1"
    except ValueError as error:
        raise UsageError(f"HORA_TIMELINE_MARK_CYCLES={error}") from None
