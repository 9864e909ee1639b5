"""Training on several ranks gives what training in one process gives."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from hora.errors import UsageError
from rank_values import same_bits, seeded
from torch import nn

BATCH = 64
STEPS = 22


@pytest.fixture(autouse=True)
def whole_shares(hvd):
    if BATCH % hvd.size():
        pytest.skip(f"{hvd.size()} ranks do not share a batch of {BATCH} evenly")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(20, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 5),
        nn.LogSoftmax(1),
    )


def data():
    generator = seeded(7)
    inputs = torch.randn(STEPS * BATCH, 20, generator=generator)
    return inputs, (inputs[:, :5] + inputs[:, 5:10]).argmax(1)


def batches(rank=0, size=1):
    """This rank's share of each global batch."""
    inputs, labels = data()
    share = BATCH // size
    for start in range(rank * share, STEPS * BATCH, BATCH):
        yield inputs[start : start + share], labels[start : start + share]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def backward(model, inputs, labels, passes=1):
    for x, y in zip(inputs.chunk(passes), labels.chunk(passes), strict=True):
        loss = nn.functional.nll_loss(model(x), y)
        loss.backward()
    return loss


def train(model, optimizer, samples, passes=1, with_closure=False, finish=None):
    for inputs, labels in samples:
        optimizer.zero_grad()
        if with_closure:
            optimizer.step(partial(backward, model, inputs, labels))
            continue
        backward(model, inputs, labels, passes)
        if finish is None:
            optimizer.step()
        else:
            finish(model, optimizer)
    return model


def distributed(hvd, make=sgd, **options):
    model = network(seed=hvd.rank())  # different, until the broadcast
    hvd.broadcast_parameters(model)
    return model, hvd.DistributedOptimizer(make(model), model.named_parameters(), **options)


def assert_same_everywhere(hvd, model):
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    for row in hvd.allgather(flat.reshape(1, -1)):
        assert same_bits(row, flat)


def assert_close(model, other, tolerance=1e-5):
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (p - q).abs().max().item() <= tolerance, name


@pytest.mark.parametrize("with_closure", [False, True])
def test_an_epoch_equals_one_process(hvd, with_closure):
    reference = network()
    train(reference, sgd(reference), batches())
    results = []
    for _ in range(2):
        model, optimizer = distributed(hvd)
        train(model, optimizer, batches(hvd.rank(), hvd.size()), with_closure=with_closure)
        assert_same_everywhere(hvd, model)
        results.append(model)
    assert_close(results[0], reference)
    for p, q in zip(results[0].parameters(), results[1].parameters(), strict=True):
        assert same_bits(p.detach(), q.detach())


def test_accumulation_over_backward_passes(hvd):
    reference = network()
    train(reference, sgd(reference), batches(), passes=2)
    model, optimizer = distributed(hvd, backward_passes_per_step=2)
    train(model, optimizer, batches(hvd.rank(), hvd.size()), passes=2)
    assert_close(model, reference)
    assert_same_everywhere(hvd, model)


@pytest.mark.parametrize("options", [{"gradient_predivide_factor": 2.0}, {"op": "Sum"}])
def test_other_ways_to_the_same_sum(hvd, options):
    options = {key: hvd.Sum if value == "Sum" else value for key, value in options.items()}
    scale = 1.0 / hvd.size() if "op" in options else 1.0
    reference = network()
    train(reference, sgd(reference), batches())
    model = network()
    optimizer = hvd.DistributedOptimizer(sgd(model), **options)
    for inputs, labels in batches(hvd.rank(), hvd.size()):
        optimizer.zero_grad()
        (scale * nn.functional.nll_loss(model(inputs), labels)).backward()
        optimizer.step()
    assert_close(model, reference)


def test_clipping(hvd):
    def clip_alone(model, optimizer):
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    def clip_together(model, optimizer):
        optimizer.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        with optimizer.skip_synchronize():
            optimizer.step()

    reference = network()
    train(reference, sgd(reference), batches(), finish=clip_alone)
    model, optimizer = distributed(hvd)
    train(model, optimizer, batches(hvd.rank(), hvd.size()), finish=clip_together)
    assert_close(model, reference)
    assert_same_everywhere(hvd, model)


