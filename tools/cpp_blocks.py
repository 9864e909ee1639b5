"""Finds functions and structs in C++ text by its braces: light, and right for formatted code.

It relies on the layout that .clang-format gives: the brace that opens a body stands after a space,
the brace of an initialiser directly after a name, and a name is on the line of its keyword.
"""

import re
from dataclasses import dataclass, field

RECORD = re.compile(r"\b(class|struct|union)\s+(?:\[\[\w+\]\]\s*)?([\w:]+)[^()]*$")
SCOPE = re.compile(r"\b(?:namespace|enum|extern)\b[^()]*$")
FUNCTION = re.compile(r"([~\w]+|operator\W+)\s*\(")
NOT_A_FIELD = re.compile(r"^(?:using|static|friend|typedef|template|enum|class|struct|union)\b")
# What stands in front of a declaration without being part of it.
PREFIX = re.compile(
    r"\b(?:public|protected|private)\s*:(?!:)|\balignas\s*\([^()]*(?:\([^()]*\))?\)"
)


@dataclass
class Block:
    """One pair of braces: its kind, its name, its lines, and the fields if it is a struct."""

    kind: str  # "function", "struct", "class", "scope" or "inner" (anything inside a function)
    name: str
    first_line: int
    line_count: int = 0
    fields: list[str] = field(default_factory=list)
    head: str = ""  # the text before the brace, restored when an initialiser ends


def find_blocks(code: str) -> list[Block]:
    """Return the blocks of `code` (comments and literals already blanked), outermost first."""
    found: list[Block] = []
    stack: list[Block] = []
    head, line = "", 1
    for index, char in enumerate(_without_directives(code)):
        if char == "\n":
            line += 1
        if char == "{":
            block = _open(head, stack, line, tight=not code[index - 1].isspace())
            found.append(block)
            stack.append(block)
            head = ""
        elif char == "}" and stack:
            block = stack.pop()
            block.line_count = line - block.first_line + 1
            # After an initialiser or a nested type the statement goes on: `int x{0};`, `} field;`.
            head = block.head + " {}" if block.kind == "inner" else ""
        elif char == ";":
            _end_statement(head, stack)
            head = ""
        else:
            head += char
    return found


def _without_directives(code: str) -> str:
    """Blank preprocessor lines, which may hold unbalanced braces; keep every position."""
    return re.sub(
        r"^[ \t]*#(?:[^\n\\]|\\\n|\\.)*",
        lambda match: re.sub(r"[^\n]", " ", match[0]),
        code,
        flags=re.MULTILINE,
    )


def _open(head: str, stack: list[Block], line: int, *, tight: bool) -> Block:
    text = " ".join(PREFIX.sub(" ", head).split())
    inside_function = any(block.kind in {"function", "inner"} for block in stack)
    if inside_function or tight or text.endswith("="):
        return Block("inner", "", line, head=head)
    first_line = line - PREFIX.sub(" ", head).lstrip().count("\n")
    if record := RECORD.search(text):
        return Block(record[1], record[2], first_line)
    if SCOPE.search(text) or not text:
        return Block("scope", text, first_line)
    if function := FUNCTION.search(text):
        return Block("function", function[1], first_line)
    return Block("inner", "", line, head=head)


def _end_statement(head: str, stack: list[Block]) -> None:
    """Note the field that a `;` ends, when the statement stands directly in a struct."""
    if not stack or stack[-1].kind != "struct":
        return
    text = " ".join(PREFIX.sub(" ", head).split())
    declared = re.split(r"=|\{", text)[0]
    if declared and "(" not in declared and not NOT_A_FIELD.match(declared):
        stack[-1].fields.append(declared)
