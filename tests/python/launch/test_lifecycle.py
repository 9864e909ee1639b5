"""How jobs end: exit codes, signals, deaths of every kind, and that nothing outlives them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launched import DEADLINE_S, environment, launcher_processes, wait_until_gone

# Each rank starts a child and a grandchild, the latter in a session of its own, says all their
# process ids and then waits for ever.
FAMILY = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import os, subprocess, sys
far = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("pid", far.pid)
print("pid", os.getpid())
sys.stdout.flush()
far.wait()
'''])
print("rank is pid", os.getpid())
child.wait()
"""
PAUSE = "import os, signal; print('pid', os.getpid()); signal.pause()"


def python(code: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code)


def test_success_is_silent(launch):
    assert launch("-np", "2", "true") == (0, [], "")


@pytest.mark.parametrize("code", [1, 2, 77, 255])
def test_exit_code_is_the_failing_ranks(launch, code):
    got, _, err = launch("-np", "3", "sh", "-c", f"[ $RANK != 1 ] || exit {code}")
    assert got == code
    assert "rank 1 (pid " in err
    assert f") exited with code {code}\n" in err
    assert err.splitlines()[-1].startswith("hora: ")
    assert f"rank 1: exit {code}" in err.splitlines()[-1]


def test_killed_rank_is_named_and_the_others_are_ended(start):
    job = start("-np", "3", "--grace-period", "0.2", *python(PAUSE))
    pids = job.rank_pids(3)
    os.kill(pids[1], signal.SIGKILL)
    code, err = job.end()
    assert code == 128 + signal.SIGKILL
    assert f"rank 1 (pid {pids[1]}) was ended by SIGKILL" in err
    assert "memory" in err
    assert "ranks 0,2: SIGTERM from the launcher; rank 1: SIGKILL" in err
    wait_until_gone(pids)


def test_others_have_the_grace_period_to_say_why(launch, tmp_path):
    code = """
import os, select, sys
if os.environ["RANK"] == "1":
    open("pid", "w").write(str(os.getpid()))
    open("go").read()
    sys.exit(3)
pidfd = os.pidfd_open(int(open("pid").read()))
open("go", "w").close()
select.select([pidfd], [], [])
sys.stderr.write("my own error")
sys.exit(3)
"""
    os.mkfifo(tmp_path / "pid")
    os.mkfifo(tmp_path / "go")
    code, _, err = launch("-np", "2", "--grace-period", "15", *python(code), cwd=tmp_path)
    assert code == 3
    assert "[0]! my own error" in err
    assert "ranks 0-1: exit 3" in err


# Rank 1 ends with code 3; once the launcher has taken note of that, rank 0 goes on below.
AFTER_RANK_1 = """
import os, signal, sys
if os.environ["RANK"] == "1":
    open("pid", "w").write(str(os.getpid()))
    open("go").read()
    sys.exit(3)
pid = int(open("pid").read())
open("go", "w").close()
try:
    while True:
        os.kill(pid, 0)
        os.sched_yield()
except ProcessLookupError:
    pass
"""


@pytest.fixture
def rendezvous(tmp_path):
    os.mkfifo(tmp_path / "pid")
    os.mkfifo(tmp_path / "go")
    return tmp_path


def test_the_killed_rank_is_blamed_also_if_another_noticed_and_was_gone_first(launch, rendezvous):
    # A process that is killed closes its files first, and may be preempted before its own end.
    code = AFTER_RANK_1 + "os.kill(os.getpid(), signal.SIGKILL)"
    got, _, err = launch("-np", "2", *python(code), cwd=rendezvous)
    assert got == 128 + signal.SIGKILL
    assert "rank 0 (pid " in err.splitlines()[0]
    assert "was ended by SIGKILL" in err.splitlines()[0]
    assert "rank 0: SIGKILL; rank 1: exit 3" in err


def test_an_interrupt_after_a_failure_does_not_hide_it(launch, rendezvous):
    code = AFTER_RANK_1 + "os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    got, _, err = launch("-np", "2", *python(code), cwd=rendezvous)
    assert got == 3
    assert ") exited with code 3\n" in err


def test_a_rank_that_ignores_sigterm_is_killed(start):
    code = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid())
signal.pause()
"""
    job = start("-np", "2", "--grace-period", "0.2", *python(code))
    os.kill(job.rank_pids(2)[1], signal.SIGSEGV)
    code, err = job.end()
    assert code == 128 + signal.SIGSEGV
    assert "was ended by SIGSEGV" in err
    assert "rank 0: SIGKILL from the launcher" in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_once(start, signum):
    code = f"""
import signal, sys
def stop(signum, frame):
    print("told", signum)
    sys.exit(0)