def test_lbfgs_decides_alike_on_all_ranks(hvd):
    def lbfgs(model):
        return torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")

    model, optimizer = distributed(hvd, lbfgs)
    inputs, labels = next(batches(hvd.rank(), hvd.size()))
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(model(inputs), labels)
        loss.backward()
        return loss

    for _ in range(3):
        losses.append(float(optimizer.step(closure)))
    assert losses[-1] < losses[0]
    assert_same_everywhere(hvd, model)


def test_schedulers(hvd):
    model, optimizer = distributed(hvd)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches(hvd.rank(), hvd.size()):
            train(model, optimizer, [batch])
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-6)
    assert_same_everywhere(hvd, model)


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "state_dict"])
def test_training_goes_on_with_a_copy(hvd, how):
    halves = list(batches(hvd.rank(), hvd.size()))
    model, optimizer = distributed(hvd)
    train(model, optimizer, halves)
    expected = copy.deepcopy(model)

    model, optimizer = distributed(hvd)
    train(model, optimizer, halves[:9])
    if how == "pickle":
        model, optimizer = pickle.loads(pickle.dumps((model, optimizer)))
    elif how == "deepcopy":
        model, optimizer = copy.deepcopy((model, optimizer))
    else:
        state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        model, optimizer = distributed(hvd)
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    train(model, optimizer, halves[9:])
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        assert same_bits(p.detach(), q.detach())


def test_the_state_of_a_wrapped_optimizer_is_kept(hvd):
    reference = network()
    optimizer = sgd(reference)
    train(reference, optimizer, list(batches())[:4])
    model = copy.deepcopy(reference)
    wrapped = sgd(model)
    wrapped.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(reference, optimizer, list(batches())[4:])
    together = hvd.DistributedOptimizer(wrapped)
    train(model, together, list(batches(hvd.rank(), hvd.size()))[4:])
    assert_close(model, reference)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(hvd, set_to_none):
    model, optimizer = distributed(hvd)
    train(model, optimizer, list(batches(hvd.rank(), hvd.size()))[:1])
    optimizer.zero_grad(set_to_none=set_to_none)
    assert all((p.grad is None) == set_to_none for p in model.parameters())


@pytest.mark.ranks(2)
def test_a_parameter_that_only_one_rank_uses(hvd):
    table = nn.ParameterList([torch.zeros(2) for _ in range(hvd.size() + 1)])
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(table.parameters(), lr=float(hvd.size())))
    for _ in range(2):
        optimizer.zero_grad()
        table[hvd.rank()].sum().backward()
        optimizer.step()
    expected = [[-2.0, -2.0]] * hvd.size() + [[0.0, 0.0]]
    assert [p.tolist() for p in table] == expected


def test_two_networks_that_train_together(hvd):
    makers = [distributed(hvd) for _ in range(2)]
    inputs, _ = next(batches(hvd.rank(), hvd.size()))
    order = makers if hvd.rank() % 2 else makers[::-1]
    for _, optimizer in makers:
        optimizer.zero_grad()
    for model, _ in order:
        model(inputs).sum().backward()
    for _, optimizer in makers:
        optimizer.step()
    for model, _ in makers:
        assert_same_everywhere(hvd, model)


def test_convolutions_in_channels_last(hvd):
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0))
    images = torch.full((2, 3, 5, 5), float(hvd.rank())).contiguous(
        memory_format=torch.channels_last
    )
    before = model.weight.detach().clone()
    model(images).mean().backward()
    optimizer.step()
    mean = sum(range(hvd.size())) / hvd.size()
    torch.testing.assert_close(before - model.weight, torch.full_like(before, mean / 4))


def test_bfloat16_parameters(hvd):
    weight = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0))
    (weight * (hvd.rank() + 1)).sum().backward()
    optimizer.step()
    assert weight.tolist() == [-(hvd.size() + 1) / 2] * 4


def test_too_many_backward_passes(hvd):
    model, optimizer = distributed(hvd)
    inputs, _ = next(batches(hvd.rank(), hvd.size()))
    model(inputs).sum().backward()
    with pytest.raises(UsageError, match="backward_passes_per_step=1"):
        model(inputs).sum().backward()
    optimizer.synchronize()
    with pytest.raises(UsageError, match="beyond backward_passes_per_step=1"):
        optimizer.step()  # the second pass has touched gradients that were travelling
    optimizer.zero_grad()
    train(model, optimizer, list(batches(hvd.rank(), hvd.size()))[:2])
