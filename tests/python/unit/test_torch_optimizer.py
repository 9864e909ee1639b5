"""DistributedOptimizer over a fake engine: when it reduces, what it refuses, what it delegates."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import warnings
import weakref

import pytest
import torch
from hora.errors import PeerFailedError, UsageError


def network():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def loss_of(model):
    return model(torch.ones(5, 4)).square().sum()


@pytest.fixture(autouse=True)
def cores_to_spare(monkeypatch):
    """So that gradients are submitted during the backward pass."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1 << 20))


@pytest.fixture
def model():
    return network()


@pytest.fixture
def optimizer(hvd, model):
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return hvd.DistributedOptimizer(sgd, named_parameters=model.named_parameters())


def test_gradients_are_submitted_during_the_backward_pass(core, model, optimizer):
    core.hold()
    loss_of(model).backward()
    # The last layer's gradients are there first.
    assert core.names == [
        f"DistributedOptimizer.0.{name}" for name in ("2.bias", "2.weight", "0.bias", "0.weight")
    ] or sorted(core.names) == sorted(
        f"DistributedOptimizer.0.{name}" for name, _ in model.named_parameters()
    )
    assert core.waited == []
    optimizer.step()
    assert len(core.waited) == 4
    assert len(core.calls) == 4


def test_a_step_is_that_of_the_wrapped_optimizer(model, optimizer):
    twin = network()
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for m, o in ((model, optimizer), (twin, plain)):
            o.zero_grad()
            loss_of(m).backward()
            o.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_is_an_optimizer_and_owns_nothing(hvd, model):
    adam = torch.optim.Adam(model.parameters(), lr=0.5)
    loss_of(model).backward()
    adam.step()
    state = adam.state
    optimizer = hvd.DistributedOptimizer(adam)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.state is state
    assert len(state) == 4  # what was there before is kept
    assert optimizer.param_groups is adam.param_groups
    assert optimizer.defaults is adam.defaults
    assert optimizer.state_dict().keys() == adam.state_dict().keys()
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state is adam.state
    assert "Adam" in repr(optimizer)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = optimizer.no_such_thing


def test_step_hooks_run_once(model, optimizer):
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    loss_of(model).backward()
    optimizer.step()
    assert seen == ["before", "after"]


@pytest.mark.parametrize("wrap_first", [True, False])
def test_learning_rate_schedulers(hvd, model, wrap_first):
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = hvd.DistributedOptimizer(sgd)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer if wrap_first else sgd, 1, gamma=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=5, cycle_momentum=False)


def saved_and_loaded(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [lambda pair: pickle.loads(pickle.dumps(pair)), saved_and_loaded, copy.deepcopy],
    ids=["pickle", "torch.save", "deepcopy"],
)
def test_copies_reduce_under_their_own_names(core, model, optimizer, copied):
    loss_of(model).backward()
    optimizer.step()
    twin, twin_optimizer = copied((model, optimizer))
    core.calls.clear()
    twin_optimizer.zero_grad()
    loss_of(twin).backward()
    twin_optimizer.step()
    assert sorted(core.names) == sorted(
        f"DistributedOptimizer.1.{name}" for name, _ in model.named_parameters()
    )
    assert len(twin_optimizer.state) == 4
    core.calls.clear()
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()
    assert all(name.startswith("DistributedOptimizer.0.") for name in core.names)


def test_a_copy_that_never_reduces_takes_no_number(core, hvd, model, optimizer):
    copy.deepcopy(optimizer)
    other = network()
    second = hvd.DistributedOptimizer(torch.optim.SGD(other.parameters(), lr=1.0))
    loss_of(other).backward()
    second.step()
    assert all(name.startswith("DistributedOptimizer.1.") for name in core.names)


def test_two_optimizers_may_have_parameters_of_the_same_name(core, hvd):
    core.hold()
    models = [network(), network()]
    optimizers = [
        hvd.DistributedOptimizer(torch.optim.SGD(m.parameters(), lr=1.0), m.named_parameters())
        for m in models
    ]
    (loss_of(models[0]) + loss_of(models[1])).backward()
    assert len(set(core.names)) == 8
    for optimizer in optimizers:
        optimizer.step()


def test_the_model_does_not_keep_a_dropped_optimizer(core, hvd, model):
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0))
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None
    loss_of(model).backward()
    assert core.calls == []


