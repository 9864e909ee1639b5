"""How the launcher keeps a rank's progress bar on one row of the screen."""

from __future__ import annotations

import pytest
from hora.launch.terminal import _shorten

RED, PLAIN = b"\x1b[38;5;197m", b"\x1b[0m"


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        (b"short", 80, b"short"),
        (b"x" * 100, 10, b"x" * 9),
        ("━".encode() * 20, 21, "━".encode() * 20),  # three bytes each, one column
        ("━".encode() * 20, 11, "━".encode() * 10),
        (RED + b"bar" + PLAIN + b" 100%", 10, RED + b"bar" + PLAIN + b" 100%"),
        (RED + b"x" * 20 + PLAIN + b"yyy", 10, RED + b"x" * 9 + PLAIN),
    ],
)
def test_lines_are_cut_by_what_shows_and_keep_their_colour_codes(
    text: bytes, columns: int, expected: bytes
) -> None:
    assert _shorten(text, columns) == expected
