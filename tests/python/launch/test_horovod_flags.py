"""horovodrun's flags: what they set, which do nothing and say so, which are refused."""

from __future__ import annotations

import os
import socket

import pytest
from hora.errors import UsageError
from hora.launch.cli import parse
from hora.launch.options import build_parser
from hora.settings import NEVER_STALLED
from launched import PACKAGE_ROOT

# Every flag of horovodrun 0.28.1 that takes no value, and those that take one.
BARE = (
    "--disable-cache", "--verbose", "--hierarchical-allreduce", "--no-hierarchical-allreduce",
    "--hierarchical-allgather", "--no-hierarchical-allgather", "--torus-allreduce",
    "--no-torus-allreduce", "--autotune", "--no-autotune", "--timeline-mark-cycles",
    "--no-timeline-mark-cycles", "--stall-check", "--no-stall-check", "--mpi-threads-disable",
    "--no-mpi-threads-disable", "--tcp", "--log-with-timestamp", "--log-without-timestamp",
    "--log-hide-timestamp", "--no-log-hide-timestamp", "-prefix-timestamp",
    "--prefix-output-with-timestamp", "--gloo", "--jsrun",
)  # fmt: skip
VALUED = {
    "--num-proc": "2", "--start-timeout": "60", "--network-interfaces": "eth0,eth1",
    "--network-interface": "eth0", "-p": "22", "--ssh-port": "22", "-i": "id", "--min-np": "2",
    "--ssh-identity-file": "id", "--fusion-threshold-mb": "64", "--cycle-time-ms": "0.5",
    "--cache-capacity": "10", "--autotune-log-file": "f", "--autotune-warmup-samples": "3",
    "--autotune-steps-per-sample": "10", "--autotune-bayes-opt-max-samples": "20",
    "--autotune-gaussian-process-noise": "0.8", "--min-num-proc": "2", "--max-np": "2",
    "--max-num-proc": "2", "--elastic-timeout": "600", "--reset-limit": "3",
    "--timeline-filename": "t.json", "--stall-check-warning-time-seconds": "60",
    "--stall-check-shutdown-time-seconds": "0", "--mpi-args": "-x A", "--binding-args": "-b",
    "--num-nccl-streams": "1", "--thread-affinity": "0", "--gloo-timeout-seconds": "30",
    "--log-level": "DEBUG", "-H": "localhost:2", "--hosts": "localhost:2",
}  # fmt: skip


def job(*words: str):
    return parse(["-np", "2", *words, "true"])


@pytest.mark.parametrize("flag", BARE)
def test_flags_without_a_value(flag):
    assert job(flag).size == 2


