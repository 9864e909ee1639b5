"""The checks of tools/: each rule flags what it names, and nothing else."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import check_layers  # noqa: E402
import check_tidy  # noqa: E402
from cpp_blocks import find_blocks  # noqa: E402

TABLE = """\
hora_library(base)
hora_library(tensor      DEPENDS base)
hora_library(wire        DEPENDS base tensor)
hora_library(queue       DEPENDS base wire)
hora_library(fusion      DEPENDS base wire)
hora_library(engine      DEPENDS queue fusion)
hora_python_module(_core bindings DEPENDS engine)
"""


def write(root: Path, files: dict[str, str]) -> Path:
    """Make a tree of `files` below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def layers(root: Path, files: dict[str, str], table: str = TABLE) -> list[str]:
    """Messages of check_layers for a tree of core files."""
    core = {f"csrc/hora/{name}": text for name, text in files.items()}
    write(root, {"csrc/hora/CMakeLists.txt": table, **core})
    return [str(problem) for problem in check_layers.check(root)[1]]


def tidy(root: Path, files: dict[str, str]) -> list[str]:
    """Messages of check_tidy for a tree, without those about headers that nobody includes."""
    problems = check_tidy.check(write(root, files))[1]
    return [str(p) for p in problems if "nothing includes" not in p.message]


@pytest.mark.parametrize(
    ("file", "include"),
    [
        ("queue/tensor_queue.cc", '"hora/queue/tensor_queue.h"'),
        ("queue/tensor_queue.cc", '"hora/wire/request.h"'),
        ("queue/tensor_queue.cc", '"hora/tensor/shape.h"'),  # through wire
        ("engine/engine.cc", '"hora/fusion/fusion_plan.h"'),
        ("bindings/module.cc", "<pybind11/pybind11.h>"),
        ("base/status.cc", "<vector>"),
        ("base/status.cc", "<fmt/format.h>"),
    ],
)
def test_layers_allow(tmp_path: Path, file: str, include: str) -> None:
    assert layers(tmp_path, {file: f"#include {include}\n"}) == []


@pytest.mark.parametrize(
    ("file", "include", "words"),
    [
        ("queue/tensor_queue.cc", '"hora/fusion/fusion_plan.h"', "queue includes hora/fusion"),
        ("base/status.h", '"hora/tensor/shape.h"', "base includes hora/tensor"),
        ("tensor/shape.h", '"hora/engine/engine.h"', "tensor includes hora/engine"),
        ("queue/handle.h", "<Python.h>", "free of Python"),
        ("engine/engine.h", "<pybind11/pybind11.h>", "free of Python"),
        ("bindings/module.cc", "<torch/extension.h>", "1.4 GB"),
        ("wire/codec.cc", "<ATen/core/Tensor.h>", "TensorView only"),
        ("engine/engine.cc", "<cuda_runtime.h>", "free of CUDA"),
        ("queue/handle.h", '"tensor_queue.h"', "write the path from csrc/"),
        ("newcomer/x.h", '"hora/base/status.h"', "newcomer is missing"),
    ],
)
def test_layers_reject(tmp_path: Path, file: str, include: str, words: str) -> None:
    (message,) = layers(tmp_path, {file: f"// first line\n#include {include}\n"})
    assert words in message
    assert message.startswith(f"csrc/hora/{file}:")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "hora_library(negotiation DEPENDS base queue)",
            "stage negotiation depends on stage queue",
        ),
        ("hora_library(kernels DEPENDS base engine)", "kernels depends on the higher layer"),
        ("hora_library(kernels DEPENDS shm)", "no line above it declares"),
        ("hora_library(misc DEPENDS base)", "misc has no layer"),
    ],
)
def test_layers_reject_a_table_against_the_design(tmp_path: Path, line: str, words: str) -> None:
    (message,) = layers(tmp_path, {}, TABLE + line + "\n")
    assert words in message


def function_of(lines: int) -> str:
    """A C++ function that spans `lines` lines."""
    return "void Long() {\n" + "  Step();\n" * (lines - 2) + "}\n"


def struct_of(fields: int) -> str:
    declarations = "".join(f"  int field_{i} = 0;\n" for i in range(fields))
    return f"struct Wide {{\n{declarations}  int Sum() const {{ return 0; }}\n}};\n"


def python_function_of(lines: int, docstring: int = 0) -> str:
    doc = '    """Say.\n' + "    more\n" * (docstring - 2) + '    """\n' if docstring else ""
    return "def long():\n" + doc + "    step()\n" * (lines - 1)


