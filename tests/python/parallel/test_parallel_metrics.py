"""Losses and metrics of all ranks."""

from __future__ import annotations

import math

import pytest
import torch

pytestmark = pytest.mark.any_backend


def test_losses(hvd):
    mean = (hvd.size() - 1) / 2
    reducer = hvd.DistributedLossReducer()
    assert reducer(torch.tensor(float(hvd.rank()))) == mean
    assert hvd.DistributedLossReducer(op=hvd.Max)(hvd.rank()) == hvd.size() - 1
    later = hvd.DistributedLossReducer(async_=True)
    assert [later(hvd.rank() + step) for step in range(4)] == [mean, mean, mean + 1, mean + 2]
    assert later.finish() == mean + 3
    rarely = hvd.DistributedLossReducer(every=2)
    seen = [rarely(hvd.rank() + step) for step in range(4)]
    assert seen == [mean, mean, mean + 1.5, mean + 1.5]


def test_means_over_uneven_shares(hvd):
    averages = hvd.MetricAverager("loss", "rank", "nothing")
    for turn in range(hvd.rank()):  # rank 0 has no data at all
        averages.update(loss=float(turn), count=2)
        averages.update({"rank": hvd.rank()})
    means = averages.compute()
    turns = [(turn, rank) for rank in range(hvd.size()) for turn in range(rank)]
    assert math.isnan(means["nothing"])
    if turns:
        assert means["loss"] == pytest.approx(sum(t for t, _ in turns) / len(turns))
        assert means["rank"] == pytest.approx(sum(r for _, r in turns) / len(turns))


@pytest.mark.ranks(2)
def test_metrics_in_a_process_set(hvd):
    last = hvd.add_process_set([hvd.size() - 1])
    if last.included():
        assert hvd.DistributedLossReducer(process_set=last)(3.0) == 3.0
        metric = hvd.Metric("m", process_set=last)
        metric.update(5.0, count=2)
        assert metric.compute() == 5.0
    hvd.remove_process_set(last)


def test_only_rank_0_saves(hvd, tmp_path_factory):
    folder = hvd.broadcast_object(str(tmp_path_factory.mktemp("once")))
    path = f"{folder}/model.pt"
    assert hvd.save_on_primary({"rank": hvd.rank()}, path) == (hvd.rank() == 0)
    hvd.barrier()
    assert torch.load(path) == {"rank": 0}
