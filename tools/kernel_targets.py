#!/usr/bin/env python3
"""Prints which GPUs the kernels in a library are compiled for, and for which as PTX.

    tools/kernel_targets.py build/release/plugins/hora_cuda.so

Reads what nvcc puts into a section of the library: a header, then entries, each with a header of
its own before its (compressed) code. So it needs no part of CUDA's toolkit.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = struct.pack("<I", 0xBA55ED50)
_FAT = struct.Struct("<4sHHQ")  # magic, version, size of this header, bytes that follow
_ENTRY = struct.Struct("<HHIQ12xI")  # kind, version, header's size, code's size, …, architecture
_PTX, _CODE = 1, 2


class Targets(NamedTuple):
    """Compute capabilities as 90 for 9.0: of machine code, and of PTX."""

    code: frozenset[int]
    ptx: frozenset[int]


def _entries(library: bytes) -> Iterator[tuple[int, int]]:
    begin = library.find(_MAGIC)
    while 0 <= begin <= len(library) - _FAT.size:
        _, _, header, size = _FAT.unpack_from(library, begin)
        place, end = begin + header, begin + header + size
        while header == _FAT.size and place + _ENTRY.size <= min(end, len(library)):
            kind, _, own, code, architecture = _ENTRY.unpack_from(library, place)
            yield kind, architecture
            if own < _ENTRY.size:
                break  # no header that we know
            place += own + code
        begin = library.find(_MAGIC, begin + len(_MAGIC))


def targets(path: Path) -> Targets:
    """For which GPUs ``path`` has kernels; both sets are empty where it has none."""
    found = set(_entries(path.read_bytes()))
    return Targets(
        frozenset(architecture for kind, architecture in found if kind == _CODE),
        frozenset(architecture for kind, architecture in found if kind == _PTX),
    )


def main(words: list[str]) -> int:
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    found = targets(Path(words[0]))
    print("code:", *sorted(found.code))
    print("PTX:", *sorted(found.ptx))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
