"""``hora.run(function)``: results in rank order, and what every kind of failure turns into."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading

import hora
import pytest
from hora import RankError
from hora.errors import HoraError, UsageError
from launched import DEADLINE_S, default_signals, environment, wait_until_gone


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)


def rank_and(word: str, times: int = 1) -> tuple[int, str]:
    return int(os.environ["RANK"]), word * times


def test_results_are_in_rank_order():
    assert hora.run(rank_and, ("a",), {"times": 2}, np=3) == [(0, "aa"), (1, "aa"), (2, "aa")]


def test_closures_and_lambdas_travel():
    offset = 5
    assert hora.run(lambda: offset + int(os.environ["RANK"]), num_proc=2) == [5, 6]


def test_one_rank_is_the_default():
    assert hora.run(lambda: os.environ["WORLD_SIZE"]) == ["1"]


def test_the_environment_holds_only_what_was_asked_for(monkeypatch):
    monkeypatch.setenv("HOROVOD_FUSION_THRESHOLD", "77")

    def ours() -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k.startswith(("HORA_", "HOROVOD_"))}

    (plain,) = hora.run(ours)
    assert plain.keys() == {
        "HORA_BOOTSTRAP_FD", "HORA_LAUNCHER", "HOROVOD_FUSION_THRESHOLD"
    }  # fmt: skip
    (set_up,) = hora.run(ours, start_timeout=50, horovod=True)
    assert set_up["HORA_START_TIMEOUT_SECONDS"] == "50"
    assert set_up["HORA_FUSION_THRESHOLD_BYTES"] == "77"
    assert (set_up["HOROVOD_RANK"], set_up["HOROVOD_LOCAL_SIZE"]) == ("0", "1")
    assert not [value for value in (*plain.values(), *set_up.values()) if "None" in value]


def test_output_is_shown_as_by_horarun(capfd, tmp_path):
    def talk() -> None:
        print("hello from", os.environ["RANK"])

    hora.run(talk, np=2, output_filename=str(tmp_path), use_gloo=True)
    shown = capfd.readouterr()
    assert sorted(shown.out.splitlines()) == ["[0] hello from 0", "[1] hello from 1"]
    assert "--gloo has no effect" in shown.err
    assert (tmp_path / "rank.1" / "stdout").read_text() == "hello from 1\n"


def test_an_exception_comes_back_with_its_rank_and_traceback(capfd):
    def fail() -> None:
        if os.environ["RANK"] == "1":
            raise KeyError("lost")

    with pytest.raises(RankError) as caught:
        hora.run(fail, np=2)
    error = caught.value
    assert (error.rank, error.kind) == (1, "KeyError")
    assert "rank 1 raised KeyError: 'lost'" in str(error)
    assert 'raise KeyError("lost")' in error.traceback
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "[1]! KeyError: 'lost'" in capfd.readouterr().err


def test_the_cause_is_told_and_not_its_consequence():
    def fail() -> None:
        from hora.errors import PeerFailedError

        if os.environ["RANK"] == "0":
            raise PeerFailedError("rank 1 is gone")
        raise ValueError("the cause")

    with pytest.raises(RankError, match="rank 1 raised ValueError: the cause"):
        hora.run(fail, np=2)


def test_a_result_that_cannot_travel():
    with pytest.raises(RankError, match="the result, a lock, cannot be pickled"):
        hora.run(threading.Lock)


def test_a_function_that_cannot_travel():
    lock = threading.Lock()

    def holding() -> None:
        lock.acquire()

    with pytest.raises(UsageError, match=r"holding or one of its arguments cannot be pickled"):
        hora.run(holding)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: sys.exit(0), "did the function call sys.exit?"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "exit code is 137"),
    ],
)
def test_a_rank_without_a_result(function, message):
    with pytest.raises(HoraError) as caught:
        hora.run(function, np=2)
    assert "ended without a result" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"np": 0}, "'0' is not a whole number of ranks"),
        ({"hosts": "far.invalid:1"}, "on this host only"),
        ({"min_np": 1, "num_proc": 2}, "elastic training is not there yet"),
        ({"use_gloo": True, "use_mpi": True}, "either use_gloo or use_mpi"),
        ({"executable": "/no/such/python"}, "command '/no/such/python' not found"),
        ({"cooldown_range": (1,)}, "expected 2 arguments"),
    ],
)
def test_mistakes_start_nothing(arguments, message):
    with pytest.raises(UsageError, match=message):
        hora.run(rank_and, ("a",), **arguments)


CALLER = """
import os, signal, sys
import hora

def wait():
    print("pid", os.getpid(), flush=True)
    signal.pause()

try:
    hora.run(wait, np=2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(9)
"""


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 9), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_ranks_end_with_the_caller(tmp_path, signum, code):
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER],
        env=environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,  # the launcher's, too: it ends when that has ended
        bufsize=0,  # select() knows nothing of lines in a buffer
        stderr=subprocess.DEVNULL,
        preexec_fn=default_signals,  # noqa: PLW1509
    )
    try:
        pids = []
        while len(pids) < 2:
            ready, _, _ = select.select([caller.stdout], [], [], DEADLINE_S)
            assert ready, "the ranks did not start in time"
            line = caller.stdout.readline()
            assert line, "the caller ended before its ranks started"
            pids.append(int(line.split()[-1]))
        caller.send_signal(signum)
        assert caller.wait(DEADLINE_S) == code
        wait_until_gone(pids)
        while caller.stdout.read(4096):
            pass
        assert list(tmp_path.iterdir()) == []
    finally:
        caller.kill()
        caller.wait(DEADLINE_S)
        caller.stdout.close()
