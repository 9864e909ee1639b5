"""Gradients that travel compressed, in groups, as sparse rows, within a set, or later."""

from __future__ import annotations

import pytest
import torch
from hora.errors import MismatchError
from rank_values import same_bits, seeded
from torch import nn

STEPS = 6


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def share(rank, step):
    generator = seeded(100 * step + rank)
    return torch.randn(8, 12, generator=generator)


def loss_of(model, inputs):
    return model(inputs).square().mean()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train_alone(ranks, passes=1, steps=STEPS):
    """What training with the mean of these ranks' gradients gives."""
    model = network()
    optimizer = sgd(model)
    for step in range(steps):
        optimizer.zero_grad()
        for turn in range(passes):
            for rank in ranks:
                (loss_of(model, share(rank, step * passes + turn)) / len(ranks)).backward()
        optimizer.step()
    return model


def train(hvd, passes=1, steps=STEPS, **options):
    model = network()
    optimizer = hvd.DistributedOptimizer(sgd(model), model.named_parameters(), **options)
    for step in range(steps):
        optimizer.zero_grad()
        for turn in range(passes):
            loss_of(model, share(hvd.rank(), step * passes + turn)).backward()
        optimizer.step()
    return model


def assert_close(model, other, **tolerance):
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def assert_same_everywhere(hvd, model, process_set=None):
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    everyone = process_set or hvd.global_process_set
    for row in hvd.allgather(flat.reshape(1, -1), process_set=everyone):
        assert same_bits(row, flat)


@pytest.mark.parametrize("groups", [None, 1, 2, "lists"])
@pytest.mark.parametrize("predivide", [1.0, 2.0])
def test_groups(hvd, groups, predivide):
    model = network()
    if groups == "lists":
        chosen = list(model.parameters())
        groups = [[chosen[0], chosen[3]]]
        optimizer = hvd.DistributedOptimizer(
            sgd(model), model.named_parameters(), groups=groups, gradient_predivide_factor=predivide
        )
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, share(hvd.rank(), step)).backward()
            optimizer.step()
    else:
        model = train(hvd, groups=groups, gradient_predivide_factor=predivide)
    assert_close(model, train_alone(range(hvd.size())))
    assert_same_everywhere(hvd, model)


@pytest.mark.parametrize("groups", [None, 1])
@pytest.mark.parametrize(("kind", "tolerance"), [("fp16", 1e-2), ("bf16", 5e-2)])
def test_compression(hvd, kind, tolerance, groups):
    model = train(hvd, compression=getattr(hvd.Compression, kind), groups=groups)
    assert_same_everywhere(hvd, model)
    assert_close(model, train_alone(range(hvd.size())), rtol=tolerance, atol=tolerance)


@pytest.mark.ranks(2)
def test_groups_where_ranks_use_different_parameters(hvd):
    table = nn.ParameterList([torch.zeros(2) for _ in range(hvd.size() + 1)])
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(table.parameters(), lr=float(hvd.size())), groups=2
    )
    for _ in range(2):
        optimizer.zero_grad()
        table[hvd.rank()].sum().backward()
        optimizer.step()
    assert [p.tolist() for p in table] == [[-2.0, -2.0]] * hvd.size() + [[0.0, 0.0]]


@pytest.mark.parametrize("as_dense", [False, True])
@pytest.mark.parametrize("op", ["Average", "Sum"])
@pytest.mark.parametrize("kind", ["SGD", "SparseAdam"])
def test_sparse_gradients_equal_dense_ones(hvd, kind, op, as_dense):
    torch.manual_seed(0)
    table = nn.Embedding(10, 3, sparse=True)
    twin = nn.Embedding(10, 3)
    twin.load_state_dict(table.state_dict())
    make = getattr(torch.optim, kind)
    optimizer = hvd.DistributedOptimizer(
        make(list(table.parameters()), lr=0.1), op=getattr(hvd, op), sparse_as_dense=as_dense
    )

    def rows(rank, step):
        return torch.arange(rank + 1) * (step + 1) % 10  # more on some ranks; often the same

    factor = 1.0 / hvd.size() if op == "Average" else 1.0
    for step in range(3):
        optimizer.zero_grad()
        twin.zero_grad()
        table(rows(hvd.rank(), step)).square().sum().backward()
        for rank in range(hvd.size()):
            (factor * twin(rows(rank, step)).square().sum()).backward()
        optimizer.synchronize()
        torch.testing.assert_close(table.weight.grad.to_dense(), twin.weight.grad)
        with optimizer.skip_synchronize():
            optimizer.step()
        twin.load_state_dict(table.state_dict())
    assert_same_everywhere(hvd, table)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("as_dense", [False, True])
