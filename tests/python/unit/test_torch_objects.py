"""Objects over the ranks, over a fake engine of identical ranks."""

from __future__ import annotations

import threading

import pytest
import torch
from hora.errors import UsageError


@pytest.fixture
def hvd(core, hvd):
    hvd.shutdown()
    core.size = 3
    hvd.init()
    core.calls.clear()
    return hvd


def test_allgather_object(core, hvd):
    obj = {"loss": 0.5, "steps": [1, 2]}
    result = hvd.allgather_object(obj, name="o")
    assert result == [obj] * 3
    assert result[0] is obj
    assert core.names == ["o"]
    pair = hvd.add_process_set([0, 2])
    assert hvd.allgather_object(len, process_set=pair) == [len, len]


def test_plain_objects_are_not_pickled(core, hvd, monkeypatch):
    import pickle

    monkeypatch.setattr(pickle, "loads", None)
    obj = {
        "t": torch.arange(6.0).reshape(2, 3).t(),
        3: (None, True, "ü", torch.tensor(7), torch.empty(0, 2)),
        "b": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    _, other, _ = hvd.allgather_object(obj, allow_pickle=False)
    assert torch.equal(other["t"], obj["t"])
    assert other[3][:3] == obj[3][:3]
    assert (other[3][3].item(), other[3][4].shape) == (7, (0, 2))
    assert other["b"].dtype == torch.bfloat16
    with pytest.raises(UsageError, match=r"rank 0 \(UsageError.*neither plain nor a tensor"):
        hvd.allgather_object({1, 2}, allow_pickle=False)


def test_an_object_that_cannot_be_packed(hvd):
    with pytest.raises(UsageError, match=r"rank 0 \(TypeError.*rank 1.*rank 2"):
        hvd.allgather_object(threading.Lock())


def test_broadcast_object_in_a_set(core, hvd):
    pair = hvd.add_process_set([0, 2])
    core.calls.clear()
    assert hvd.broadcast_object({"a": 1}, 0, process_set=pair) == {"a": 1}
    assert hvd.broadcast_object({"a": 1}, 0, process_set=pair, allow_pickle=False) == {"a": 1}
    assert {call.process_set for call in core.calls} == {pair.process_set_id}


def test_a_mean_is_for_reading(hvd):
    loss = torch.ones(1, requires_grad=True) * 2
    from hora.torch.objects import mean_over_ranks

    assert not mean_over_ranks(loss).requires_grad
    assert hvd.metric_average(loss) == 2.0
