"""What hora tells of itself, over a fake engine."""

from __future__ import annotations

import builtins
import importlib
import subprocess
import sys

import pytest
import torch
from hora import plugins as parts
from hora.errors import HoraError, UsageError
from hora.horovod import names


def test_debug_state(core, hvd):
    hvd.shutdown()
    core.size = 4
    hvd.init()
    hvd.add_process_set([0, 2])
    core.hold()
    hvd.allreduce_async(torch.ones(1), name="slow")
    state = hvd.debug_state()
    assert (state["rank"], state["size"]) == (0, 4)
    assert state["process_sets"] == {0: [0, 1, 2, 3], 1: [0, 2]}
    assert state["pending"] == [
        {"process_set": 0, "kind": "allreduce", "name": "slow", "seconds": 1.5}
    ]
    assert isinstance(state, dict)
    lines = str(state).splitlines()
    assert lines[0] == "hora: rank 0 of 4"
    assert "  process set 0: ranks 0 to 3" in lines
    assert "  process set 1: ranks 0, 2" in lines
    assert "       1.500 s  allreduce 'slow'" in lines
    assert repr(state) == str(state)
    hvd.shutdown()
    assert hvd.debug_state() == {"initialized": False}
    assert repr(hvd.debug_state()) == "hora: not initialised"


def test_metrics(core, hvd, monkeypatch):
    hvd.allreduce_(torch.ones(1))
    assert hvd.metrics() == {"submitted": 1, "failed": 0}
    with pytest.raises(ValueError, match="format='xml'"):
        hvd.metrics("xml")

    def missing(name, package=None):
        raise ImportError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", missing)
        with pytest.raises(UsageError, match=r"pip install 'hora\[metrics\]'"):
            hvd.metrics("prometheus")


def test_metrics_for_prometheus(hvd):
    pytest.importorskip("prometheus_client")
    hvd.allreduce_(torch.ones(1))
    text = hvd.metrics(format="prometheus")
    assert 'hora_submitted_total{rank="0"} 1.0' in text
    assert text.endswith("\n")


def test_timeline(core, hvd, tmp_path, monkeypatch):
    path = tmp_path / "trace.json"
    with pytest.raises(ValueError, match="no timeline"):
        hvd.stop_timeline()
    hvd.start_timeline(path, mark_cycles=True)
    assert core.timeline == (str(path), True)
    hvd.stop_timeline()
    core._topology.rank = 3
    hvd.start_timeline(str(path))
    assert core.timeline == (str(tmp_path / "trace.rank3.json"), False)
    hvd.stop_timeline()
    hvd.shutdown()
    monkeypatch.setenv("HORA_TIMELINE", str(path))
    hvd.init()
    assert core.timeline == (str(path), False)


def test_log_level(core, hvd):
    hvd.set_log_level("debug")
    assert core.log_level == "debug"


def test_what_was_built(hvd):
    for name in ("ddl", "ccl", "rocm"):
        assert not getattr(hvd, f"{name}_built")()
    assert not (hvd.mpi_enabled() or hvd.gloo_enabled() or hvd.mpi_threads_supported())
    assert hvd.is_homogeneous()
    hvd.shutdown()
    with pytest.raises(HoraError, match=r"hvd\.init"):
        hvd.is_homogeneous()


def test_elastic_names_fail_clearly(hvd):
    @hvd.elastic.run
    def train(state):
        raise AssertionError

    assert train.__name__ == "train"
    for call in (
        lambda: train(None),
        lambda: hvd.elastic.TorchState(model=None, epoch=0),
        lambda: hvd.elastic.ObjectState(epoch=0),
        lambda: hvd.elastic.ElasticSampler([1]),
    ):
        with pytest.raises(HoraError, match="elastic training is not part of this version"):
            call()


def test_exceptions_of_horovod(hvd):
    assert issubclass(hvd.HorovodInternalError, RuntimeError)
    assert hvd.HostsUpdatedInterrupt(skip_sync=True).skip_sync
    assert issubclass(hvd.HorovodVersionMismatchError, builtins.ImportError)


@pytest.fixture
def plugins(hvd, tmp_path, monkeypatch):
    """An empty folder of plugins, and nothing remembered of another one."""
    from hora import introspection

    monkeypatch.setenv("HORA_PLUGIN_DIRECTORY", str(tmp_path))
    introspection._plugin_is_usable.cache_clear()
    yield tmp_path
    introspection._plugin_is_usable.cache_clear()


def test_plugins_that_are_not_there_are_not_built(hvd, plugins):
    assert not hvd.gloo_built() and not hvd.mpi_built()
    assert not names.gloo_built(verbose=True) and not names.mpi_built(verbose=True)


def test_a_plugin_that_cannot_be_opened_is_not_built(hvd, plugins):
    for file in ("hora_gloo.so", "hora_mpi_ompi.so", "hora_mpi_mpich.so"):
        (plugins / file).write_text("not a library")
    assert not hvd.gloo_built() and not hvd.mpi_built()


@pytest.mark.parametrize("file", ["hora_gloo.so", "hora_mpi_ompi.so", "hora_mpi_mpich.so"])
def test_a_plugin_with_its_library_is_built(hvd, plugins, monkeypatch, file):
    asked = []

    def answer(words, environ):
        asked.append(words[-2:])
        return 0, "Some library 1.2"

    monkeypatch.setattr(parts, "ask", answer)
    (plugins / file).touch()
    engine = "gloo" if "gloo" in file else "mpi"
    for _ in range(2):  # the second time it is remembered
        assert (hvd.gloo_built(), hvd.mpi_built()) == (engine == "gloo", engine == "mpi")
    assert asked == [[engine, str(plugins)]]
    assert getattr(names, f"{engine}_built")(verbose=True)


def test_cuda_and_nccl_are_built_where_the_plugin_is(hvd, plugins, monkeypatch):
    from hora import gpus, introspection

    found = gpus.GpuFacts("CUDA 13.0", (), "no driver", 22809, "/nccl")
    monkeypatch.setattr(gpus, "look", lambda: found)
    for has_cuda in (False, True):
        introspection.nccl_built.cache_clear()
        assert hvd.cuda_built() is has_cuda
        assert hvd.nccl_built() == 22809 * has_cuda
        assert names.nccl_built() is has_cuda
        assert names.gpu_available("horovod.torch") is has_cuda
        assert not names.gpu_available("tensorflow")
        (plugins / "hora_cuda.so").touch()
    introspection.nccl_built.cache_clear()


def test_the_plugins_of_this_build_are_found():
    # In a process of its own: over the real engine, and nothing is remembered there.
    script = "import hora.torch as hvd; print(hvd.gloo_built(), hvd.mpi_built())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    there = {one.engine for one in parts.PLUGINS if parts.is_usable(one.engine)}
    assert done.stdout.split() == [str("gloo" in there), str("mpi" in there)]