signal.signal({int(signum)}, stop)
print("ready")
signal.pause()
"""
    job = start("-np", "2", *python(code))
    job.wait_for(2, "ready")
    job.process.send_signal(signum)
    code, err = job.end()
    assert code == 128 + signum
    assert sum("told" in line for line in job.lines) == 2
    assert f"received {signum.name}" in err


def test_second_interrupt_kills_at_once(start):
    code = """
import signal
signal.signal(signal.SIGINT, lambda *_: print("told"))
print("ready")
while True:
    signal.pause()
"""
    job = start("-np", "2", "--grace-period", "1000", *python(code))
    job.wait_for(2, "ready")
    job.process.send_signal(signal.SIGINT)
    job.wait_for(2, "told")
    job.process.send_signal(signal.SIGINT)
    code, err = job.end()
    assert code == 128 + signal.SIGINT
    assert "ranks 0-1: SIGKILL from the launcher" in err


def test_user_signals_reach_the_ranks_and_end_nothing(start):
    code = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print("ready")
signal.sigwait({signal.SIGUSR1})
print("told")
"""
    job = start("-np", "2", *python(code))
    job.wait_for(2, "ready")
    job.process.send_signal(signal.SIGUSR1)
    code, err = job.end()
    assert (code, err) == (0, "")
    assert sum("told" in line for line in job.lines) == 2


def test_nohup_is_respected():
    code = """
import signal, sys
from hora.launch.cli import main
signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.exit(main(["-np", "1", "sh", "-c", "kill -HUP $PPID; echo goes on"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"[0] goes on\n")


@pytest.mark.parametrize("victim", [0, 1], ids=["guardian", "inner"])
def test_killing_the_launcher_leaves_no_descendant(start, victim):
    job = start("-np", "2", *python(FAMILY))
    pids = [int(pid) for pid in job.wait_for(6, "pid ")]
    launcher = launcher_processes(job.process.pid)
    os.kill(launcher[victim], signal.SIGKILL)
    wait_until_gone(pids + launcher)


def test_a_killed_rank_leaves_no_descendant(start):
    job = start("-np", "2", "--grace-period", "0.2", *python(FAMILY))
    pids = [int(pid) for pid in job.wait_for(6, "pid ")]
    os.kill(int(job.wait_for(2, "rank is pid ")[0]), signal.SIGKILL)
    assert job.end()[0] == 128 + signal.SIGKILL
    wait_until_gone(pids)


def test_what_a_successful_rank_leaves_behind_is_ended(start):
    code = """
import subprocess
left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("pid", left.pid)
"""
    job = start("-np", "2", "--grace-period", "0.2", *python(code))
    pids = [int(pid) for pid in job.wait_for(2, "pid ")]
    assert job.end() == (0, "")
    wait_until_gone(pids)


def test_a_stopped_rank_is_ended_too(start):
    job = start("-np", "2", "--grace-period", "0.2", *python(PAUSE))
    pids = job.rank_pids(2)
    os.kill(pids[0], signal.SIGSTOP)
    os.kill(pids[1], signal.SIGABRT)
    assert job.end()[0] == 128 + signal.SIGABRT
    wait_until_gone(pids)


def test_a_command_that_cannot_be_executed(launch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("no interpreter line\n")
    broken.chmod(0o755)
    code, _, err = launch("-np", "2", str(broken))
    assert code == 126
    assert "rank 0 could not be started" in err
    assert "Exec format error" in err


def test_children_the_launcher_did_not_start_are_spared():
    script = f"sleep 1000 & echo $!; exec {sys.executable} -m hora.launch -np 1 true"
    done = subprocess.Popen(["sh", "-c", script], env=environment(), stdout=subprocess.PIPE)
    sleeper = int(done.stdout.readline())
    assert done.wait(DEADLINE_S) == 0
    done.stdout.close()
    os.kill(sleeper, signal.SIGTERM)  # raises if it had been ended
    wait_until_gone([sleeper])


def test_an_idle_launcher_does_not_wake_up(start):
    job = start("-np", "2", *python(PAUSE))
    job.rank_pids(2)
    launcher = launcher_processes(job.process.pid)
    before = [switches(pid) for pid in launcher]
    select.select([], [], [], 0.5)  # the time over which nothing must happen
    after = [switches(pid) for pid in launcher]
    assert all(b - a <= 3 for a, b in zip(before, after, strict=True))
    job.process.send_signal(signal.SIGTERM)
    assert job.end()[0] == 128 + signal.SIGTERM


def switches(pid: int) -> int:
    """How often the process has gone to sleep so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError(f"/proc/{pid}/status does not count context switches")
