"""Gradients that lie in symmetric memory give the same bits as those that do not."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from rank_values import same_bits
from torch import nn

pytestmark = pytest.mark.cpu_only("ranks see each other's memory on the CPU only")

STEPS = 5


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(12, 333), nn.Tanh(), nn.Linear(333, 97), nn.Linear(97, 3).double()
    )


def forward(model, inputs):
    return model[3](model[:3](inputs).double())


def share(rank, step):
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(8, 12, generator=generator)


def loss_of(model, rank, step):
    return forward(model, share(rank, step)).square().mean()


def sgd(model):
    layers = list(model)
    return torch.optim.SGD(
        [
            {"params": [p for layer in layers[:2] for p in layer.parameters()]},
            {"params": [p for layer in layers[2:] for p in layer.parameters()], "lr": 0.01},
        ],
        lr=0.1,
        momentum=0.9,
    )


def plain(hvd, model, optimizer, step):
    optimizer.zero_grad()
    loss_of(model, hvd.rank(), step).backward()
    optimizer.step()


def zeroing_in_place(hvd, model, optimizer, step):
    optimizer.zero_grad(set_to_none=False)
    loss_of(model, hvd.rank(), step).backward()
    optimizer.step()


def clipping(hvd, model, optimizer, step):
    optimizer.zero_grad()
    loss_of(model, hvd.rank(), step).backward()
    optimizer.synchronize()
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    with optimizer.skip_synchronize():
        optimizer.step()


def accumulating(hvd, model, optimizer, step):
    optimizer.zero_grad()
    with optimizer.no_sync():
        loss_of(model, hvd.rank(), 2 * step).backward()
    loss_of(model, hvd.rank(), 2 * step + 1).backward()
    optimizer.step()


def replacing(hvd, model, optimizer, step):
    """Scripts that put a gradient of their own in place, and those that clear the model's."""
    model.zero_grad()
    model[0].bias.grad = torch.full_like(model[0].bias, 0.5)  # autograd adds to it
    loss_of(model, hvd.rank(), step).backward()
    optimizer.synchronize()
    model[2].weight.grad = model[2].weight.grad * 2
    with optimizer.skip_synchronize():
        optimizer.step()


def skipping(hvd, model, optimizer, step):
    """A layer that only some ranks use, and one that is frozen now and then."""
    model[3].requires_grad_(step % 2 == 0)
    optimizer.zero_grad()
    used = model if hvd.rank() == 0 else model[2:]
    inputs = share(hvd.rank(), step)
    inputs = inputs if hvd.rank() == 0 else inputs.repeat(1, 28)[:, :333]
    hidden = used[:-1](inputs)
    (hidden.square().mean() + used[-1](hidden.double()).square().mean()).backward()
    optimizer.step()


LOOPS = [plain, zeroing_in_place, clipping, accumulating, replacing, skipping]


def train(hvd, loop, **options):
    model = network()
    optimizer = hvd.DistributedOptimizer(sgd(model), model.named_parameters(), **options)
    for step in range(STEPS):
        loop(hvd, model, optimizer, step)
    return model


def shares_memory():
    return not os.environ.get("HORA_BACKEND", "").startswith("flat-")


def in_place_bytes(hvd):
    return hvd.metrics()["in_place_bytes"]


def assert_same(model, other):
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert same_bits(ours.detach(), theirs.detach()), name


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_the_bits_are_those_of_ordinary_gradients(hvd, loop, overlap):
    before = in_place_bytes(hvd)
    model = train(hvd, loop, gradient_as_bucket_view=True, overlap=overlap)
    if hvd.size() > 1:
        assert not shares_memory() or in_place_bytes(hvd) > before
    between = in_place_bytes(hvd)
    assert_same(model, train(hvd, loop, overlap=overlap))
    assert in_place_bytes(hvd) == between


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"gradient_predivide_factor": 2.0},
        {"op": "Sum"},
        {"compression": "bf16"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_options(hvd, options):
    known = {"op": hvd.Sum, "compression": hvd.Compression.bf16}
    options = {name: known.get(name, value) for name, value in options.items()}
    assert_same(
        train(hvd, plain, gradient_as_bucket_view=True, **options), train(hvd, plain, **options)
    )


def test_gradients_stay_where_they_are(hvd):
    model = network()
    optimizer = hvd.DistributedOptimizer(sgd(model), gradient_as_bucket_view=True)
    places = []
    for step in range(3):
        plain(hvd, model, optimizer, step)
        places.append([p.grad.data_ptr() for p in model.parameters()])
    assert places[0] == places[1] == places[2]
    assert all(place % 64 == 0 for place in places[0])


def test_sparse_gradients_go_by_themselves(hvd):
    def run(**options):
        torch.manual_seed(0)
        table, head = nn.Embedding(10, 3, sparse=True), nn.Linear(3, 2)
        parameters = [*table.parameters(), *head.parameters()]
        optimizer = hvd.DistributedOptimizer(torch.optim.SGD(parameters, lr=0.1), **options)
        for step in range(3):
            optimizer.zero_grad()
            rows = (torch.arange(hvd.rank() + 2) * (step + 1)) % 10
            head(table(rows)).square().sum().backward()
            optimizer.step()
            assert table.weight.grad.is_sparse
        return nn.ModuleList([table, head])

    assert_same(run(gradient_as_bucket_view=True), run())


def test_lazy_and_added_parameters_and_copies(hvd):
    def run(**options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 2))
        more = nn.Parameter(torch.ones(2))
        optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), **options)
        for step in range(STEPS):
            if step == 2:
                optimizer.add_param_group({"params": [more]})
            if step == 3:
                model, more, optimizer = copy.deepcopy((model, more, optimizer))
            optimizer.zero_grad()
            (model(share(hvd.rank(), step)) * more).square().mean().backward()
            optimizer.step()
        return nn.ParameterList([*model.parameters(), more])

    assert_same(run(gradient_as_bucket_view=True), run())


@pytest.mark.ranks(2)
def test_process_sets(hvd):
    evens = hvd.add_process_set(range(0, hvd.size(), 2))
    options = {"process_set": evens}
    assert_same(
        train(hvd, plain, gradient_as_bucket_view=True, **options), train(hvd, plain, **options)
    )
    hvd.remove_process_set(evens)


@pytest.mark.parametrize("overflows", [False, True])
def test_grad_scaler(hvd, overflows):
    def run(**options):
        model = network()
        optimizer = hvd.DistributedOptimizer(sgd(model), **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, hvd.rank(), step)
            if overflows and step == 2 and hvd.rank() == 0:
                loss = loss * float("inf")
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return model

    assert_same(run(gradient_as_bucket_view=True), run())
