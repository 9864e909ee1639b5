"""Collectives inside of torch.compile: the same results and gradients as outside."""

from __future__ import annotations

import shutil

import pytest
import torch
from hora.torch import operators
from rank_values import seeded
from torch import nn

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.skipif(
        operators.missing is not None, reason=f"PyTorch operators: {operators.missing}"
    ),
]

_NO_COMPILER = shutil.which("g++") is None and shutil.which("c++") is None
BACKENDS = (
    "aot_eager",
    pytest.param(
        "inductor", marks=pytest.mark.skipif(_NO_COMPILER, reason="inductor needs a C++ compiler")
    ),
)


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch.compiler.reset()


def outcome(function, *inputs):
    """The results, and the gradients of all inputs that can have one."""
    inputs = [one.detach().clone().requires_grad_(one.is_floating_point()) for one in inputs]
    results = function(*inputs)
    results = list(results) if isinstance(results, (tuple, list)) else [results]
    sum((one * one).sum() for one in results if one.requires_grad).backward()
    return [one.detach() for one in results], [one.grad for one in inputs]


def assert_compiles_alike(function, *inputs, backend="aot_eager", **options):
    compiled = torch.compile(function, fullgraph=True, backend=backend, **options)
    expected, expected_gradients = outcome(function, *inputs)
    actual, actual_gradients = outcome(compiled, *inputs)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_gradients, expected_gradients)


def values(hvd, *shape):
    """Other values on every rank."""
    generator = seeded(17 + hvd.rank())
    return torch.randn(shape, generator=generator)