def test_ranks_without_a_row(hvd, as_dense):
    table = nn.Embedding(4, 2, sparse=True)
    hvd.broadcast_parameters(table)
    before = table.weight.detach().clone()
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SparseAdam(list(table.parameters()), lr=0.1), sparse_as_dense=as_dense
    )
    for _ in range(2):
        optimizer.zero_grad()
        if hvd.rank() == 0:
            table(torch.tensor([2])).sum().backward()
        optimizer.step()
    changed = (table.weight != before).any(dim=1).tolist()
    assert changed == [False, False, True, False]
    assert_same_everywhere(hvd, table)


@pytest.mark.ranks(2)
def test_sparse_here_and_dense_there(hvd):
    """A rank that cannot know that the others' gradients are sparse: an error, no hang."""
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(table.parameters(), lr=0.1))
    if hvd.rank() == 0:
        table(torch.tensor([2])).sum().backward()
    with pytest.raises(MismatchError, match=r"group0\.param0"):
        optimizer.step()
    optimizer.zero_grad()
    table(torch.tensor([1])).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("how", ["no_sync", "backward_passes_per_step", "both"])
def test_accumulation(hvd, how):
    model = network()
    optimizer = hvd.DistributedOptimizer(
        sgd(model),
        model.named_parameters(),
        backward_passes_per_step=2 if how != "no_sync" else 1,
    )
    passes = 3 if how != "backward_passes_per_step" else 2
    for step in range(3):
        optimizer.zero_grad()
        turns = [share(hvd.rank(), step * passes + turn) for turn in range(passes)]
        while turns:
            inputs = turns.pop(0)
            if how == "backward_passes_per_step" or len(turns) < (2 if how == "both" else 1):
                loss_of(model, inputs).backward()
            else:
                with optimizer.no_sync():
                    loss_of(model, inputs).backward()
        optimizer.step()
    assert_close(model, train_alone(range(hvd.size()), passes=passes, steps=3))
    assert_same_everywhere(hvd, model)


@pytest.mark.ranks(2)
def test_ranks_outside_the_set_train_alone(hvd):
    evens = hvd.add_process_set(range(0, hvd.size(), 2))
    model = train(hvd, process_set=evens)
    if evens.included():
        assert_close(model, train_alone(range(0, hvd.size(), 2)))
        assert_same_everywhere(hvd, model, evens)
    else:
        assert_close(model, train_alone([hvd.rank()]))
    hvd.remove_process_set(evens)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("groups", [None, 2])
def test_ranks_that_run_out_of_data(hvd, groups):
    """Rank r has r + 1 batches; a step's gradient is the mean over those who still have one."""
    model, reference = network(), network()
    optimizer = hvd.DistributedOptimizer(sgd(model), model.named_parameters(), groups=groups)
    plain = sgd(reference)
    for step in range(hvd.rank() + 1):
        optimizer.zero_grad()
        loss_of(model, share(hvd.rank(), step)).backward()
        optimizer.step()
        plain.zero_grad()
        present = range(step, hvd.size())
        for rank in present:
            (loss_of(reference, share(rank, step)) / len(present)).backward()
        plain.step()
    assert_close(model, reference)
    last = hvd.join()
    hvd.broadcast_parameters(model, root_rank=last)
    assert_same_everywhere(hvd, model)


def test_generator_and_discriminator(hvd):
    torch.manual_seed(0)
    networks = nn.Linear(4, 6), nn.Linear(6, 1)
    optimizers = [
        hvd.DistributedOptimizer(sgd(network), network.named_parameters()) for network in networks
    ]
    hvd.broadcast_parameters(networks[0])
    hvd.broadcast_parameters(networks[1], process_set=hvd.global_process_set)
    for step in range(6):
        learner = step % 2
        for network, learns in zip(networks, (learner == 0, learner == 1), strict=True):
            network.requires_grad_(learns)
        for optimizer in optimizers:
            optimizer.zero_grad()
        inputs = share(hvd.rank(), step)[:, :4]
        networks[1](networks[0](inputs)).mean().backward()
        optimizers[learner].step()
    for network in networks:
        assert_same_everywhere(hvd, network)


def test_a_compiled_module(hvd):
    model, reference = network(), train_alone(range(hvd.size()), steps=3)
    optimizer = hvd.DistributedOptimizer(sgd(model), model.named_parameters(), groups=1)
    compiled = torch.compile(model, backend="aot_eager")
    for step in range(3):
        optimizer.zero_grad()
        loss_of(compiled, share(hvd.rank(), step)).backward()
        optimizer.step()
    assert_close(model, reference)
