"""``hora check``: its report, its exit code, and the variables that it knows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hora import plugins
from hora.cli import check, check_machine, check_parts
from hora.cli.check_settings import KNOWN, setting_findings
from hora.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
# In quotes, but no variable of the environment that users set.
NOT_SET_BY_USERS = {"HORA_"}


def states(findings):
    return {finding.key: finding.state for finding in findings}


@pytest.fixture
def quick(monkeypatch):
    """No program is asked for its version."""
    monkeypatch.setattr(plugins, "ask", lambda words, environ=None: (0, "tool 1.2.3"))


def test_the_report_is_one_document_with_stable_keys(quick, monkeypatch, capsys):
    monkeypatch.setenv("HORA_CACHE_CAPACITY", "10")
    code = main(["check", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert code == (not document["usable"])
    sections = ["versions", "built", "found", "gpus", "machine", "network", "settings"]
    assert list(document) == ["format", "hora", "usable", *sections, "interfaces"]
    assert set(document["machine"]) == {
        "cores", "simd", "memory", "memfd", "overcommit", "dev_shm", "local_sockets", "nofile",
        "memlock",
    }  # fmt: skip
    assert set(document["built"]) == {
        "core", "torch_operators", "plugin_gloo", "plugin_mpi_ompi", "plugin_mpi_mpich",
        "plugin_cuda",
    }  # fmt: skip
    assert {"gpu_driver", "gpus", "torch_cuda", "nccl", "gpu_backend"} <= set(document["gpus"])
    assert set(document["settings"]["HORA_CACHE_CAPACITY"]) == {"part", "state", "detail", "advice"}
    for section in sections:
        for part in document[section].values():
            assert part["state"] in ("ok", "absent", "warning", "failed")


def test_elsewhere_than_on_a_terminal_it_is_plain_text(quick, capsys):
    main(["check"])
    out = capsys.readouterr().out
    assert "This machine:" in out and "\x1b" not in out and "│" not in out


def test_what_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HORA_PLUGIN_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    findings = [*check_parts.built_findings(), *check_parts.found_findings()]
    missing = {one.key: one.advice for one in findings if one.state == "absent"}
    assert "libgloo-dev" in missing["plugin_gloo"]
    assert "libopenmpi-dev" in missing["plugin_mpi_ompi"]
    assert "libmpich-dev" in missing["plugin_mpi_mpich"]
    assert missing["mpirun_mpich"] == "apt-get install mpich"
    assert missing["ssh"] == "apt-get install openssh-client"
    assert missing["srun"] == "apt-get install slurm-client"


def test_a_plugin_without_its_library_says_what_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "hora_gloo.so").touch()
    monkeypatch.setenv("HORA_PLUGIN_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(plugins, "ask", lambda *_: (1, "libgloo.so.0: cannot open\n"))
    found = next(one for one in check_parts.built_findings() if one.key == "plugin_gloo")
    assert found.state == "absent" and found.advice == "apt-get install libgloo0"
    assert "libgloo.so.0: cannot open" in found.detail


def test_mpirun_of_each_family_is_told_from_the_other(tmp_path, monkeypatch):
    def program(name, says):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)

    program("mpirun", "mpirun (Open MPI) 5.0.8")
    program("mpirun.mpich", "HYDRA build details: Version: 4.0.2")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = {one.key: one.detail for one in check_parts.found_findings()}
    assert found["mpirun_openmpi"] == f"5.0.8 ({tmp_path}/mpirun)"
    assert found["mpirun_mpich"] == f"4.0.2 ({tmp_path}/mpirun.mpich)"


def test_a_program_that_hangs_does_not_hold_it_up(monkeypatch):
    monkeypatch.setattr(plugins, "_ANSWER_LIMIT_S", 0.05)
    assert plugins.ask(["sleep", "1000"])[0] == 124


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HORA_WINDOW_BYTES", "4097"),
        ("HORA_BACKEND", "nccl"),
        ("HORA_DATA_PLANE", "plain"),
        ("HORA_GPU_BACKEND", "gloo"),
        ("HORA_GPUS_PER_RANK", "0"),
        ("HORA_NCCL_ALONE", "yes"),
        ("HORA_PINNED_MEMORY_BYTES", "-1"),
        ("HORA_HEARTBEAT_SECONDS", "0.1"),
        ("HORA_TREE_FAN_OUT", " 8"),
        ("HORA_MPI", "lam"),
        ("HORA_PLUGIN_DIRECTORY", "/nowhere"),
        ("HORA_SECRET_FILE", "/nowhere"),
        ("HORA_CACHE_CAPACITY", ""),
    ],
)
def test_a_value_without_sense_fails(name, value):
    (found,) = setting_findings({name: value, "HOME": "/"})
    assert found.state == "failed" and name in found.advice


@pytest.mark.parametrize(
    ("backend", "state"), [("gloo", "warning"), ("flat-mpi", "failed"), ("flat-tcp", "ok")]
)
def test_a_backend_without_its_plugin(tmp_path, monkeypatch, backend, state):
    monkeypatch.setenv("HORA_PLUGIN_DIRECTORY", str(tmp_path))
    (finding,) = setting_findings({"HORA_BACKEND": backend})
    assert (finding.state, backend in finding.detail) == (state, True)


def test_what_is_known_and_what_was_meant():
    found = setting_findings({
        "HORA_BACKND": "gloo", "HORA_STALL_ABORT_SECONDS": "0", "HORA_WINDOW_BYTES": "8192"
    })  # fmt: skip
    assert [one.state for one in found] == ["warning", "ok", "ok"]
    assert "did you mean HORA_BACKEND?" in found[0].detail


def test_every_variable_that_is_read_is_known():
    read = set()
    for folder, pattern in (("csrc/hora", "*.cc"), ("python/hora", "*.py")):
        for path in (ROOT / folder).rglob(pattern):
            read |= set(re.findall(r'"(HORA_[A-Z_]*)"', path.read_text()))
    assert read - NOT_SET_BY_USERS <= set(KNOWN)


def test_a_bad_setting_makes_the_exit_code_1(quick, monkeypatch, capsys):
    monkeypatch.setenv("HORA_CHUNK_BYTES", "many")
    assert main(["check"]) == 1
    assert "No job can run on this host before this is mended: HORA_CHUNK_BYTES" in (
        capsys.readouterr().out
    )


def test_without_the_core_it_fails_and_says_so(quick, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hora._core", None)
    assert main(["check"]) == 1
    assert "pip install ." in capsys.readouterr().out


def test_the_network_names_the_interface_of_a_job(monkeypatch):
    pytest.importorskip("hora._core")
    found, interfaces = check_machine.network_findings({"HORA_NETWORK_INTERFACES": "lo"})
    assert found.state == "ok" and found.detail.startswith("lo 127.0.0.1")
    assert [each["name"] for each in interfaces if each["is_chosen"]] == ["lo"]
    found, _ = check_machine.network_findings({"HORA_NETWORK_INTERFACES": "nothing7"})
    assert found.state == "failed" and "nothing7" in found.detail


def test_an_interface_that_is_not_there_is_no_good_setting(quick, monkeypatch, capsys):
    pytest.importorskip("hora._core")
    monkeypatch.setenv("HORA_NETWORK_INTERFACES", "eth9")
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert "before this is mended: network, HORA_NETWORK_INTERFACES" in out
    assert "eth9" in out.partition("fix: correct it, or unset HORA_NETWORK_INTERFACES")[0]


def test_a_terminal_gets_a_table(monkeypatch, capsys):
    report = check.Report({"machine": [check.Finding("a", "A [b]", "absent", "not", "do")]}, [])
    check._print_table(report)
    out = capsys.readouterr().out
    assert "A [b]" in out and "→ do" in out


def test_it_starts_without_torch():
    code = "import sys, hora.cli.check as c; c.examine(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
