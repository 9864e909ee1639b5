#!/usr/bin/env python3
"""Check that #include lines follow the layers.

The table of csrc/hora/CMakeLists.txt is the only one: a folder may include itself, the folders in
its DEPENDS, and what those depend on. This script adds what the table must keep itself (stages do
not know each other, lower layers do not depend on higher ones) and who may see which outside
library.

Usage: tools/check_layers.py [ROOT]
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from source_tree import Problem, SourceFile, read_tree, run_check

TABLE = Path("csrc/hora/CMakeLists.txt")
TABLE_LINE = re.compile(
    r"^hora_(?:library|python_module|torch_module)\((?:_\w+\s+)?(\w+)(?:\s+DEPENDS([\w\s]*))?\)"
)

# Lower layers first. Folders of one layer may use each other only below the stages.
LAYERS = (
    {"base"},
    {"tensor"},
    {"kernels", "wire", "net", "shm", "observe", "cuda"},
    {"queue", "negotiation", "control", "fusion", "collectives"}
    | {"compression", "membership", "autotune"},
    {"engine", "server"},
    {"bindings", "torch_ops"},
)
STAGES = LAYERS[3]
LAYER_OF = {folder: layer for layer, folders in enumerate(LAYERS) for folder in folders}

# Outside headers that only some folders may see: (pattern, folders, reason).
OUTSIDE = (
    (r"torch/(extension|torch)\.h$", (), "it costs 12 s and 1.4 GB per file; use the stable ABI"),
    (r"(torch|ATen|c10)/", ("torch_ops",), "the core knows TensorView only"),
    (r"(Python\.h|pybind11/)", ("bindings",), "the core is free of Python"),
    (r"(cuda\w*|nccl)\.h$", ("cuda", "collectives/nccl"), "the core is free of CUDA"),
    (r"gloo/", ("collectives/gloo",), "Gloo is a plugin"),
    (r"mpi\.h$", ("collectives/mpi",), "MPI is a plugin"),
    (r"openssl/", ("net",), "only net speaks TLS"),
)


def read_table(root: Path) -> tuple[dict[str, set[str]], list[Problem]]:
    """Return {folder: folders it names in DEPENDS} and what is wrong with the table itself."""
    table: dict[str, set[str]] = {}
    problems = []
    for number, line in enumerate((root / TABLE).read_text(encoding="utf-8").splitlines(), 1):
        match = TABLE_LINE.match(line)
        if not match:
            continue
        folder, depends = match[1], set((match[2] or "").split())
        if folder not in LAYER_OF:
            problems.append(Problem(TABLE, number, f"{folder} has no layer in check_layers.py"))
            continue
        for other in sorted(depends):
            if other not in table:
                message = f"{folder} depends on {other}, which no line above it declares"
            elif folder in STAGES and other in STAGES:
                message = f"stage {folder} depends on stage {other}; only engine composes stages"
            elif LAYER_OF[other] > LAYER_OF[folder]:
                message = f"{folder} depends on the higher layer {other}"
            else:
                continue
            problems.append(Problem(TABLE, number, message))
        table[folder] = depends
    return table, problems


def may_include(table: dict[str, set[str]], folder: str) -> set[str]:
    """Everything that `folder` reaches through the table, itself included."""
    reached = {folder}
    pending = [folder]
    while pending:
        new = table.get(pending.pop(), set()) - reached
        reached |= new
        pending += new
    return reached


def check_file(source: SourceFile, table: dict[str, set[str]]) -> Iterator[Problem]:
    """Yield the include lines of one core file that break a layer."""
    inside = source.path.relative_to("csrc/hora")
    folder = inside.parts[0]
    if folder not in table:
        yield source.problem(1, f"folder {folder} is missing in {TABLE}")
        return
    allowed = may_include(table, folder)
    for line, included in source.includes():
        parts = included.split("/")
        if parts[0] == "hora":
            if parts[1] not in allowed:
                names = ", ".join(sorted(allowed - {folder})) or "nothing"
                yield source.problem(line, f"{folder} includes {included}; it may use: {names}")
            continue
        if "/" not in included and '"' in source.lines[line - 1]:
            yield source.problem(line, f'"{included}": write the path from csrc/, "hora/…"')
        for pattern, folders, reason in OUTSIDE:
            if re.match(pattern, included) and not any(
                inside.is_relative_to(privileged) for privileged in folders
            ):
                yield source.problem(line, f"{folder} includes <{included}>: {reason}")
                break


def check(root: Path) -> tuple[int, list[Problem]]:
    """Check every file below csrc/hora of `root`."""
    table, problems = read_table(root)
    core = [f for f in read_tree(root) if f.path.is_relative_to("csrc/hora")]
    for source in core:
        problems += check_file(source, table)
    return len(core), problems


if __name__ == "__main__":
    sys.exit(run_check("check_layers", check))
