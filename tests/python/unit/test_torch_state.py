"""Broadcasts of models, optimizers and objects, over a fake engine with one rank."""

from __future__ import annotations

import pytest
import torch
from hora.errors import UsageError


def test_what_broadcast_parameters_takes(core, hvd):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    named = [f"broadcast.parameters.{name}" for name in model.state_dict()]
    for params in (model, model.state_dict(), list(model.state_dict().items())):
        hvd.broadcast_parameters(params, root_rank=0)
        assert sorted(core.names) == sorted(named)
        core.calls.clear()
    hvd.broadcast_parameters(model.named_parameters(), 0)
    hvd.broadcast_parameters(model.parameters())
    assert core.names[-1] == "broadcast.parameters.3"
    core.calls.clear()
    hvd.broadcast_parameters({"a": None, "flags": torch.tensor([True])})
    assert core.names == ["broadcast.parameters.flags"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"_extra_state": {"a": 1}}, "'_extra_state' is of type dict.*broadcast_object"),
        (torch.ones(2), "broadcast_"),
        (3, "not int"),
    ],
)
def test_what_broadcast_parameters_refuses(core, hvd, params, words):
    with pytest.raises(UsageError, match=words):
        hvd.broadcast_parameters(params)
    assert core.calls == []


def test_broadcast_optimizer_state_takes_no_step(core, hvd):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    assert torch.equal(weight, torch.ones(3))
    assert weight.grad is None
    assert len(optimizer.state) == 0
    weight.sum().backward()
    optimizer.step()
    core.calls.clear()
    hvd.broadcast_optimizer_state(hvd.DistributedOptimizer(optimizer), 0)
    assert len(core.calls) == 2 + 3  # the structure in two, then step, exp_avg, exp_avg_sq


@pytest.mark.parametrize("has_stepped", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_broadcast_optimizer_state_moves_nothing(hvd, wrapped, has_stepped):
    """Horovod takes a real step with zero gradients: weights decay and Adam counts it."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = adam = torch.optim.Adam([weight], lr=0.1, weight_decay=0.5)
    if has_stepped:
        weight.sum().backward()
        adam.step()
        adam.zero_grad()
    if wrapped:
        optimizer = hvd.DistributedOptimizer(adam)
    before = weight.detach().clone()
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    assert torch.equal(weight, before)
    assert [float(state["step"]) for state in adam.state.values()] == [1.0] * has_stepped
    if wrapped:  # Horovod's scripts find a gradient there
        assert torch.equal(weight.grad, torch.zeros(3))
    else:
        assert weight.grad is None


def test_wrapping_keeps_state_and_gradients(hvd):
    weight = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    adam.step()
    optimizer = hvd.DistributedOptimizer(adam)
    assert len(optimizer.state) == 1
    assert weight.grad.sum() == 3


def test_state_in_a_process_set(core, hvd):
    hvd.shutdown()
    core.size = 2
    hvd.init()
    ours = hvd.add_process_set([0])
    core.calls.clear()
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    hvd.broadcast_parameters(model, root_rank=0, process_set=ours)
    hvd.broadcast_optimizer_state(optimizer, 0, None, ours)
    hvd.broadcast_optimizer_state(optimizer, 0, process_set=ours, allow_pickle=True)
    assert {call.process_set for call in core.calls} == {ours.process_set_id}
    assert len(core.calls) == 2 + 2 + 2


def test_state_that_is_not_plain(core, hvd):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    optimizer.param_groups[0]["policy"] = object()
    with pytest.raises(UsageError, match=r"\['policy'\] is of type object"):
        hvd.broadcast_optimizer_state(optimizer, 0)
    assert len(core.calls) == 2  # the other ranks were told
    hvd.broadcast_optimizer_state(optimizer, 0, allow_pickle=True)


def test_plain_data_survives(hvd):
    from hora.torch.plain_data import decode, encode, fill

    data = {
        0: {"step": 3, "rate": 0.1, "inf": float("inf"), "name": "é", "none": None, "on": True},
        "betas": (0.9, 0.999),
        "list": [torch.ones(2, dtype=torch.bfloat16), [torch.tensor(1)], {}],
        "tensor": {"dict": [1]},
    }
    text, tensors = encode(data, "data")
    decoded, specs = decode(text)
    assert [(s.dtype, s.shape) for s in specs] == [(torch.bfloat16, (2,)), (torch.int64, ())]
    back = fill(decoded, tensors)
    assert back == data or repr(back) == repr(data)
    assert type(back["betas"]) is tuple
    assert type(back[0]["on"]) is bool
    with pytest.raises(UsageError, match="key of type tuple"):
        encode({(1, 2): 3}, "data")


def test_broadcast_object(core, hvd):
    thing = {"a": [1, 2], "f": lambda: 3}
    assert hvd.broadcast_object(thing) is thing
    assert hvd.broadcast_object([1, (2, None)], 0, "o", allow_pickle=False) == [1, (2, None)]
    assert core.names[-2:] == ["o.length", "o"]
    with pytest.raises(UsageError, match="the object is of type set"):
        hvd.broadcast_object({1, 2}, allow_pickle=False)


def test_an_object_that_cannot_be_packed(core, hvd):
    class Stubborn:
        def __reduce__(self):
            raise KeyError("not me")

    with pytest.raises(UsageError, match="nothing to broadcast: KeyError: 'not me'") as caught:
        hvd.broadcast_object(Stubborn())
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(core.calls) == 2  # the other ranks were told


@pytest.mark.filterwarnings("error")
def test_metric_average_of_what_requires_grad(hvd):
    assert hvd.metric_average(torch.ones(1, requires_grad=True).sum()) == 1.0


def test_metric_average(hvd):
    assert hvd.metric_average(2) == 2.0
    assert hvd.metric_average(torch.tensor([0.1], dtype=torch.float64), name="loss") == 0.1
    assert type(hvd.metric_average(torch.tensor(1))) is float
