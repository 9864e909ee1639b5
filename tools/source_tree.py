"""What the checks share: the files of the tree, text without comments, one problem per line."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

FOLDERS = ("csrc", "python", "tests", "tools", "benchmarks", "examples")
SUFFIXES = (".h", ".cc", ".cu", ".py", ".pyi")
SKIPPED = {"third_party", "__pycache__", "build", "results"}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
CPP_COMMENT_OR_LITERAL = re.compile(
    r"//[^\n]*"
    r"|/\*.*?\*/"
    r'|R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'",
    re.DOTALL,
)
PYTHON_COMMENT_OR_LITERAL = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|#[^\n]*",
    re.DOTALL,
)


@dataclass(frozen=True, order=True)
class Problem:
    """One broken rule, printed as ``path:line: message``."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        """Return the form that editors jump to."""
        return f"{self.path}:{self.line}: {self.message}"


@dataclass
class SourceFile:
    """One file: its path relative to the root, its text, and the part of the text that is code."""

    path: Path
    text: str
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Split the text once; every rule works on lines."""
        self.lines = self.text.splitlines()

    @property
    def is_cpp(self) -> bool:
        return self.path.suffix in {".h", ".cc", ".cu"}

    @property
    def is_header(self) -> bool:
        return self.path.suffix == ".h"

    @cached_property
    def code(self) -> str:
        """The text with comments and literals blanked; line breaks stay where they are."""
        ignored = CPP_COMMENT_OR_LITERAL if self.is_cpp else PYTHON_COMMENT_OR_LITERAL
        return ignored.sub(_blank, self.text)

    def includes(self) -> Iterator[tuple[int, str]]:
        """Yield (line number, included path) of every #include."""
        for number, line in enumerate(self.lines, 1):
            if match := INCLUDE.match(line):
                yield number, match[1]

    def problem(self, line: int, message: str) -> Problem:
        return Problem(self.path, line, message)


def _blank(match: re.Match[str]) -> str:
    text = match[0]
    quote = '""' if text[0] in "\"'R" else ""
    return quote + "\n" * text.count("\n")


def read_tree(root: Path) -> list[SourceFile]:
    """Read every source file below the project's folders, in a stable order."""
    found = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root)
            if path.suffix in SUFFIXES and path.is_file() and not SKIPPED & set(relative.parts):
                found.append(SourceFile(relative, path.read_text(encoding="utf-8")))
    return found


def run_check(name: str, check: Callable[[Path], tuple[int, Iterable[Problem]]]) -> int:
    """Run `check(root)` for the root in argv (default: this project); print and return the status.

    The check returns how many files it read and the problems it found.
    """
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    file_count, found = check(root)
    problems = sorted(found)
    for problem in problems:
        print(problem)
    verdict = f"{len(problems)} problem(s)" if problems else "clean"
    print(f"{name}: {file_count} files, {verdict}")
    return 1 if problems else 0
