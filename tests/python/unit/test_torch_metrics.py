"""Losses and metrics over all ranks; rates, devices and checkpoints; all over a fake engine."""

from __future__ import annotations

import math
import os
import stat

import pytest
import torch
from hora.errors import UsageError


@pytest.fixture
def pair(core, hvd):
    """Two ranks that bring the same."""
    hvd.shutdown()
    core.size = 2
    hvd.init()
    return hvd


# --- DistributedLossReducer ---


def test_a_loss_is_a_float_and_gradients_stay(core, pair):
    reducer = pair.DistributedLossReducer(op=pair.Sum)
    weight = torch.nn.Parameter(torch.ones(1))
    loss = (weight * 3).sum()
    assert reducer.value is None
    assert type(reducer(loss)) is float
    assert reducer.value == 6.0
    assert weight.grad is None
    loss.backward()
    assert weight.grad.item() == 3.0
    assert reducer(1) == 2.0
    assert pair.DistributedLossReducer()(torch.tensor(0.5)) == 0.5
    assert core.names == ["DistributedLossReducer.0"] * 2 + ["DistributedLossReducer.1"]


def test_every_third_loss(core, pair):
    reducer = pair.DistributedLossReducer(every=3)
    seen = [reducer(float(number)) for number in range(7)]
    assert seen == [0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 5.0]  # means of 1…3 and of 4…6
    assert len(core.calls) == 3


def test_losses_without_waiting(core, pair):
    reducer = pair.DistributedLossReducer(async_=True)
    assert reducer(1.0) == 1.0  # the first waits: there is nothing before it
    core.hold()
    core.waited.clear()
    assert reducer(2.0) == 1.0
    assert core.waited == []
    assert reducer(3.0) == 2.0
    assert reducer.finish() == 3.0
    assert reducer.finish() == 3.0


def test_what_the_loss_reducer_refuses(pair):
    with pytest.raises(UsageError, match="every=0"):
        pair.DistributedLossReducer(every=0)
    with pytest.raises(UsageError, match="none of Average"):
        pair.DistributedLossReducer(op="mean")
    with pytest.raises(UsageError, match=r"shape \(2,\).*mean"):
        pair.DistributedLossReducer()(torch.ones(2))
    with pytest.raises(UsageError, match="not a number"):
        pair.DistributedLossReducer()("x")


# --- Metric, MetricAverager ---


def test_means_are_weighted_by_counts(core, pair):
    averages = pair.MetricAverager("loss", "accuracy")
    averages.update(loss=1.0, accuracy=torch.tensor(0.5), count=30)
    averages.update({"loss": 5.0}, count=10)
    assert averages.compute() == {"loss": 2.0, "accuracy": 0.5}
    assert len(core.calls) == 1
    averages.reset()
    averages.update(loss=float("nan"), count=0)
    assert all(math.isnan(mean) for mean in averages.compute().values())


def test_one_metric(core, pair):
    metric = pair.Metric("loss")
    metric.update(torch.tensor([2.0]), count=3)
    metric.update(6.0)
    assert core.calls == []
    assert metric.compute() == 3.0
    assert metric.name == "loss"
    metric.reset()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize("names", [(), (1,), ("a", "a"), ("count",)])
def test_names_of_metrics(pair, names):
    with pytest.raises(UsageError, match="name"):
        pair.MetricAverager(*names)


def test_what_metrics_refuse(pair):
    averages = pair.MetricAverager("loss")
    with pytest.raises(UsageError, match="'los' is none of loss"):
        averages.update(los=1.0)
    with pytest.raises(UsageError, match="count=-1"):
        averages.update(loss=1.0, count=-1)


# --- learning rates ---


def test_scaled_rates(pair):
    assert pair.scale_lr(0.1) == pytest.approx(0.2)
    assert pair.scale_lr(0.1, "sqrt", factor=4) == pytest.approx(0.2)
    with pytest.raises(UsageError, match="mode='cubic'"):
        pair.scale_lr(0.1, "cubic")
    with pytest.raises(UsageError, match="factor=0"):
        pair.scale_lr(0.1, factor=0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_warmup_rises_in_a_line(pair, wrapped):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=pair.scale_lr(0.1))
    if wrapped:
        optimizer = pair.DistributedOptimizer(optimizer)
    schedule = pair.warmup(optimizer, epochs=2, steps_per_epoch=2)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1, 0.125, 0.15, 0.175, 0.2, 0.2])


def test_no_warmup(hvd):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    hvd.warmup(optimizer, epochs=0, factor=8)
    assert optimizer.param_groups[0]["lr"] == 0.1
    with pytest.raises(UsageError, match="no length"):
        hvd.warmup(optimizer, epochs=-1)


# --- once for all ranks ---


def test_printing_and_devices(core, hvd, capsys):
    assert hvd.is_primary()
    hvd.print_rank0("epoch", 3, sep="=")
    assert capsys.readouterr().out == "epoch=3\n"
    assert hvd.device() == hvd.set_device()
    assert hvd.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    core._topology.rank = 1
    assert not hvd.is_primary()
    hvd.print_rank0("silence")
    assert capsys.readouterr().out == ""


def test_checkpoints_are_whole_or_absent(core, hvd, tmp_path):
    path = tmp_path / "model.pt"
    assert hvd.save_on_primary({"epoch": 1}, path)
    assert torch.load(path) == {"epoch": 1}
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    with pytest.raises(AttributeError):  # a local function cannot be pickled
        hvd.save_on_primary({"epoch": lambda: 2}, str(path))
    assert torch.load(path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["model.pt"]
    core._topology.rank = 1
    assert not hvd.save_on_primary({"epoch": 3}, path)
    assert torch.load(path) == {"epoch": 1}
