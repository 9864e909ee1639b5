"""HOROVOD_* variables: the table, who wins, what is malformed, and what has no counterpart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hora.errors import UsageError
from hora.horovod.variables import AS_HOROVOD_DOES, COUNTERPARTS, FULFILLED, translate
from hora.settings import NEVER_STALLED, marks_cycles, timeline_path

CONFIG_H = Path(__file__).resolve().parents[3] / "csrc" / "hora" / "base" / "config.h"
GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "migrating-from-horovod.md"
READ_BY_PYTHON = {"HORA_TIMELINE", "HORA_TIMELINE_MARK_CYCLES"}


@pytest.mark.parametrize(
    ("variable", "value", "settings"),
    [
        ("FUSION_THRESHOLD", "0", {"HORA_FUSION_THRESHOLD_BYTES": "0"}),
        ("FUSION_THRESHOLD", " 1024 ", {"HORA_FUSION_THRESHOLD_BYTES": "1024"}),
        ("CACHE_CAPACITY", "0", {"HORA_CACHE_CAPACITY": "0"}),
        ("TIMELINE", "t.json", {"HORA_TIMELINE": "t.json"}),
        ("TIMELINE", "DYNAMIC", {"HORA_TIMELINE": "DYNAMIC"}),
        ("TIMELINE_MARK_CYCLES", "1", {"HORA_TIMELINE_MARK_CYCLES": "1"}),
        ("STALL_CHECK_TIME_SECONDS", "60", {"HORA_STALL_WARNING_SECONDS": "60"}),
        ("STALL_CHECK_TIME_SECONDS", "0", {"HORA_STALL_WARNING_SECONDS": "0.01"}),
        ("STALL_SHUTDOWN_TIME_SECONDS", "0", {"HORA_STALL_ABORT_SECONDS": "0"}),
        ("STALL_SHUTDOWN_TIME_SECONDS", "7", {"HORA_STALL_ABORT_SECONDS": "7"}),
        ("STALL_CHECK_DISABLE", "1", NEVER_STALLED),
        ("STALL_CHECK_DISABLE", "0", {}),
        ("LOG_LEVEL", "Fatal", {"HORA_LOG_LEVEL": "off"}),
        ("LOG_LEVEL", "TRACE", {"HORA_LOG_LEVEL": "trace"}),
        ("LOG_HIDE_TIME", "1", {}),
        ("AUTOTUNE", "true", {"HORA_AUTOTUNE": "1"}),
        ("AUTOTUNE_LOG", "a.csv", {"HORA_AUTOTUNE_LOG": "a.csv"}),
        ("AUTOTUNE_WARMUP_SAMPLES", "3", {"HORA_AUTOTUNE_WARMUP_SAMPLES": "3"}),
        ("AUTOTUNE_STEPS_PER_SAMPLE", "10", {"HORA_AUTOTUNE_STEPS_PER_SAMPLE": "10"}),
        ("AUTOTUNE_BAYES_OPT_MAX_SAMPLES", "20", {"HORA_AUTOTUNE_MAX_SAMPLES": "20"}),
        ("START_TIMEOUT", "30", {"HORA_START_TIMEOUT_SECONDS": "30"}),
        ("DYNAMIC_PROCESS_SETS", "1", {}),
        ("TIMELINE", "", {}),
        ("WITH_PYTORCH", "1", {}),
        ("RANK", "1", {}),
        ("GPU_OPERATIONS", "NCCL", {}),
    ],
)
def test_counterparts(variable, value, settings):
    found = translate({f"HOROVOD_{variable}": value, "HOME": "/"})
    assert (found.settings, found.unmatched) == (settings | AS_HOROVOD_DOES, [])


def test_turning_the_stall_check_off_wins_over_its_times():
    environ = {"HOROVOD_STALL_CHECK_DISABLE": "1", "HOROVOD_STALL_CHECK_TIME_SECONDS": "5"}
    assert translate(environ).settings == NEVER_STALLED | AS_HOROVOD_DOES


def test_a_variable_of_ours_wins():
    environ = {"HOROVOD_CACHE_CAPACITY": "1", "HORA_CACHE_CAPACITY": "2"}
    assert translate(environ).settings == AS_HOROVOD_DOES
    assert translate({"HORA_JOIN_DIVIDES_BY_SIZE": "0"}).settings == {}


def test_what_has_no_counterpart_is_listed():
    unmatched = ["HOROVOD_CYCLE_TIME", "HOROVOD_GLOO_IFACE", "HOROVOD_MPI_THREADS_DISABLE"]
    environ = dict.fromkeys(unmatched, "1") | {"HOROVOD_AUTOTUNE": "1"}
    assert translate(environ).unmatched == unmatched


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FUSION_THRESHOLD", "64MB"),
        ("FUSION_THRESHOLD", "-1"),
        ("FUSION_THRESHOLD", "(None,)"),
        ("CACHE_CAPACITY", "9" * 30),
        ("STALL_CHECK_TIME_SECONDS", "nan"),
        ("STALL_SHUTDOWN_TIME_SECONDS", "-1"),
        ("STALL_CHECK_DISABLE", "maybe"),
        ("AUTOTUNE", "2"),
        ("LOG_LEVEL", "loud"),
        ("TIMELINE", "/no/such/folder/t.json"),
    ],
)
def test_malformed_values_name_the_variable(variable, value):
    with pytest.raises(UsageError) as caught:
        translate({f"HOROVOD_{variable}": value})
    assert str(caught.value).startswith(f"HOROVOD_{variable}: '{value}'")


@pytest.mark.skipif(not CONFIG_H.exists(), reason="needs the source tree")
def test_every_counterpart_is_read_by_somebody():
    text = CONFIG_H.read_text()
    variables = {variable for variable, _ in COUNTERPARTS.values()}
    assert [name for name in variables - READ_BY_PYTHON if f"// {name}" not in text] == []


@pytest.mark.skipif(not GUIDE.exists(), reason="needs the source tree")
def test_the_guide_lists_every_counterpart():
    text = GUIDE.read_text()
    for key, (variable, _) in COUNTERPARTS.items():
        assert f"| `HOROVOD_{key}` | `{variable}`" in text
    for key in FULFILLED:
        assert f"`HOROVOD_{key}`" in text or f"`_{key}`" in text


def test_timelines_of_all_ranks():
    environ = {"HORA_TIMELINE": "out/trace.json"}
    assert timeline_path(environ, 0) == Path("out/trace.json")
    assert timeline_path(environ, 3) == Path("out/trace.rank3.json")
    assert timeline_path({"HORA_TIMELINE": "trace"}, 1) == Path("trace.rank1")
    assert timeline_path({"HORA_TIMELINE": "DYNAMIC"}, 0) is None
    assert timeline_path({}, 0) is None


def test_marking_cycles():
    assert marks_cycles({"HORA_TIMELINE_MARK_CYCLES": "1"})
    assert not marks_cycles({})
    with pytest.raises(UsageError, match="HORA_TIMELINE_MARK_CYCLES='x' is neither 1 nor 0"):
        marks_cycles({"HORA_TIMELINE_MARK_CYCLES": "x"})
