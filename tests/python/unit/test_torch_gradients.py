"""The ways in which gradients may travel: compressed, in groups, sparse, or not yet."""

from __future__ import annotations

import contextlib
import os
import pickle

import pytest
import torch
from hora.errors import PeerFailedError, UsageError


def network():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def loss_of(model):
    return model(torch.ones(5, 4)).square().sum()


def wrapped(hvd, model, **options):
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    return hvd.DistributedOptimizer(sgd, model.named_parameters(), **options)


@pytest.fixture(autouse=True)
def cores_to_spare(monkeypatch):
    """So that gradients are submitted during the backward pass."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1 << 20))


@pytest.fixture
def model():
    return network()


def regroup(core, hvd, size):
    hvd.shutdown()
    core.size = size
    hvd.init()


def tensors_of(call):
    return call.input if isinstance(call.input, list) else [call.input]


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def local_gradients():
    model = network()
    loss_of(model).backward()
    return gradients(model)


# --- compression ---


@pytest.mark.parametrize("groups", [None, 1])
@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_compressed_gradients_come_back_in_their_dtype(core, hvd, model, kind, groups):
    regroup(core, hvd, 2)
    optimizer = wrapped(
        hvd, model, compression=getattr(hvd.Compression, kind), op=hvd.Sum, groups=groups
    )
    loss_of(model).backward()
    seen = [p.grad for p in model.parameters()]
    optimizer.synchronize()
    dtype = torch.float16 if kind == "fp16" else torch.bfloat16
    sent = [t for call in core.calls for t in tensors_of(call)]
    assert {t.dtype for t in sent} == {dtype}
    for parameter, before, local in zip(model.parameters(), seen, local_gradients(), strict=True):
        assert parameter.grad is before
        assert torch.equal(parameter.grad, (local.to(dtype) * 2).float())


def test_a_compressor_of_the_script(core, hvd, model):
    class Halves(hvd.Compressor):
        @staticmethod
        def compress(tensor):
            return tensor.reshape(-1) / 2, tensor.shape

        @staticmethod
        def decompress(tensor, ctx):
            return tensor.reshape(ctx) * 2

    optimizer = wrapped(hvd, model, compression=Halves)
    loss_of(model).backward()
    optimizer.synchronize()
    assert all(call.input.dim() == 1 for call in core.calls)
    for ours, local in zip(gradients(model), local_gradients(), strict=True):
        assert torch.equal(ours, local)


def test_what_is_no_compressor(hvd, model):
    with pytest.raises(UsageError, match=r"has no method compress; use Compression\.none"):
        wrapped(hvd, model, compression="fp16")


# --- groups ---


def test_groups_by_number(core, hvd, model):
    optimizer = wrapped(hvd, model, groups=2, gradient_predivide_factor=4.0)
    loss_of(model).backward()
    assert sorted(core.names) == [
        "DistributedOptimizer.0.0.weight and 1 more",
        "DistributedOptimizer.0.2.weight and 1 more",
    ]
    assert {(c.prescale, c.postscale) for c in core.calls} == {(0.25, 4.0)}
    optimizer.step()
    optimizer.zero_grad()
    loss_of(model).backward()
    assert len(core.calls) == 4
    optimizer.step()


def test_groups_by_lists(core, hvd, model):
    optimizer = wrapped(hvd, model, groups=[[model[0].weight, model[2].bias], [model[2].weight]])
    loss_of(model).backward()
    assert sorted(core.names) == [
        "DistributedOptimizer.0.0.bias",
        "DistributedOptimizer.0.0.weight and 1 more",
        "DistributedOptimizer.0.2.weight",
    ]
    optimizer.step()


def test_groups_start_when_their_last_gradient_is_there(core, hvd, model):
    optimizer = wrapped(hvd, model, groups=1, backward_passes_per_step=2)
    loss_of(model).backward()
    assert core.calls == []
    loss_of(model).backward()
    assert len(core.calls) == 1
    optimizer.step()


def test_a_group_with_missing_frozen_and_thawed_parameters(core, hvd, model):
    extra = torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    sgd = torch.optim.SGD([*model.parameters(), extra, frozen], lr=1.0)
    optimizer = hvd.DistributedOptimizer(sgd, groups=[[*model.parameters(), extra, frozen]])
    loss_of(model).backward()
    assert core.calls == []  # extra might still come
    optimizer.step()
    assert [len(tensors_of(call)) for call in core.calls] == [5]
    assert torch.equal(extra.grad, torch.zeros(2))
    assert frozen.grad is None

    frozen.requires_grad_(True)
    optimizer.zero_grad()
    core.calls.clear()
    (loss_of(model) + extra.sum() + frozen.sum()).backward()
    assert [len(tensors_of(call)) for call in core.calls] == [6]
    optimizer.step()

    frozen.requires_grad_(False)
    extra.requires_grad_(False)
    optimizer.zero_grad()
    core.calls.clear()
    loss_of(model).backward()
    optimizer.step()
    assert [len(tensors_of(call)) for call in core.calls] == [4]


def test_groups_survive_a_copy(core, hvd, model):
    model, optimizer = pickle.loads(pickle.dumps((model, wrapped(hvd, model, groups=1))))
    loss_of(model).backward()
    optimizer.step()
    assert len(core.calls) == 1


def test_num_groups_is_the_old_word(core, hvd, model):
    with pytest.warns(DeprecationWarning, match="replaced by groups"):
        optimizer = wrapped(hvd, model, num_groups=1)
    loss_of(model).backward()
    optimizer.step()
    assert len(core.calls) == 1


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (0, "groups=0 is not"),
        (-1, "groups=-1 is not"),
        ("ab", "lists of parameters"),
        (1.5, "groups=1.5 is neither"),
        ([1], "neither"),
        ([[1]], r"groups\[0\] holds a int"),
        ([[torch.ones(3)]], r"groups\[0\] holds a tensor of shape \(3,\)"),
    ],
)
def test_what_groups_refuses(hvd, model, groups, words):
    with pytest.raises(ValueError, match=words):
        wrapped(hvd, model, groups=groups)


def test_a_parameter_in_two_groups(hvd, model):
    with pytest.raises(ValueError, match="in groups twice"):
        wrapped(hvd, model, groups=[[model[0].bias], [model[0].bias]])
    with pytest.raises(ValueError, match="lists of parameters"):
        wrapped(hvd, model, groups=[model[0].bias])


def test_a_lost_engine_leaves_no_group_pending(core, hvd, model):
    optimizer = wrapped(hvd, model, groups=1)
    core.fail_submit = PeerFailedError("rank 1 is gone")
    with pytest.raises(PeerFailedError):
        loss_of(model).backward()
    core.fail_submit = None
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


# --- sparse gradients ---


def table_and_optimizer(hvd, make=None, **options):
    table = torch.nn.Embedding(6, 2, sparse=True)
    with torch.no_grad():
        table.weight.zero_()
    make = make or (lambda p: torch.optim.SGD(p, lr=1.0))
    return table, hvd.DistributedOptimizer(make(list(table.parameters())), **options)


@pytest.mark.parametrize("as_dense", [False, True])
@pytest.mark.parametrize("op", ["Average", "Sum"])
def test_sparse_gradients(core, hvd, as_dense, op):
    regroup(core, hvd, 3)
    table, optimizer = table_and_optimizer(hvd, op=getattr(hvd, op), sparse_as_dense=as_dense)
    for _ in range(2):
        optimizer.zero_grad()
        table(torch.tensor([1, 4, 1])).sum().backward()
        optimizer.synchronize()
        assert table.weight.grad.is_sparse
        rows = table.weight.grad.to_dense()[:, 0].tolist()
        factor = 3.0 if op == "Sum" else 1.0
        assert rows == [0.0, 2.0 * factor, 0.0, 0.0, factor, 0.0]
        with optimizer.skip_synchronize():
            optimizer.step()
    kinds = {call.kind for call in core.calls}
    assert len(kinds) == 1
    assert len(core.calls) == 2


@pytest.mark.parametrize("as_dense", [False, True])
def test_sparse_adam_without_a_row_on_this_rank(hvd, as_dense):
    table, optimizer = table_and_optimizer(hvd, torch.optim.SparseAdam, sparse_as_dense=as_dense)
    for used in (False, True, False):
        optimizer.zero_grad()
        if used:
            table(torch.tensor([3])).sum().backward()
        optimizer.step()
        assert table.weight.grad.is_sparse
    assert table.weight[3].abs().sum() > 0


def test_a_missing_gradient_is_sparse_where_the_last_one_was(core, hvd):
    table, optimizer = table_and_optimizer(hvd)
    table(torch.tensor([0])).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    assert [call.kind for call in core.calls] == [core.calls[0].kind] * 2
    assert table.weight.grad._nnz() == 0
    assert [t.shape for t in tensors_of(core.calls[0])][:2] == [(1, 1), (1, 2)]
    assert [t.shape for t in tensors_of(core.calls[1])][:2] == [(0, 1), (0, 2)]


def test_sparse_gradients_leave_their_group(core, hvd):
    table, scale = torch.nn.Embedding(6, 2, sparse=True), torch.nn.Parameter(torch.ones(2))
    bias = torch.nn.Parameter(torch.ones(2))
    everything = [table.weight, scale, bias]
    sgd = torch.optim.SGD(everything, lr=1.0)
    optimizer = hvd.DistributedOptimizer(sgd, groups=[everything])
    (table(torch.tensor([1])) * scale + bias).sum().backward()
    optimizer.step()
    # The two dense ones; and the rows of the table with their places and its shape.
    assert sorted(len(tensors_of(call)) for call in core.calls) == [2, 3]
    assert table.weight.grad.is_sparse


def test_sparse_gradients_have_no_maximum(hvd):
    table, optimizer = table_and_optimizer(hvd, op=hvd.Max)
    with pytest.raises(UsageError, match=r"group0\.param0.*op=Max"):
        table(torch.tensor([1])).sum().backward()
    del optimizer


# --- backward passes that reduce nothing, and those that cannot ---


def test_no_sync_accumulates(core, hvd, model):
    optimizer = wrapped(hvd, model)
    with optimizer.no_sync():
        loss_of(model).backward()
        with optimizer.no_sync():
            loss_of(model).backward()
        loss_of(model).backward()
    assert core.calls == []
    loss_of(model).backward()
    assert len(core.calls) == 4
    optimizer.synchronize()
    for ours, local in zip(gradients(model), local_gradients(), strict=True):
        torch.testing.assert_close(ours, 4 * local)


def test_a_step_after_no_sync_reduces(core, hvd, model):
    optimizer = wrapped(hvd, model)
    with contextlib.suppress(KeyError), optimizer.no_sync():
        loss_of(model).backward()
        raise KeyError
    optimizer.step()
    assert len(core.calls) == 4
    optimizer.zero_grad()
    loss_of(model).backward()  # reduced again: the exception has ended no_sync
    assert len(core.calls) == 8
    optimizer.step()


def test_no_sync_does_not_hide_a_pass_too_many(core, hvd, model):
    core.hold()
    optimizer = wrapped(hvd, model)
    loss_of(model).backward()
    with optimizer.no_sync(), pytest.raises(UsageError, match="more than backward_passes"):
        loss_of(model).backward()
    optimizer.synchronize()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_a_graph_of_gradients(core, hvd, model):
    optimizer = wrapped(hvd, model)
    with pytest.raises(UsageError, match=r"has a graph.*torch\.autograd\.grad"):
        loss_of(model).backward(create_graph=True)
    assert core.calls == []
    for parameter in model.parameters():
        parameter.grad = None
    parameters = list(model.parameters())
    first = torch.autograd.grad(loss_of(model), parameters, create_graph=True)
    sum(g.square().sum() for g in first).backward()  # a gradient penalty
    optimizer.step()
    assert len(core.calls) == 4


def test_lazy_parameters(core, hvd):
    model = torch.nn.LazyLinear(2)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0))
    with pytest.raises(UsageError, match="lazy parameter"):
        optimizer.step()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert len(core.calls) == 2


def test_a_compiled_module(core, hvd, model):
    regroup(core, hvd, 2)
    optimizer = wrapped(hvd, model, op=hvd.Sum)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(compiled).backward()
        assert len(core.calls) == 4
        optimizer.synchronize()
        core.calls.clear()
    for ours, local in zip(gradients(model), local_gradients(), strict=True):
        torch.testing.assert_close(ours, 2 * local)