@pytest.mark.parametrize("flag", VALUED)
def test_flags_with_a_value(flag):
    assert job(flag, VALUED[flag]).size == 2
    assert job(f"{flag}={VALUED[flag]}").size == 2


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--fusion-threshold-mb", "64"], {"HORA_FUSION_THRESHOLD_BYTES": str(64 << 20)}),
        (["--fusion-threshold-mb", "0"], {"HORA_FUSION_THRESHOLD_BYTES": "0"}),
        (["--cache-capacity", "0"], {"HORA_CACHE_CAPACITY": "0"}),
        (["--autotune"], {"HORA_AUTOTUNE": "1"}),
        (["--autotune", "--no-autotune"], {"HORA_AUTOTUNE": "0"}),
        (["--autotune-log-file", "a.csv"], {"HORA_AUTOTUNE_LOG": "a.csv"}),
        (["--autotune-warmup-samples", "0"], {"HORA_AUTOTUNE_WARMUP_SAMPLES": "0"}),
        (["--autotune-steps-per-sample", "7"], {"HORA_AUTOTUNE_STEPS_PER_SAMPLE": "7"}),
        (["--autotune-bayes-opt-max-samples", "9"], {"HORA_AUTOTUNE_MAX_SAMPLES": "9"}),
        (["--timeline-filename", "DYNAMIC"], {"HORA_TIMELINE": "DYNAMIC"}),
        (["--timeline-mark-cycles"], {"HORA_TIMELINE_MARK_CYCLES": "1"}),
        (["--stall-check-warning-time-seconds", "30"], {"HORA_STALL_WARNING_SECONDS": "30"}),
        (["--stall-check-shutdown-time-seconds", "90"], {"HORA_STALL_ABORT_SECONDS": "90"}),
        (["--stall-check-shutdown-time-seconds", "0"], {"HORA_STALL_ABORT_SECONDS": "0"}),
        (["--no-stall-check", "--stall-warning", "5"], NEVER_STALLED),
        (["--no-stall-check", "--stall-check"], {}),
        (["--log-level", "FATAL"], {"HORA_LOG_LEVEL": "off"}),
        (["--log-level", "WARNING"], {"HORA_LOG_LEVEL": "warning"}),
        (["--log-without-timestamp"], {}),
        (["--start-timeout", "86400"], {"HORA_START_TIMEOUT_SECONDS": "86400"}),
    ],
)
def test_settings(words, settings):
    spec = job(*words)
    assert (spec.settings, spec.notes) == (settings, [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fusion-threshold-mb", "-1"], "argument --fusion-threshold-mb: '-1' is not a whole"),
        (["--fusion-threshold-mb", "1e3"], "'1e3' is not a whole number"),
        (["--cache-capacity", "many"], "argument --cache-capacity: 'many' is not a whole number"),
        (["--cycle-time-ms", "-5"], "argument --cycle-time-ms: '-5' is not a number from 0"),
        (["--cycle-time-ms", "nan"], "'nan' is not a number"),
        (["--autotune-gaussian-process-noise", "2"], "'2' is not a number from 0 to 1"),
        (["--num-nccl-streams", "-1"], "argument --num-nccl-streams: '-1' is not a whole number"),
        (["--blacklist-cooldown-range", "1", "-2"], "--blacklist-cooldown-range: '-2' is not a"),
        (["--blacklist-cooldown-range", "1"], "'true' is not a whole number"),
        (["--timeline-filename", "/no/such/t.json"], "there is no folder '/no/such'"),
        (["--stall-check-warning-time-seconds", "-1"], "'-1' is not a number of seconds from 0"),
        (["--start-timeout", "0"], "argument --start-timeout: '0' is not a number of seconds"),
        (["--log-level", "loud"], "argument --log-level: 'loud' is not one of trace"),
        (["--ssh-port", "0"], "'0' is not a whole number from 1 to 65535"),
        (["--min-np", "1"], "--min-np 1 with 2 ranks: elastic training is not there yet"),
        (["--max-np", "4"], "--max-np 4 with 2 ranks: elastic training is not there yet"),
        (["--host-discovery-script", "./d.sh"], "--host-discovery-script: elastic training is"),
        (["--slots-per-host", "2"], "--slots-per-host: elastic training is not there yet"),
        (["-H", "-oProxyCommand=x:2"], "'-oProxyCommand=x' is not the name or address of a host"),
        (["-H", "a;b:2"], "'a;b' is not the name or address of a host"),
        (["-H", "$(id):2"], "is not the name or address of a host"),
        (["-H", "localhost:0"], "'localhost:0' is not a host with its number of slots"),
        (["-H", "localhost:1"], "-np 2, but --hosts has room for 1"),
        (["-H", "localhost:two"], "'localhost:two' is not a host with its number of slots"),
        (["-H", "localhost:2,"], "'' is not a host"),
        (["-H", "localhost:2", "--hostfile", "f"], "either --hosts or --hostfile"),
        (["--hostfile", "/no/such"], "--hostfile /no/such: No such file"),
    ],
)
def test_mistakes_name_the_flag_and_the_value(words, message):
    with pytest.raises(UsageError) as caught:
        job(*words)
    assert message in str(caught.value)


def test_flags_without_effect_say_why_once_per_reason():
    notes = job("--cycle-time-ms", "1", "--gloo", "--gloo", "--mpi-args", "-x A").notes
    assert notes == [
        "--cycle-time-ms has no effect: the engine acts when tensors are ready, not in cycles",
        "--gloo has no effect: hora has its own control plane instead of Gloo",
        "--mpi-args has no effect: horarun starts the ranks itself without --mpi",
    ]


