"""init, shutdown and what happens at exit, over a fake engine."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hora.errors import HoraError, PeerFailedError, UsageError


@pytest.fixture
def runtime(hvd):
    import hora.runtime

    return hora.runtime


def test_init_twice_starts_once(core, hvd):
    hvd.init()
    assert core.starts == 1
    assert hvd.is_initialized()


def test_init_fails_and_is_tried_again(core, hvd):
    hvd.shutdown()
    core.fail_init = HoraError("rank 1 is missing")
    with pytest.raises(HoraError, match="missing"):
        hvd.init()
    assert not hvd.is_initialized()
    core.fail_init = None
    hvd.init()
    assert hvd.is_initialized()


def test_init_and_shutdown_in_a_loop(core, hvd):
    hook = sys.excepthook
    for _ in range(100):
        hvd.shutdown()
        hvd.init()
    assert sys.excepthook is hook
    assert core.starts == 101


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan"])
def test_a_senseless_timeout_is_named(hvd, monkeypatch, text):
    hvd.shutdown()
    monkeypatch.setenv("HORA_START_TIMEOUT_SECONDS", text)
    with pytest.raises(UsageError, match=f"HORA_START_TIMEOUT_SECONDS='{text}'"):
        hvd.init()


def test_peers_learn_of_an_uncaught_exception(core, runtime, capsys):
    error = ValueError("first line\n  second line")
    sys.excepthook(ValueError, error, None)
    runtime._leave(runtime.os.getpid())
    assert core.aborted == ["rank 0 ended with ValueError: first line second line"]
    assert "first line" in capsys.readouterr().err  # the hook before ours has run too
    assert not core.is_initialized()


@pytest.mark.parametrize("second", [KeyboardInterrupt, ValueError])
def test_an_interruption_while_the_failure_is_noted(core, runtime, capsys, second):
    class Interrupted(RuntimeError):
        interrupt = True

        def __str__(self):
            if self.interrupt:
                self.interrupt = False
                raise second
            return "first"

    sys.excepthook(Interrupted, Interrupted(), None)
    runtime._leave(runtime.os.getpid())
    assert core.aborted == ["rank 0 ended with Interrupted"]
    assert "Interrupted: first" in capsys.readouterr().err


def test_the_failure_of_a_peer_is_not_passed_on(core, runtime, capsys):
    sys.excepthook(PeerFailedError, PeerFailedError("rank 1 is gone"), None)
    runtime._leave(runtime.os.getpid())
    assert core.aborted == []
    assert not core.is_initialized()
    capsys.readouterr()


def test_a_forked_child_leaves_nothing(core, runtime):
    runtime._leave(runtime.os.getpid() + 1)
    assert core.is_initialized()


def test_constants_are_the_engines(hvd):
    import fake_core

    for op in (hvd.Average, hvd.Sum, hvd.Min, hvd.Max, hvd.Product):
        assert int(op) == getattr(fake_core, op.name)


def test_importing_hora_leaves_the_compiler_alone():
    # PyTorch's takes most of a second to import.
    script = "import sys, torch, hora.torch; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_numbers_of_objects_start_anew_in_another_group(hvd):
    def names():
        return [hvd.MetricAverager("loss")._name, hvd.DistributedLossReducer()._name]

    first, second = names(), names()
    assert first != second
    hvd.shutdown()
    assert names() == first
    hvd.init()  # what was made in between keeps its number
    assert names() == second
