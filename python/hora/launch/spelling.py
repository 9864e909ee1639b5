"""Near misses: what a mistyped word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ": did you mean …?" when something known is a near miss, else ""."""
    bare = {name.lstrip("-"): name for name in known}  # the dashes would make all options alike
    close = difflib.get_close_matches(word.lstrip("-"), list(bare), n=1, cutoff=0.66)
    return f": did you mean {bare[close[0]]}?" if close else ""