def test_this_host_by_all_its_names(tmp_path):
    name = socket.gethostname()
    hostfile = tmp_path / "hosts"
    hostfile.write_text(f"# ours\n{name} slots=2\n\nlocalhost:1  # again\n")
    assert parse(["-H", f"{name}:3", "true"]).size == 3
    assert parse(["-H", "127.0.0.1", "true"]).size == 1
    assert parse(["-hostfile", str(hostfile), "true"]).size == 3
    hostfile.write_text("localhost slots=2\nfar away slots=2\n")
    with pytest.raises(UsageError, match="hosts:2: 'far away' is not the name"):
        parse(["--hostfile", str(hostfile), "true"])


def test_size_from_equal_elastic_limits():
    assert parse(["--min-np", "3", "--max-np", "3", "true"]).size == 3


def test_one_rank_with_output_files(launch, tmp_path):
    folder = tmp_path / "logs"
    got = launch("-np", "1", "--output-filename", str(folder), "echo", "hello")
    assert got == (0, ["[0] hello"], "")
    assert (folder / "rank.0" / "stdout").read_text() == "hello\n"


def test_check_build(launch):
    code, out, err = launch("-cb")
    assert (code, err) == (0, "")
    assert out[0].startswith("hora v")
    for line in ("Available Frameworks:", "Available Controllers:", "    [ ] MPI"):
        assert line in out
    assert any("shared memory" in line for line in out)


def test_every_flag_is_in_the_help():
    text = build_parser("horarun").format_help()
    assert "Horovod's options" in text
    for flag in ("--hosts", "--cycle-time-ms", "--fusion-threshold-mb", "--horovod"):
        assert flag in text


def test_horovod_reads_variables_and_warns_once(launch):
    variables = {
        "HOROVOD_FUSION_THRESHOLD": "4096",
        "HOROVOD_CACHE_CAPACITY": "10",
        "HORA_CACHE_CAPACITY": "20",
        "HOROVOD_CYCLE_TIME": "3",
        "HOROVOD_GLOO_IFACE": "eth0",
    }
    show = "echo $HORA_FUSION_THRESHOLD_BYTES $HORA_CACHE_CAPACITY"
    code, out, err = launch("--horovod", "-np", "2", "sh", "-c", show, env=variables)
    assert (code, sorted(out)) == (0, ["[0] 4096 20", "[1] 4096 20"])
    assert err == (
        "hora: these variables of Horovod mean nothing to hora: "
        "HOROVOD_CYCLE_TIME, HOROVOD_GLOO_IFACE\n"
    )
    flagged = ("--horovod", "-np", "1", "--fusion-threshold-mb=1", "--cache-capacity=30")
    assert launch(*flagged, "sh", "-c", show, env=variables)[1] == ["[0] 1048576 30"]
    assert launch("-np", "1", "sh", "-c", show, env=variables)[1] == ["[0] 20"]


def test_ranks_learn_their_place_in_horovods_words(launch):
    show = ("sh", "-c", 'echo "$HOROVOD_RANK/$HOROVOD_SIZE $HOROVOD_LOCAL_RANK $HOROVOD_HOSTNAME"')
    outer = {"HOROVOD_RANK": "7", "HOROVOD_SIZE": "8"}
    code, out, err = launch("--horovod", "-np", "2", *show, env=outer)
    assert (code, sorted(out), err) == (0, ["[0] 0/2 0 localhost", "[1] 1/2 1 localhost"], "")
    assert launch("-np", "1", *show, env=outer)[1] == ["[0] /  "]


def test_a_variable_without_sense_starts_nothing(launch):
    variables = {"HOROVOD_FUSION_THRESHOLD": "64MB"}
    code, out, err = launch("--horovod", "-np", "2", "echo", env=variables)
    assert (code, out) == (2, [])
    assert "HOROVOD_FUSION_THRESHOLD: '64MB' is not a whole number" in err


def test_the_alias_is_in_reach_only_when_asked_for(launch):
    show = ("sh", "-c", 'echo "$PYTHONPATH"')
    mine = {"PYTHONPATH": f"{PACKAGE_ROOT}:/mine"}
    code, out, _ = launch("--horovod", "-np", "1", *show, env=mine)
    first, *rest = out[0].removeprefix("[0] ").split(":")
    assert (code, rest[-1]) == (0, "/mine")
    assert os.listdir(first) == ["horovod"]
    assert "hora/horovod" not in launch("-np", "1", *show)[1][0]