ACCEPTED = {
    "header of 250 lines": ("csrc/hora/base/a.h", "#pragma once\n" * 250),
    "source of 500 lines": ("csrc/hora/base/a.cc", "\n" * 500),
    "line of 100 columns": ("python/hora/a.py", "# " + "é" * 98 + "\n"),
    "function of 70 lines": ("csrc/hora/base/a.cc", function_of(70)),
    "Python function of 70 lines": ("python/hora/a.py", python_function_of(70, docstring=20)),
    "struct of 12 fields": ("csrc/hora/base/a.h", "#pragma once\n" + struct_of(12)),
    "word inside a word": ("csrc/hora/base/commonplace.cc", "class Utility {};\n"),
    "forbidden word in a comment": ("csrc/hora/base/a.cc", "// class Helper is gone\n"),
    "using namespace in a source": ("csrc/hora/base/a.cc", "using namespace std::literals;\n"),
    "monotonic clock": ("python/hora/a.py", "import time\nnow = time.monotonic()\n"),
    "wall clock in the timeline": ("csrc/hora/observe/timeline.cc", "system_clock::now();\n"),
    "wall clock in a comment": ("csrc/hora/base/a.cc", "// not system_clock\n"),
    "wall clock in a string": ("python/hora/a.py", "words = 'time.time()'  # time.time()\n"),
    "poll with a timeout": ("csrc/hora/base/a.cc", "int n = poll(fds, 1, timeout_ms);\n"),
    "futex with a timeout": ("csrc/hora/base/a.cc", "Futex(word, FUTEX_WAIT, old, &timeout);\n"),
}

REJECTED = {
    "header of 251 lines": ("csrc/hora/base/a.h", "#pragma once\n" * 251, "251 lines, at most 250"),
    "source of 501 lines": ("csrc/hora/base/a.cc", "\n" * 501, "501 lines, at most 500"),
    "test of 501 lines": ("tests/cpp/base/a_test.cc", "\n" * 501, "501 lines, at most 500"),
    "line of 101 columns": ("python/hora/a.py", "#" * 101 + "\n", "101 columns"),
    "function of 71 lines": ("csrc/hora/base/a.cc", function_of(71), "function Long has 71 lines"),
    "Python function of 71 lines": ("tools/a.py", python_function_of(71), "function long has 71"),
    "struct of 13 fields": (
        "csrc/hora/base/a.h",
        "#pragma once\n" + struct_of(13),
        "struct Wide has 13 fields",
    ),
    "file called helpers": ("python/hora/test_helpers.py", "", '"helpers" does not say'),
    "C++ class called manager": ("csrc/hora/base/a.cc", "class TensorManager {};\n", '"manager"'),
    "Python class called manager": (
        "python/hora/a.py",
        "class RankManager:\n    pass\n",
        '"manager"',
    ),
    "header without a guard": ("csrc/hora/base/a.h", "int x();\n", "without #pragma once"),
    "using namespace in a header": (
        "csrc/hora/base/a.h",
        "#pragma once\nusing namespace std;\n",
        "a.h:2: using namespace",
    ),
    "wall clock in Python": ("python/hora/a.py", "start = time.time()\n", "monotonic clock"),
    "wall clock in C++": ("csrc/hora/base/a.cc", "auto t = system_clock::now();\n", "monotonic"),
    "clock_gettime of dates": ("csrc/hora/base/a.cc", "Get(CLOCK_REALTIME);\n", "monotonic"),
    "poll for ever": ("csrc/hora/base/a.cc", "poll(fds.data(), 1, -1);\n", "without a deadline"),
    "futex for ever": (
        "csrc/hora/base/a.cc",
        "\nsyscall(SYS_futex, w, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);\n",
        "a.cc:2: wait without a deadline",
    ),
    "README of 151 lines": ("README.md", "line\n" * 151, "151 lines, at most 150"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_tidy_accepts(tmp_path: Path, case: str) -> None:
    file, text = ACCEPTED[case]
    assert tidy(tmp_path, {file: text}) == []


@pytest.mark.parametrize("case", REJECTED)
def test_tidy_rejects(tmp_path: Path, case: str) -> None:
    file, text, words = REJECTED[case]
    (message,) = tidy(tmp_path, {file: text})
    assert words in message
    assert message.startswith(file)


def test_tidy_finds_headers_that_nothing_includes(tmp_path: Path) -> None:
    files = {
        "csrc/hora/base/used.h": "#pragma once\n",
        "csrc/hora/base/dead.h": "#pragma once\n",
        "csrc/hora/base/user.cc": '#include "hora/base/used.h"\n',
    }
    (problem,) = check_tidy.check(write(tmp_path, files))[1]
    assert str(problem) == "csrc/hora/base/dead.h:1: nothing includes hora/base/dead.h"


def test_blocks_see_through_initialisers_lambdas_and_nested_types() -> None:
    code = """\
namespace hora {
class Ring final : public Base {
 public:
  explicit Ring(int size) : size_{size}, mask_(size - 1) {
    auto step = [&](int x) { return x; };
  }
 private:
  int size_;
};
struct Pair {
  struct Inner {
    int a;
  };
  alignas(64) std::atomic<int> first{0};
  std::vector<int> second = {1, 2};
  static constexpr int kLimit = 3;
  using Self = Pair;
};
}
"""
    blocks = [b for b in find_blocks(code) if b.kind != "inner"]
    assert [(b.kind, b.name, b.line_count) for b in blocks] == [
        ("scope", "namespace hora", 19),
        ("class", "Ring", 8),
        ("function", "Ring", 3),
        ("struct", "Pair", 9),
        ("struct", "Inner", 3),
    ]
    assert [len(b.fields) for b in blocks if b.kind == "struct"] == [2, 1]


@pytest.mark.parametrize("check", [check_layers.check, check_tidy.check])
def test_the_checks_read_the_project_itself(check) -> None:
    count, _ = check(ROOT)
    assert count > 0
