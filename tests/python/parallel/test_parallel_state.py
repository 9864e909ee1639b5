"""Broadcasts of models, optimizers and objects; averages of metrics; shares of a data set."""

from __future__ import annotations

import pytest
import torch
from hora.errors import UsageError
from rank_values import same_bits
from torch import nn

pytestmark = pytest.mark.any_backend


def network(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model.register_buffer("seen", torch.tensor([True, seed % 2 == 0]))
    model.register_buffer("scratch", torch.full((2,), float(seed)), persistent=False)
    return model


FORMS = {
    "module": lambda model: model,
    "state_dict": lambda model: model.state_dict(),
    "pairs": lambda model: list(model.state_dict().items()),
    "generator of pairs": lambda model: (pair for pair in model.state_dict().items()),
    "generator of tensors": lambda model: (t for t in model.state_dict().values()),
}


@pytest.mark.parametrize("form", FORMS)
def test_broadcast_parameters(hvd, form):
    root = hvd.size() - 1
    model, expected = network(seed=hvd.rank()), network(seed=root)
    expected[1].num_batches_tracked.fill_(root)
    model[1].num_batches_tracked.fill_(hvd.rank())
    hvd.broadcast_parameters(FORMS[form](model), root_rank=root)
    for (name, ours), theirs in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert same_bits(ours, theirs), name
    if form == "module":
        assert model.scratch.tolist() == [root, root]
    assert all(p.requires_grad for p in model.parameters())


OPTIMIZERS = {
    "SGD": lambda p, rank: torch.optim.SGD(p, lr=0.1 / (rank + 1), momentum=0.9, nesterov=True),
    "Adam": lambda p, rank: torch.optim.Adam(
        p, lr=0.1, betas=(0.5 + 0.1 * rank, 0.99), amsgrad=True
    ),
    "AdamW": lambda p, rank: torch.optim.AdamW(p, lr=torch.tensor(0.1 + rank), foreach=False),
    "Adagrad": lambda p, rank: torch.optim.Adagrad(p, lr=0.1 + rank),
    "RMSprop": lambda p, rank: torch.optim.RMSprop(p, centered=True, momentum=0.1 * rank),
    "LBFGS": lambda p, rank: torch.optim.LBFGS(p, lr=0.1 + rank, max_iter=3),
}


def flat_state(value):
    """Everything in a state_dict, types and bits included, in comparable form."""
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.contiguous().view(-1).view(torch.uint8).tolist(),
        )
    if isinstance(value, dict):
        return {key: flat_state(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [flat_state(entry) for entry in value])
    return (type(value).__name__, value)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("who_has_state", ["root", "all"])
def test_broadcast_optimizer_state(hvd, name, wrapped, who_has_state):
    root = hvd.size() - 1
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 2))]
    optimizer = OPTIMIZERS[name](weights, hvd.rank())

    def closure():
        optimizer.zero_grad()
        loss = sum(w.square().sum() for w in weights) * (1 + hvd.rank())
        loss.backward()
        return loss

    if who_has_state == "all" or hvd.rank() == root:
        for _ in range(2):
            optimizer.step(closure)
    before = [w.detach().clone() for w in weights]
    broadcast = hvd.DistributedOptimizer(optimizer) if wrapped else optimizer
    hvd.broadcast_optimizer_state(broadcast, root_rank=root)
    for weight, old in zip(weights, before, strict=True):
        assert torch.equal(weight, old)
    ours = flat_state(optimizer.state_dict())
    assert ours == hvd.broadcast_object(ours, root)
    assert len(optimizer.state) > 0


def test_state_keeps_a_dtype_that_is_not_the_parameters(hvd):
    weight = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    if hvd.rank() == 0:
        optimizer.state[weight] = {"master": torch.tensor([0.1, 0.2]), "step": 3}
    hvd.broadcast_optimizer_state(optimizer, 0)
    assert same_bits(optimizer.state[weight]["master"], torch.tensor([0.1, 0.2]))
    assert optimizer.state[weight]["step"] == 3


def test_state_that_is_not_plain_is_an_error_on_every_rank(hvd):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.param_groups[0]["policy"] = {1, 2}
    with pytest.raises(UsageError, match=r"policy.*set"):
        hvd.broadcast_optimizer_state(optimizer, 0)
    if hvd.rank() != 0:
        del optimizer.param_groups[0]["policy"]
    hvd.broadcast_optimizer_state(optimizer, 0, allow_pickle=True)
    assert optimizer.param_groups[0]["policy"] == {1, 2}


def test_broadcast_object(hvd):
    for root in range(hvd.size()):
        thing = {"rank": hvd.rank(), "list": list(range(hvd.rank() * 1000)), "t": torch.ones(2)}
        received = hvd.broadcast_object(thing, root)
        assert received["rank"] == root
        assert len(received["list"]) == root * 1000
    assert hvd.broadcast_object(None) is None
    only_root = {"f": lambda x: x + 1} if hvd.rank() == 0 else None
    assert hvd.broadcast_object(only_root, name="function")["f"](1) == 2


def test_broadcast_object_without_pickle(hvd):
    mine = {"rank": hvd.rank(), "pair": (1, None), "t": torch.full((2, 3), hvd.rank()).t()}
    received = hvd.broadcast_object(mine, hvd.size() - 1, allow_pickle=False)
    assert received["rank"] == hvd.size() - 1
    assert received["pair"] == (1, None)
    assert torch.equal(received["t"], torch.full((3, 2), hvd.size() - 1))
    with pytest.raises(UsageError, match="set"):
        hvd.broadcast_object({1, 2}, allow_pickle=False)


def test_an_object_that_cannot_be_pickled_is_an_error_on_every_rank(hvd):
    class Stubborn:
        def __reduce__(self):
            raise ValueError("not me")

    with pytest.raises(ValueError, match="not me"):
        hvd.broadcast_object(Stubborn())


def test_metric_average(hvd):
    expected = sum(range(hvd.size())) / hvd.size()
    assert hvd.metric_average(hvd.rank()) == expected
    assert hvd.metric_average(torch.tensor([float(hvd.rank())]), name="loss") == expected


@pytest.mark.cpu_only("samples are dealt on the CPU")
@pytest.mark.parametrize("count", [1, 10, 33])
def test_the_sampler_deals_every_sample(hvd, count):
    def all_indices(**options):
        sampler = hvd.DistributedSampler(range(count), **options)
        return hvd.allgather(torch.tensor(list(sampler), dtype=torch.int64)).tolist()

    padded = all_indices()
    assert set(padded) == set(range(count))
    assert len(padded) == -(-count // hvd.size()) * hvd.size()
    dropped = all_indices(drop_last=True)
    assert len(set(dropped)) == len(dropped) == count // hvd.size() * hvd.size()
    assert sorted(all_indices(even=False)) == list(range(count))


@pytest.mark.cpu_only("samples are loaded on the CPU")
def test_the_loader(hvd):
    loader = hvd.DistributedDataLoader(torch.arange(50), batch_size=3, seed=2, drop_last=True)
    epochs = []
    for _ in range(2):
        batches = [batch for batch in loader]
        together = hvd.allgather(torch.stack(batches), name="epoch").flatten().tolist()
        assert len(set(together)) == len(together) == len(loader) * 3 * hvd.size()
        epochs.append(together)
    assert epochs[0] != epochs[1]
