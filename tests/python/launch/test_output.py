"""What of the ranks' output reaches the screen and the files, and in what form."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from hora.launch.lines import LINE_LIMIT_BYTES, Line, LineSplitter
from hora.launch.output import rank_folder
from launched import DEADLINE_S, environment, wait_until_gone


def test_lines_carry_their_rank_and_stderr_is_marked(launch):
    code, out, err = launch("-np", "3", "sh", "-c", "echo out$RANK; echo err$RANK >&2")
    assert code == 0
    assert sorted(out) == ["[0] out0", "[1] out1", "[2] out2"]
    assert sorted(err.splitlines()) == ["[0]! err0", "[1]! err1", "[2]! err2"]


def test_eight_ranks_lose_no_line(launch):
    script = "i=0; while [ $i -lt 500 ]; do echo $RANK-$i; i=$((i+1)); done"
    code, out, _ = launch("-np", "8", "sh", "-c", script)
    assert code == 0
    for rank in range(8):
        mine = [line for line in out if line.startswith(f"[{rank}] ")]
        assert mine == [f"[{rank}] {rank}-{i}" for i in range(500)]


def test_prefix_can_be_left_out_or_timed(launch):
    assert launch("-np", "1", "--no-prefix", "echo", "plain")[1] == ["plain"]
    (line,) = launch("-np", "1", "--prefix-timestamp", "echo", "timed")[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \[0\] timed", line)


def test_unfinished_last_line_is_shown(launch):
    assert launch("-np", "1", "printf", "no newline")[1] == ["[0] no newline"]


def test_bytes_that_are_not_text_do_no_harm(launch):
    code, out, _ = launch("-np", "1", "printf", r"a\377\000b\n")
    assert (code, out) == (0, ["[0] a\ufffd\0b"])


def test_carriage_returns_survive_in_a_pipe(start):
    job = start("-np", "1", "printf", r"\r10%%\r20%%\nend\n")
    out, _ = job.process.communicate(timeout=DEADLINE_S)
    assert out == b"\r[0] 10%\r[0] 20%\n[0] end\n"


@pytest.mark.parametrize(
    ("size", "rank", "name"),
    [
        (1, 0, "rank.0"),
        (2, 1, "rank.1"),
        (10, 3, "rank.3"),
        (11, 3, "rank.03"),
        (101, 7, "rank.007"),
    ],
)
def test_rank_folders_sort_by_rank(tmp_path, size, rank, name):
    assert rank_folder(tmp_path, rank, size) == tmp_path / name


@pytest.mark.parametrize("option", ["--output-dir", "--output-filename", "--output_dir"])
def test_output_dir_of_one_rank(launch, tmp_path, option):
    code, out, _ = launch("-np", "1", option, f"{tmp_path}/d", "sh", "-c", "echo o; echo e >&2")
    assert (code, out) == (0, ["[0] o"])
    assert (tmp_path / "d/rank.0/stdout").read_text() == "o\n"
    assert (tmp_path / "d/rank.0/stderr").read_text() == "e\n"


def test_output_dir_keeps_bytes_and_quiet_hides_them(launch, tmp_path):
    words = ("-np", "2", "--quiet", "--output-dir", str(tmp_path), "printf", r"\r1%%\r\377no end")
    code, out, err = launch(*words)
    assert (code, out, err) == (0, [], "")
    assert (tmp_path / "rank.1/stdout").read_bytes() == b"\r1%\r\xffno end"


def test_quiet_shows_the_last_words_of_the_rank_that_failed(launch):
    script = 'if [ $RANK = 1 ]; then for i in $(seq 30); do echo "why $i" >&2; done; exit 9; fi'
    code, out, err = launch("-np", "2", "--quiet", "sh", "-c", script)
    assert (code, out) == (9, [])
    assert re.findall(r"^\[1\]! why (\d+)$", err, re.M) == [str(i) for i in range(11, 31)]


def test_full_disk_costs_the_file_not_the_job(launch, tmp_path):
    (tmp_path / "rank.0").mkdir()
    (tmp_path / "rank.0/stdout").symlink_to("/dev/full")
    code, out, err = launch("-np", "1", "--output-dir", str(tmp_path), "sh", "-c", "echo a; echo b")
    assert (code, out) == (0, ["[0] a", "[0] b"])
    assert err.count("No space left") == 1


def test_closed_stdout_ends_the_job_like_a_pipeline(start):
    job = start(
        "-np", "2", sys.executable, "-c", "import os\nprint('pid', os.getpid())\nwhile 1: print(1)"
    )
    pids = [int(pid) for pid in job.wait_for(2, "pid ")]
    job.process.stdout.close()
    assert job.process.wait(DEADLINE_S) == 128 + signal.SIGPIPE
    assert job.process.stderr.read() == b""
    wait_until_gone(pids)


def test_reader_that_stops_holds_the_ranks_back_and_ctrl_c_still_works(start):
    job = start("-np", "1", "--grace-period", "0.2", "yes")
    # Nothing reads stdout: the launcher must still answer signals.
    job.wait_for(1, "[0] y")
    job.process.send_signal(signal.SIGINT)
    assert job.process.wait(DEADLINE_S) == 128 + signal.SIGINT


def test_progress_bar_stays_below_other_ranks_lines_on_a_terminal(tmp_path):
    fifo = tmp_path / "turn"
    os.mkfifo(fifo)
    script = (
        "if [ $RANK = 0 ]; then printf '\\r10%%' >&2; read _ < $FIFO; printf '\\r20%%\\n' >&2; "
        "else echo hello; fi"
    )
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hora.launch", "-np", "2", "sh", "-c", script],
        env=environment(FIFO=str(fifo), NO_COLOR="1", COLUMNS="80"),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    deadline = time.monotonic() + DEADLINE_S
    told = False
    while True:
        assert select.select([screen], [], [], max(0, deadline - time.monotonic()))[0], seen
        try:
            seen += os.read(screen, 4096)
        except OSError:  # EIO: the other side is closed
            break
        if not told and b"hello" in seen and b"10%" in seen:
            told = True
            fifo.write_text("go\n")
    os.close(screen)
    assert process.wait(DEADLINE_S) == 0
    rows = [re.split(rb"\r\x1b\[K", row)[-1] for row in seen.split(b"\r\n")]
    assert b"[1] hello" in rows
    assert b"[0]! 20%" in rows
    if seen.index(b"10%") < seen.index(b"hello"):
        assert seen.split(b"hello\r\n")[1].startswith(b"[0]! 10%")  # drawn again below it


def test_rank_0_reads_stdin_and_the_others_nothing(launch, tmp_path):
    text = tmp_path / "in"
    text.write_text("typed\n")
    with text.open() as stdin:
        code, out, _ = launch("-np", "2", "sh", "-c", 'read x; echo "got <$x>"', stdin=stdin)
    assert code == 0
    assert sorted(out) == ["[0] got <typed>", "[1] got <>"]


def test_splitter_keeps_crlf_together_across_chunks():
    splitter = LineSplitter()
    assert splitter.feed(b"a\r") == []
    assert splitter.feed(b"\nb\rc") == [Line(b"a"), Line(b"b", overwritten=True)]
    assert splitter.pending == b"c"
    assert splitter.flush() == [Line(b"c")]
    assert splitter.flush() == []


def test_splitter_cuts_an_endless_line():
    splitter = LineSplitter()
    lines = splitter.feed(b"x" * (2 * LINE_LIMIT_BYTES + 5))
    assert [len(line.text) for line in lines] == [LINE_LIMIT_BYTES] * 2
    assert splitter.pending == b"xxxxx"


def test_closed_descriptors_do_not_confuse_the_launcher():
    words = f"exec {sys.executable} -m hora.launch -np 2 sh -c 'echo $RANK' <&- 2>&-"
    done = subprocess.run(
        ["sh", "-c", words], env=environment(), capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [b"[0] 0", b"[1] 1"]
