"""Horovod's public names outside its torch module."""

from __future__ import annotations

import os
import threading

import pytest
from hora.errors import HoraError
from hora.horovod import names
from hora.horovod.alias import ABSENT, MODULES, AliasFinder


def test_in_thread_runs_a_daemon_that_is_named():
    seen = []
    thread = names.in_thread(seen.append, (7,), name="worker")
    thread.join(10)
    assert (seen, thread.daemon, thread.name) == ([7], True, "worker")
    assert not names.in_thread(seen.append, [8], daemon=False).daemon


def test_in_thread_takes_a_tuple_of_arguments():
    with pytest.raises(ValueError, match=r"must be a tuple, e.g. \(arg,\), not str"):
        names.in_thread(print, "abc")


def test_in_thread_can_be_silent(monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    names.in_thread(lambda: 1 / 0, silent=True).join(10)
    assert raised == []
    names.in_thread(lambda: 1 / 0).join(10)
    assert raised[0].exc_type is ZeroDivisionError


def test_split_list_spreads_what_is_left_over():
    assert names.split_list([1, 2, 3, 4, 5], 3) == [[1, 2], [3, 4], [5]]
    assert names.split_list([], 2) == [[], []]


def test_powers_of_two():
    assert [n for n in range(10) if names.num_rank_is_power_2(n)] == [1, 2, 4, 8]


def test_checks_that_have_nothing_to_check():
    names.check_extension("horovod.torch", "HOROVOD_WITH_PYTORCH", __file__, "mpi_lib_v2")
    names.check_installed_version("pytorch", "2.13.0")
    assert names.extension_available("torch")
    assert not names.extension_available("tensorflow")
    assert not names.nccl_built(verbose=True)
    assert names.HorovodInternalError is HoraError


def test_env_sets_variables_for_a_while(monkeypatch):
    monkeypatch.setenv("HORA_TEST_OLD", "1")
    with names.env(HORA_TEST_OLD="2", HORA_TEST_NEW="3", HORA_TEST_NONE=None):
        found = {name: os.environ.get(f"HORA_TEST_{name}") for name in ("OLD", "NEW", "NONE")}
    assert found == {"OLD": "2", "NEW": "3", "NONE": None}
    assert (os.environ["HORA_TEST_OLD"], os.environ.get("HORA_TEST_NEW")) == ("1", None)


def test_the_finder_leaves_other_packages_alone():
    assert AliasFinder().find_spec("horovodlike") is None
    assert AliasFinder().find_spec("json") is None


def test_packages_are_those_with_modules_in_them():
    for name in MODULES:
        spec = AliasFinder().find_spec(name)
        has_children = any(other.startswith(f"{name}.") for other in MODULES)
        assert (spec.submodule_search_locations is not None) == has_children, name


@pytest.mark.parametrize("part", ABSENT)
def test_other_frameworks_say_what_there_is(part):
    with pytest.raises(ModuleNotFoundError, match=r"for PyTorch only; there is horovod\.torch"):
        AliasFinder().find_spec(f"horovod.{part}")


def test_a_near_miss_is_suggested():
    with pytest.raises(ModuleNotFoundError, match=r"did you mean horovod\.torch\.mpi_ops\?"):
        AliasFinder().find_spec("horovod.torch.mpi_op")
