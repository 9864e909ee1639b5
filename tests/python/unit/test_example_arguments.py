"""What the examples refuse on the command line, before any rank starts to work."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("option", ["--epochs", "--batch-size"])
@pytest.mark.parametrize("word", ["0", "-1", "few"])
def test_counts_start_at_one(hvd, monkeypatch, capsys, option, word):
    pytest.importorskip("sklearn")
    parse = runpy.run_path(str(EXAMPLES / "02_mnist_mlp.py"))["parse_arguments"]
    monkeypatch.setattr(sys, "argv", ["02_mnist_mlp.py", f"{option}={word}"])
    with pytest.raises(SystemExit):
        parse()
    assert (
        f"argument {option}: '{word}' is not a whole number, 1 or more" in capsys.readouterr().err
    )