def test_several_backward_passes_per_step(core, hvd, model):
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), backward_passes_per_step=2
    )
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        assert core.calls == []
        loss_of(model).backward()
        assert len(core.calls) == 4
        optimizer.step()
        core.calls.clear()
    optimizer.set_backward_passes_per_step(1)
    loss_of(model).backward()
    assert len(core.calls) == 4
    with pytest.raises(UsageError, match="cannot change"):
        optimizer.set_backward_passes_per_step(3)
    optimizer.step()


def test_more_backward_passes_than_promised(core, model, optimizer):
    core.hold()
    loss_of(model).backward()
    with pytest.raises(UsageError, match=r"'[02]\.(bias|weight)'.*backward_passes_per_step=1"):
        loss_of(model).backward()


def test_after_a_backward_pass_too_many(core, model, optimizer):
    core.hold()
    loss_of(model).backward()
    with pytest.raises(UsageError, match="more than backward_passes_per_step"):
        loss_of(model).backward()
    optimizer.synchronize()  # that error has been told
    with pytest.raises(UsageError, match="beyond backward_passes_per_step=1"):
        optimizer.step()
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


@pytest.mark.parametrize("op", ["x", [1], 6])
def test_ops_that_are_none(hvd, model, op):
    with pytest.raises(UsageError, match="none of Average, Sum"):
        hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), op=op)


@pytest.mark.parametrize("factor", ["x", 0, float("nan")])
def test_predivision_by_nothing(hvd, model, factor):
    with pytest.raises(UsageError, match=f"gradient_predivide_factor={factor!r} is not"):
        hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=1.0), gradient_predivide_factor=factor
        )


def test_zero_grad_while_gradients_travel(core, model, optimizer):
    core.hold()
    loss_of(model).backward()
    with pytest.raises(UsageError, match=r"zero_grad.*before step.*call synchronize\(\) alone"):
        optimizer.zero_grad()
    optimizer.synchronize()
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.count_nonzero() == 0 for p in model.parameters())
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in model.parameters())


def test_clipping(core, hvd, model):
    core.size = 2
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), op=hvd.Sum)
    loss_of(model).backward()
    optimizer.synchronize()
    optimizer.synchronize()  # a second one must not add the gradients up again
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    with optimizer.skip_synchronize():
        optimizer.step()
    assert len(core.calls) == 4
    moved = sum((p - q).square().sum() for p, q in zip(model.parameters(), before, strict=True))
    assert moved.sqrt().item() == pytest.approx(1e-3, rel=1e-3)


def test_step_after_synchronize_reduces_once(core, hvd, model, optimizer):
    loss_of(model).backward()
    optimizer.synchronize()
    with pytest.warns(UserWarning, match="without optimizer.skip_synchronize"):
        optimizer.step()
    assert len(core.calls) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    assert len(core.calls) == 12


def test_skip_synchronize_without_synchronize(core, model, optimizer):
    core.hold()
    loss_of(model).backward()
    with optimizer.skip_synchronize(), pytest.raises(UsageError, match=r"call .*synchronize\(\)"):
        optimizer.step()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
        lambda model: model.zero_grad(),
        lambda model: setattr(model[0].bias, "grad", torch.zeros(3)),
    ],
)
def test_gradients_changed_while_they_travel(core, model, optimizer, change):
    core.hold()
    loss_of(model).backward()
    change(model)
    with pytest.raises(UsageError, match="changed between"):
        optimizer.step()
    optimizer.zero_grad()  # nothing is left under way


def test_parameters_without_a_gradient_contribute_zeros(core, hvd, model):
    unused = torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD([*model.parameters(), unused, frozen], lr=1.0)
    )
    loss_of(model).backward()
    optimizer.step()
    assert len(core.calls) == 5
    assert torch.equal(unused.grad, torch.zeros(2))
    assert frozen.grad is None
    frozen.requires_grad_(True)
    optimizer.zero_grad()
    core.calls.clear()
    (frozen.sum() + loss_of(model)).backward()
    assert len(core.calls) == 5  # thawed and hooked
    optimizer.step()


def test_closures(core, model, optimizer):
    core.size = 2
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        calls.append(loss.item())
        return loss

    assert optimizer.step(closure).item() == pytest.approx(calls[0])
    assert len(core.calls) == 5  # four gradients and the loss


def test_lbfgs(core, hvd, model):
    core.size = 2
    optimizer = hvd.DistributedOptimizer(
        torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    )
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    assert len(losses) > 1
    assert len(core.calls) == 5 * len(losses)
    assert loss_of(model).item() < losses[0]


def test_predivision(core, hvd, model):
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), gradient_predivide_factor=4.0
    )
    loss_of(model).backward()
    optimizer.step()
    assert {(c.prescale, c.postscale) for c in core.calls} == {(0.25, 4.0)}
    with pytest.raises(UsageError, match="Average"):
        hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=1.0), op=hvd.Sum, gradient_predivide_factor=2.0
        )


