"""The command line: what it accepts, what it says otherwise, and what it starts."""

from __future__ import annotations

import subprocess
import sys

import hora
import pytest
from hora.errors import UsageError
from hora.launch.cli import parse
from launched import DEADLINE_S, environment


@pytest.mark.parametrize(
    "option", ["-np", "-n", "--num-proc", "--nproc-per-node", "--nproc_per_node"]
)
def test_every_spelling_of_the_rank_count(option):
    assert parse([option, "3", "true"]).size == 3


def test_equals_sign_and_dashes_in_values():
    spec = parse(["--num_proc=2", "-x", "A=-v --", "--", "sh", "-c", "--np"])
    assert (spec.size, spec.settings, list(spec.command)) == (
        2,
        {"A": "-v --"},
        ["sh", "-c", "--np"],
    )


def test_options_after_the_command_are_the_commands():
    assert list(parse(["-np", "1", "ls", "--version", "-np", "4"]).command)[1:] == [
        "--version",
        "-np",
        "4",
    ]


@pytest.mark.parametrize("word", ["--bogus", "--zzzzzz"])
def test_only_near_misses_are_suggested(word):
    with pytest.raises(UsageError) as caught:
        parse([word, "true"])
    assert str(caught.value) == f"unknown option {word}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outptu-dir", "d", "true"], "unknown option --outptu-dir: did you mean --output-dir?"),
        (["--nproc", "2", "true"], "did you mean --"),
        (["--zzzzzz", "true"], "unknown option --zzzzzz"),
        (["true"], "how many ranks? Give -np N"),
        (["-np"], "option -np needs a value"),
        (["-np", "0", "true"], "'0' is not a whole number of ranks, 1 or more"),
        (["-np", "-1", "true"], "'-1' is not a whole number of ranks"),
        (["-np", "two", "true"], "'two' is not a whole number of ranks"),
        (["-np", "1e9", "true"], "'1e9' is not a whole number of ranks"),
        (["-np", "", "true"], "'' is not a whole number of ranks"),
        (["-np", "2"], "no command given"),
        (["-np", "2", "no-such-command"], "command 'no-such-command' not found on PATH"),
        (["-np", "2", "./no-such-command"], "command './no-such-command' not found"),
        (["-np", "2", "no_such.py"], "there is no file 'no_such.py'"),
        (["-np", "2", "/"], "'/' is a folder"),
        (["-np", "2", "-x", "HORA_TEST_UNSET", "true"], "HORA_TEST_UNSET is not set here"),
        (["-np", "2", "-x", "=1", "true"], "no variable name"),
        (["-np", "2", "--stall-abort", "soon", "true"], "'soon' is not a number of seconds"),
        (["-np", "2", "--grace-period", "nan", "true"], "'nan' is not a number of seconds"),
        (["-np", "2", "--grace-period", "-1", "true"], "'-1' is not a number of seconds"),
        (["-np", "2", "--log-level", "loud", "true"], "trace"),
        (["-np", "2", "--backend", "flat-mpi", "true"], "start with mpirun or horarun --mpi"),
        (["-H", "h1:1,h2:1", "--backend", "mpi", "true"], "--backend mpi (HORA_BACKEND): horarun"),
        (["-np", "2", "--output-dir", "/proc/none", "true"], "--output-dir /proc/none"),
    ],
)
def test_mistakes_are_explained(words, message):
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert message in str(caught.value)


def test_one_host_needs_no_mpi_between_hosts(monkeypatch):
    assert parse(["-np", "2", "--backend", "mpi", "true"])
    monkeypatch.setenv("HORA_BACKEND", "flat-mpi")
    assert parse(["-np", "1", "true"])


def test_mistakes_end_with_code_2_and_without_a_traceback(launch):
    code, out, err = launch("-np", "2", "no-such-command")
    assert (code, out) == (2, [])
    assert err == "horarun: command 'no-such-command' not found on PATH\nTry 'horarun --help'.\n"


def test_a_file_that_is_not_executable_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.sh").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match=r"not executable \(chmod \+x job.sh"):
        parse(["-np", "1", "job.sh"])
    (tmp_path / "job.sh").chmod(0o755)
    with pytest.raises(UsageError, match=r"write \./job\.sh"):
        parse(["-np", "1", "job.sh"])
    assert list(parse(["-np", "1", "./job.sh"]).command) == ["./job.sh"]


def test_scripts_and_modules_run_with_this_python(launch, tmp_path):
    (tmp_path / "train.py").write_text("import sys; print(sys.executable, *sys.argv[1:])\n")
    expected = f"[0] {sys.executable} --lr 1"
    assert launch("-np", "1", "train.py", "--lr", "1", cwd=tmp_path)[1] == [expected]
    words = ("-np", "1", "-m", "train", "--lr", "1")
    assert launch(*words, cwd=tmp_path)[1] == [expected]


def test_variables_reach_the_ranks(launch):
    options = (
        "-x", "GIVEN=a=b", "-x", "TAKEN", "--stall-warning", "3", "--stall-abort", "4.5",
        "--start-timeout", "60", "--log-level", "DEBUG",
    )  # fmt: skip
    script = (
        "echo $GIVEN $TAKEN $HORA_STALL_WARNING_SECONDS $HORA_STALL_ABORT_SECONDS "
        "$HORA_START_TIMEOUT_SECONDS $HORA_LOG_LEVEL"
    )
    out = launch("-np", "1", *options, "sh", "-c", script, env={"TAKEN": "t"})[1]
    assert out == ["[0] a=b t 3 4.5 60 debug"]


def test_version_and_help(launch):
    assert launch("--version")[1] == [f"hora {hora.__version__}"]
    code, out, _ = launch("--help")
    assert code == 0
    text = "\n".join(out)
    for word in ("-np", "--output-dir", "--grace-period", "examples:", "time limits"):
        assert word in text


def test_verbose_names_command_and_pids(launch):
    err = launch("-np", "2", "--verbose", "echo", "a b")[2]
    assert "2 × echo 'a b'" in err
    assert "rank 1 is pid " in err


def run_hora(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hora.cli", *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_hora_run_is_horarun():
    done = run_hora("run", "-np", "2", "sh", "-c", "exit 7")
    assert done.returncode == 7


def test_hora_names_what_was_meant():
    done = run_hora("rnu")
    assert done.returncode == 2
    assert "unknown command 'rnu': did you mean run?" in done.stderr


def test_hora_env_and_check_report_in_both_forms():
    import json

    report = json.loads(run_hora("env", "--json").stdout)
    assert report["hora"] == hora.__version__
    assert sys.executable in report["Python"]
    assert "Copy and paste" in run_hora("env").stdout
    report = json.loads(run_hora("check", "--json").stdout)
    assert report["machine"]["memfd"]["state"] == "ok"
    done = run_hora("check")
    assert done.returncode == (not report["usable"])


def test_the_launcher_starts_without_torch():
    code = (
        "import sys, hora.cli.main, hora.cli.check, hora.cli.environment, hora.launch.cli; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert done.returncode == 0
