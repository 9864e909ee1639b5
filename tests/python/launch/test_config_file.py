"""``--config-file``: horovodrun's sections and our own names, and mistakes with their line."""

from __future__ import annotations

import pytest
from hora.errors import UsageError
from hora.launch.cli import parse
from hora.settings import NEVER_STALLED

HOROVODS = """\
verbose: true
controller: gloo
params:
  fusion_threshold_mb: 32
  cycle_time_ms: 5
  cache_capacity: 2048
  hierarchical_allreduce: true
autotune:
  enabled: true
  log_file: horovod_autotune_log.txt
  warmup_samples: 5
  steps_per_sample: 20
  bayes_opt_max_samples: 50
  gaussian_process_noise: 0.9
timeline:
  filename: horovod_timeline.json
  mark_cycles: true
stall_check:
  enabled: no
  warning_time_seconds: 120
  shutdown_time_seconds: 240
library_options:
  mpi_threads_disable: true
  num_nccl_streams: 2
  thread_affinity: 1
  gloo_timeout_seconds: 60
logging:
  level: INFO
  with_timestamp: false
"""


@pytest.fixture
def job(tmp_path):
    """Parses a command line with this text as the configuration file."""

    def job(text: str, *words: str):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return parse(["--config-file", str(path), *words, "true"])

    return job


def test_every_key_of_horovods_sections(job):
    spec = job(HOROVODS, "-np", "2")
    assert spec.verbose
    assert spec.settings == NEVER_STALLED | {
        "HORA_FUSION_THRESHOLD_BYTES": str(32 << 20),
        "HORA_CACHE_CAPACITY": "2048",
        "HORA_AUTOTUNE": "1",
        "HORA_AUTOTUNE_LOG": "horovod_autotune_log.txt",
        "HORA_AUTOTUNE_WARMUP_SAMPLES": "5",
        "HORA_AUTOTUNE_STEPS_PER_SAMPLE": "20",
        "HORA_AUTOTUNE_MAX_SAMPLES": "50",
        "HORA_TIMELINE": "horovod_timeline.json",
        "HORA_TIMELINE_MARK_CYCLES": "1",
        "HORA_LOG_LEVEL": "info",
    }
    assert len(spec.notes) == len(
        ["gloo", "cycle", "hierarchical", "noise", "MPI", "NCCL", "affinity", "gloo timeout"]
    )


def test_our_own_names(job, tmp_path):
    text = "num_proc: 3\nstart-timeout: 90\nx: [A=1, B=2]\nquiet: no\noutput_dir: "
    spec = job(f"{text}{tmp_path}/logs\n")
    assert (spec.size, spec.style.quiet) == (3, False)
    assert spec.settings == {"HORA_START_TIMEOUT_SECONDS": "90", "A": "1", "B": "2"}
    assert spec.style.directory == tmp_path / "logs"


def test_hosts(job, tmp_path, monkeypatch):
    monkeypatch.setattr("hora.launch.hosts.is_this_host", lambda name: False)
    text = (
        "hosts: [h1:2, h2]\nssh-port: 2222\nssh_option: [A=b, C=d]\nconnect-timeout: 9\n"
        "network-interfaces: [eth0, 10.0.0.0/8]\nenv: [X=1]\n"
    )
    spec = job(text)
    assert [(host.name, host.slots) for host in spec.where.hosts] == [("h1", 2), ("h2", 1)]
    assert (spec.where.ssh.port, spec.where.ssh.options) == (2222, ("A=b", "C=d"))
    assert spec.where.ssh.connect_timeout_s == 9
    assert spec.settings == {"HORA_NETWORK_INTERFACES": "eth0,10.0.0.0/8", "X": "1"}
    assert job(text, "-H", "h3:4").placement.sizes == (4,)
    (tmp_path / "hostfile").write_text("h4 slots=5\n")
    assert job(text, "--hostfile", str(tmp_path / "hostfile")).size == 5


def test_flag_over_environment_over_file(job, monkeypatch):
    text = "np: 2\nparams: {cache_capacity: 1}\nlogging: {level: info}\n"
    assert job(text).settings == {"HORA_CACHE_CAPACITY": "1", "HORA_LOG_LEVEL": "info"}
    monkeypatch.setenv("HORA_CACHE_CAPACITY", "2")
    assert job(text).settings == {"HORA_LOG_LEVEL": "info"}
    spec = job(text, "-np", "4", "--cache-capacity", "3", "--log-level", "debug")
    assert spec.settings == {"HORA_CACHE_CAPACITY": "3", "HORA_LOG_LEVEL": "debug"}
    assert spec.size == 4
    monkeypatch.delenv("HORA_CACHE_CAPACITY")
    monkeypatch.setenv("HOROVOD_CACHE_CAPACITY", "5")
    assert job(text, "--horovod").settings["HORA_CACHE_CAPACITY"] == "5"


def test_no_file_has_a_say_where_a_switch_is_false(job):
    text = "np: 1\nautotune: {enabled: false}\nstall_check:\nlogging: {with_timestamp: yes}\n"
    spec = job(text)
    assert spec.settings == {"HORA_AUTOTUNE": "0"}
    assert "--log-with-timestamp has no effect" in spec.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parames:\n", "config.yaml:1: unknown key parames: did you mean params?"),
        ("np: 2\nparams:\n  cash_capacity: 1\n", ":3: params has no key cash_capacity: did you"),
        ("params:\n\n  cache_capacity: many\n", ":3: argument --cache-capacity: 'many' is not"),
        ("params: {cache_capacity: -1}\n", "'-1' is not a whole number"),
        ("autotune:\n  enabled: 7\n", ":2: autotune: '7' is not true or false"),
        ("timeline: [a\n", "not YAML"),
        ("- np\n", ":1: expected lines of the form 'key: value'"),
        ("controller: smoke\n", ":1: controller: 'smoke' is not one of gloo, mpi, jsrun"),
        ("config_file: other.yaml\n", "a configuration file cannot name another one"),
        ("params: 3\n", ":1: params is a section with the keys fusion_threshold_mb, cycle"),
        ("np: {a: 1}\n", ":1: expected a single value"),
    ],
)
def test_mistakes_name_file_and_line(job, text, message):
    with pytest.raises(UsageError) as caught:
        job(text, "-np", "2")
    assert message in str(caught.value)


def test_a_file_that_is_not_there():
    with pytest.raises(UsageError, match="--config-file /no/such: No such file"):
        parse(["--config-file", "/no/such", "-np", "2", "true"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("np: 2\nverbose: true\nnp: 3\n", "config.yaml:3: np is there twice"),
        ("params:\n  cache_capacity: 1\n  cache_capacity: 2\n", "config.yaml:3: cache_capacity is"),
        ("controller: [gloo]\n", "config.yaml:1: expected a single value"),
        ("? [np]\n: 2\n", "config.yaml:1: expected a single value"),
    ],
)
def test_mistakes_of_yaml_itself(job, text, problem):
    with pytest.raises(UsageError, match=problem):
        job(text, "-np", "2")