def test_names(core, hvd, model):
    def sgd():
        return torch.optim.SGD(model.parameters(), lr=1.0)

    pairs = list(model.named_parameters())
    with pytest.raises(ValueError, match=r"more than once: 0\.weight"):
        hvd.DistributedOptimizer(sgd(), [*pairs, pairs[0]])
    with pytest.raises(ValueError, match=r"does not name 1 of .* 4 .*\(3, 4\)"):
        hvd.DistributedOptimizer(sgd(), pairs[1:])
    with pytest.raises(ValueError, match="pairs"):
        hvd.DistributedOptimizer(sgd(), model.parameters())
    with pytest.raises(UsageError, match="only once"):
        hvd.DistributedOptimizer(hvd.DistributedOptimizer(sgd()))
    with pytest.raises(TypeError, match="missing"):
        hvd.DistributedOptimizer()
    with pytest.raises(UsageError, match="not Sequential"):
        hvd.DistributedOptimizer(model)
    with pytest.raises(UsageError, match="backward_passes_per_step=0"):
        hvd.DistributedOptimizer(sgd(), backward_passes_per_step=0)


def test_the_order_of_arguments_is_horovods(core, hvd, model):
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    names, everyone = model.named_parameters(), hvd.global_process_set
    args = (sgd, names, hvd.Compression.none, 2, hvd.Sum, 1.0, 0, 2, True, everyone)
    optimizer = hvd.DistributedOptimizer(*args)
    assert optimizer.backward_passes_per_step == 2
    assert optimizer.process_set is everyone
    loss_of(model).backward()
    assert core.calls == []
    loss_of(model).backward()
    assert [call.reduce_op for call in core.calls] == [hvd.Sum, hvd.Sum]  # two groups
    optimizer.step()


def test_horovods_name_for_the_names(hvd, model, optimizer):
    assert optimizer._parameter_names == {p: name for name, p in model.named_parameters()}


def test_a_process_set(core, hvd, model):
    hvd.shutdown()
    core.size = 2
    hvd.init()
    ours, theirs = hvd.add_process_set([0]), hvd.add_process_set([1])
    core.calls.clear()
    twin = network()
    inside = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), process_set=ours)
    outside = hvd.DistributedOptimizer(
        torch.optim.SGD(twin.parameters(), lr=0.1), process_set=theirs
    )
    for m, optimizer in ((model, inside), (twin, outside)):
        loss_of(m).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {(call.process_set, call.name[:23]) for call in core.calls} == {
        (ours.process_set_id, "DistributedOptimizer.0.")
    }
    assert outside.step(lambda: 3.5) == 3.5
    assert len(core.calls) == 4
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(UsageError, match="add_process_set"):
        hvd.DistributedOptimizer(inside._inner, process_set=hvd.ProcessSet([0]))


def _optimizers():
    found = [
        getattr(torch.optim, name)
        for name in dir(torch.optim)
        if isinstance(getattr(torch.optim, name), type) and name not in ("Optimizer", "SparseAdam")
    ]
    return [kind for kind in found if issubclass(kind, torch.optim.Optimizer)]


@pytest.mark.parametrize("kind", _optimizers(), ids=lambda kind: kind.__name__)
def test_every_optimizer_of_pytorch(hvd, kind):
    weight = torch.nn.Parameter(torch.ones(3, 2))  # Muon takes matrices only
    twin = torch.nn.Parameter(torch.ones(3, 2))
    optimizer, plain = hvd.DistributedOptimizer(kind([weight], lr=0.1)), kind([twin], lr=0.1)

    def closure(of, stepping):
        stepping.zero_grad()
        loss = (of * of).sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(lambda: closure(weight, optimizer))
        plain.step(lambda: closure(twin, plain))
        hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    assert torch.equal(weight, twin)
    assert copy.deepcopy(optimizer).state_dict().keys() == plain.state_dict().keys()


def test_added_groups(core, optimizer, model):
    more = torch.nn.Parameter(torch.ones(1))
    optimizer.add_param_group({"params": [more], "lr": 0.0})
    (loss_of(model) + more.sum()).backward()
    optimizer.step()
    assert "DistributedOptimizer.0.group1.param0" in core.names


def test_a_lost_group_leaves_nothing_pending(core, model, optimizer):
    core.fail_submit = PeerFailedError("rank 1 is gone")
    with pytest.raises(PeerFailedError):
        loss_of(model).backward()
    core.fail_submit = None
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()