class Model(nn.Module):
    """Uses the three operations on the way, with the name and without."""

    def __init__(self, hvd):
        super().__init__()
        self.hvd = hvd
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, batch):
        hidden = torch.relu(self.first(batch))
        hidden = hidden - self.hvd.allreduce(hidden.mean(0), name="model.mean")
        everybody = self.hvd.allgather(hidden)
        mine = self.hvd.reducescatter(everybody, op=self.hvd.Sum)
        return self.last(mine)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_with_collectives_compiles_to_the_same(hvd, backend):
    torch.manual_seed(3)
    model = Model(hvd)
    batch = values(hvd, 5, 6)
    gradients = []
    for forward in (model, torch.compile(model, fullgraph=True, backend=backend)):
        model.zero_grad()
        result = forward(batch)
        result.square().sum().backward()
        gradients.append((result.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_optimizer_works_around_a_compiled_module(hvd):
    losses = []
    for compiled in (False, True):
        torch.manual_seed(5)
        model = Model(hvd)
        forward = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            named_parameters=model.named_parameters(),
        )
        for _ in range(3):
            optimizer.zero_grad()
            loss = forward(values(hvd, 4, 6)).square().mean()
            loss.backward()
            optimizer.step()
        losses.append([loss.detach(), *(p.detach().clone() for p in model.parameters())])
    torch.testing.assert_close(losses[1], losses[0])


@pytest.mark.parametrize("op", ["Average", "Sum"])
def test_allreduce(hvd, op):
    def function(tensor):
        return hvd.allreduce(
            tensor, op=getattr(hvd, op), prescale_factor=0.5, postscale_factor=3.0, name="x"
        )

    assert_compiles_alike(function, values(hvd, 4, 3))


def test_allreduce_of_any_strides_and_shapes(hvd):
    def function(transposed, expanded, scalar):
        return (
            hvd.allreduce(transposed.t()),
            hvd.allreduce(expanded.expand(4, 3)),
            hvd.allreduce(scalar),
        )

    assert_compiles_alike(function, values(hvd, 4, 3), values(hvd, 3), values(hvd))


def test_compression(hvd):
    def function(tensor):
        return hvd.allreduce(tensor, compression=hvd.Compression.bf16)

    assert_compiles_alike(function, values(hvd, 8))


def test_integers_and_maxima(hvd):
    def function(tensor):
        return hvd.allreduce(tensor, op=hvd.Max)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert compiled(torch.tensor([hvd.rank(), -hvd.rank()])).tolist() == [hvd.size() - 1, 0]


def test_other_reductions_have_no_gradient(hvd):
    tensor = values(hvd, 2).requires_grad_()
    reduced = torch.ops.hora.allreduce(tensor, "peak", int(hvd.Max), 1.0, 1.0, 0)
    with pytest.raises(ValueError, match=r"allreduce 'peak' with op=Max has no gradient"):
        reduced.sum().backward()


def test_reducescatter_of_rows_that_do_not_divide(hvd):
    def function(tensor):
        return hvd.reducescatter(tensor, op=hvd.Average, postscale_factor=2.0)

    assert_compiles_alike(function, values(hvd, 2 * hvd.size() + 1, 3))


def test_shapes_may_be_symbols(hvd):
    def function(tensor):
        return hvd.allreduce(tensor), hvd.allgather(tensor), hvd.reducescatter(tensor)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (4, 6, 7):
        expected, expected_gradients = outcome(function, values(hvd, rows, 3))
        actual, actual_gradients = outcome(compiled, values(hvd, rows, 3))
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(actual_gradients, expected_gradients)


def test_broadcast(hvd):
    def function(tensor):
        return hvd.broadcast(tensor, root_rank=hvd.size() - 1, name="b")

    assert_compiles_alike(function, values(hvd, 3))


def test_grouped_allreduce(hvd):
    def function(first, second):
        return hvd.grouped_allreduce([first, second], op=hvd.Sum)

    assert_compiles_alike(function, values(hvd, 3), values(hvd, 2, 2).double())


def test_even_alltoall(hvd):
    assert_compiles_alike(hvd.alltoall, values(hvd, 2 * hvd.size(), 3))


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_alltoall_with_splits(hvd):
    splits = torch.tensor([(hvd.rank() + place) % 3 for place in range(hvd.size())])

    def function(tensor):
        received, counts = hvd.alltoall(tensor, splits)
        return received * 2, counts

    assert_compiles_alike(function, values(hvd, int(splits.sum()) + 2, 3))  # two stay behind


@pytest.mark.ranks(2)
def test_process_sets(hvd):
    others = hvd.add_process_set(range(1, hvd.size()))

    def function(tensor):
        mean = hvd.allreduce(tensor, process_set=others)
        return mean, hvd.reducescatter(mean * hvd.rank(), process_set=others)

    if others.included():
        assert_compiles_alike(function, values(hvd, 3, 2))
    hvd.remove_process_set(others)


@pytest.mark.ranks(2)
def test_an_allgather_of_other_numbers_of_rows_is_refused(hvd):
    compiled = torch.compile(hvd.allgather, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"ranks brought .* rows.*Pad them, or gather outside"):
        compiled(torch.ones(2 if hvd.rank() == 0 else 5, 3))
    assert hvd.allgather(torch.ones(1)).shape == (hvd.size(),)  # the group goes on


@pytest.mark.ranks(2)
def test_a_mismatch_tells_the_same_as_outside(hvd):
    compiled = torch.compile(hvd.allreduce, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"'odd'.*\[2\].*\[3\]"):
        compiled(torch.ones(2 if hvd.rank() == 0 else 3), name="odd")


def test_unnamed_operations_keep_meeting_after_join(hvd):
    graph = torch.compile(lambda t: hvd.allreduce(t, op=hvd.Sum), backend="aot_eager")
    for _ in range(hvd.rank() + 1):  # fewer on the first ranks, which join
        graph(torch.ones(1))
    hvd.join()
    assert graph(torch.ones(1)).item() == hvd.size()


OPERATORS = {
    "allreduce": lambda x, n: (x, "c", 1, 1.0, 2.0, 0),
    "grouped_allreduce": lambda x, n: ([x, x.detach() + 1], "", 0, 1.0, 1.0, 0),
    "broadcast": lambda x, n: (x, 0, "", 0),
    "allgather": lambda x, n: (x, n * x.shape[0], n, "", 0),
    "reducescatter": lambda x, n: (x, 2, n, "", 1, 1.0, 1.0, 0),
    "alltoall": lambda x, n: (x, torch.full((n,), 2), x.shape[0], False, "", 0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_keep_the_rules_of_pytorch(hvd, name):
    size = hvd.size()
    tensor = values(hvd, 2 * size, 3).requires_grad_()
    operator = getattr(torch.ops.hora, name).default
    torch.library.opcheck(operator, OPERATORS[name](tensor, size))
