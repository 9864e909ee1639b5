"""The guide's examples are Python, and say only what there is."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "training.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def test_the_guide_has_examples():
    assert len(EXAMPLES) > 10


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples(hvd, example):
    import hora.data

    modules = {"hvd": hvd, "hora.data": hora.data}
    tree = ast.parse(example)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules:
            assert hasattr(modules[ast.unparse(node.value)], node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("hvd."):
            known = inspect.signature(getattr(hvd, ast.unparse(node.func)[4:])).parameters
            takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
            for keyword in node.keywords:
                assert takes_any or keyword.arg in known
