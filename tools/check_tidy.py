#!/usr/bin/env python3
"""Check the sizes and habits that keep the tree legible.

Each rule is a function over one file (or over the whole tree) that yields problems; its docstring
says why it exists. The measures are light on purpose: they read text, not a syntax tree of C++.

Usage: tools/check_tidy.py [ROOT]
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cpp_blocks import find_blocks
from source_tree import Problem, SourceFile, read_tree, run_check

MAX_COLUMNS = 100
MAX_HEADER_LINES = 250
MAX_SOURCE_LINES = 500
MAX_FUNCTION_LINES = 70
MAX_STRUCT_FIELDS = 12
MAX_README_LINES = 150

FORBIDDEN_WORDS = {"util", "utils", "common", "helper", "helpers", "manager", "managers"}
WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

WALL_CLOCK = re.compile(r"\btime\.time(_ns)?\(|\bsystem_clock\b|\bCLOCK_REALTIME\b")
ENDLESS_WAIT = re.compile(
    r"\bpoll\([^;]*,\s*-1\s*\)"
    r"|\bepoll_p?wait\([^;]*,\s*-1\s*[,)]"
    r"|\bFUTEX_WAIT\w*\s*,[^,;]+,\s*(nullptr|NULL|0)\s*[,)]"
)

FileRule = Callable[[SourceFile], Iterator[Problem]]


def file_size(source: SourceFile) -> Iterator[Problem]:
    """A file that needs more lines holds a second concept."""
    limit = MAX_HEADER_LINES if source.is_header else MAX_SOURCE_LINES
    if len(source.lines) > limit:
        yield source.problem(limit + 1, f"{len(source.lines)} lines, at most {limit}: split it")


def line_length(source: SourceFile) -> Iterator[Problem]:
    """Two files fit side by side."""
    for number, line in enumerate(source.lines, 1):
        if len(line) > MAX_COLUMNS:
            yield source.problem(number, f"{len(line)} columns, at most {MAX_COLUMNS}")


def function_size(source: SourceFile) -> Iterator[Problem]:
    """A function is read on one screen; a Python docstring does not count."""
    if source.is_cpp:
        functions = [
            (b.name, b.first_line, b.line_count)
            for b in find_blocks(source.code)
            if b.kind == "function"
        ]
    else:
        functions = [
            (node.name, node.lineno, (node.end_lineno or 0) - node.lineno + 1 - _docstring(node))
            for node in ast.walk(ast.parse(source.text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
    for name, line, count in functions:
        if count > MAX_FUNCTION_LINES:
            message = f"function {name} has {count} lines, at most {MAX_FUNCTION_LINES}"
            yield source.problem(line, message)


def _docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def struct_size(source: SourceFile) -> Iterator[Problem]:
    """More fields than this are several things: group them."""
    if not source.is_cpp:
        return
    for block in find_blocks(source.code):
        if block.kind == "struct" and len(block.fields) > MAX_STRUCT_FIELDS:
            message = f"{len(block.fields)} fields, at most {MAX_STRUCT_FIELDS}: group them"
            yield source.problem(block.first_line, f"struct {block.name} has {message}")


def names(source: SourceFile) -> Iterator[Problem]:
    """A name says what the thing is for, which these words never do."""
    defined = [(1, "file", source.path.stem)]
    pattern = r"^\s*(?:class|struct)\s+(\w+)" + ("" if source.is_cpp else r"\s*[(:]")
    for number, line in enumerate(source.code.splitlines(), 1):
        if match := re.match(pattern, line):
            defined.append((number, "class", match[1]))
    for number, kind, name in defined:
        for word in FORBIDDEN_WORDS & {w.lower() for w in WORD.findall(name)}:
            yield source.problem(number, f'{kind} {name}: "{word}" does not say what it is for')


def header_habits(source: SourceFile) -> Iterator[Problem]:
    """A header is guarded and leaks no names into its includers."""
    if not source.is_header:
        return
    if not re.search(r"^#pragma once$", source.text, re.MULTILINE):
        yield source.problem(1, "header without #pragma once")
    for number, line in enumerate(source.code.splitlines(), 1):
        if re.search(r"\busing\s+namespace\b", line):
            yield source.problem(number, "using namespace in a header")


def monotonic_time(source: SourceFile) -> Iterator[Problem]:
    """The wall clock jumps; only a timeline, whose reader wants dates, may ask for it."""
    if "timeline" in source.path.stem:
        return
    for number, line in enumerate(source.code.splitlines(), 1):
        if match := WALL_CLOCK.search(line):
            yield source.problem(number, f"{match[0]}: use a monotonic clock")


def bounded_waits(source: SourceFile) -> Iterator[Problem]:
    """Every wait has a deadline, or a lost peer hangs the job."""
    if not source.is_cpp:
        return
    for match in ENDLESS_WAIT.finditer(source.code):
        line = source.code.count("\n", 0, match.start()) + 1
        yield source.problem(line, "wait without a deadline: give it a timeout")


FILE_RULES: tuple[FileRule, ...] = (
    file_size,
    line_length,
    function_size,
    struct_size,
    names,
    header_habits,
    monotonic_time,
    bounded_waits,
)


def dead_headers(sources: list[SourceFile]) -> Iterator[Problem]:
    """A header that nobody includes is not part of the program."""
    included = {path for source in sources for _, path in source.includes()}
    for source in sources:
        if source.is_header and source.path.parts[0] == "csrc":
            inside = source.path.relative_to("csrc").as_posix()
            if inside not in included:
                yield source.problem(1, f"nothing includes {inside}")


def readme_size(root: Path) -> Iterator[Problem]:
    """The README is the front door; the house is in docs/."""
    readme = root / "README.md"
    count = len(readme.read_text(encoding="utf-8").splitlines()) if readme.exists() else 0
    if count > MAX_README_LINES:
        message = f"{count} lines, at most {MAX_README_LINES}"
        yield Problem(Path("README.md"), MAX_README_LINES + 1, message)


def check(root: Path) -> tuple[int, list[Problem]]:
    """Apply every rule to every file of `root`."""
    sources = read_tree(root)
    problems = [p for source in sources for rule in FILE_RULES for p in rule(source)]
    problems += dead_headers(sources)
    problems += readme_size(root)
    return len(sources), problems


if __name__ == "__main__":
    sys.exit(run_check("check_tidy", check))
