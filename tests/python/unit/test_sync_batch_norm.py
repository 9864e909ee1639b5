"""SyncBatchNorm over a fake engine: both ranks have the same batch, as if it were there twice."""

from __future__ import annotations

import copy

import pytest
import torch
from hora.errors import UsageError


@pytest.fixture
def hvd(core, hvd):
    hvd.shutdown()
    core.size = 2
    hvd.init()
    core.calls.clear()
    return hvd


VARIANTS = {
    "default": {},
    "cumulative": {"momentum": None},
    "not affine": {"affine": False},
    "no running statistics": {"track_running_stats": False},
    "double": {"dtype": torch.float64},
}


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 4), (1, 3, 2)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_equals_batch_norm_over_all_batches(hvd, variant, shape):
    torch.manual_seed(0)
    options = VARIANTS[variant]
    ours, theirs = hvd.SyncBatchNorm(3, **options), torch.nn.BatchNorm1d(3, **options)
    theirs._check_input_dim = lambda _: None
    if options.get("affine", True):
        with torch.no_grad():
            for parameter in (*ours.parameters(), *theirs.parameters()):
                parameter.copy_(torch.arange(1.0, 4.0))
    for _ in range(3):
        values = torch.randn(shape, dtype=options.get("dtype")) * 3 + 1000
        x, both = values.requires_grad_(), torch.cat([values, values]).detach().requires_grad_()
        result, expected = ours(x), theirs(both)
        torch.testing.assert_close(result, expected[: len(values)], rtol=1e-4, atol=1e-3)
        weights = torch.randn(shape, dtype=result.dtype)
        (result * weights).sum().backward()
        (expected * torch.cat([weights, weights])).sum().backward()
        torch.testing.assert_close(x.grad, both.grad[: len(values)], rtol=1e-3, atol=1e-4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(2 * mine.grad, other.grad, rtol=1e-3, atol=1e-3)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-3)


def test_a_large_mean_loses_no_digits(hvd):
    layer = hvd.SyncBatchNorm(1, affine=False)
    x = torch.tensor([[1e4 - 1.0], [1e4 + 1.0]])
    torch.testing.assert_close(layer(x).flatten(), torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats(hvd, dtype):
    layer = hvd.SyncBatchNorm(3)
    x = torch.randn(8, 3).to(dtype).requires_grad_()
    result = layer(x)
    result.sum().backward()
    assert result.dtype == x.grad.dtype == dtype
    assert layer.weight.grad.dtype == torch.float32


def test_each_instance_has_names_of_its_own(core, hvd):
    first, second = hvd.SyncBatchNorm(2), hvd.SyncBatchNorm(2)
    x = torch.randn(4, 2, requires_grad=True)
    second(first(first(x))).sum().backward()
    stem = ["SyncBatchNorm.0", "SyncBatchNorm.0", "SyncBatchNorm.1"]
    assert core.names == [*stem, *(f"{name}.grad" for name in reversed(stem))]
    assert copy.deepcopy(first)._name == "SyncBatchNorm.0"


def test_only_training_talks(core, hvd):
    layer = hvd.SyncBatchNorm(2, track_running_stats=False).eval()
    layer(torch.randn(4, 2))
    assert core.calls == []
    with torch.no_grad():
        assert not layer.train()(torch.randn(4, 2)).requires_grad
    assert len(core.calls) == 1


def test_frozen_inputs_and_parameters(core, hvd):
    layer = hvd.SyncBatchNorm(2)
    layer(torch.randn(4, 2)).sum().backward()
    assert core.names == ["SyncBatchNorm.0"]  # nobody needs the sums of all ranks
    assert layer.bias.grad.tolist() == [4, 4]


def test_what_it_refuses(core, hvd):
    layer = hvd.SyncBatchNorm(3)
    with pytest.raises(UsageError, match=r"SyncBatchNorm\(3\) needs input of shape \[N, 3, …\]"):
        layer(torch.randn(4, 2))
    with pytest.raises(UsageError, match=r"not \[3\]"):
        layer(torch.randn(3))
    core.gather = lambda rows, size: [rows * 0, rows * 0]
    with pytest.raises(ValueError, match="more than 0 value per channel"):
        layer(torch.randn(0, 3))
    x = torch.randn(4, 3, requires_grad=True)
    core.gather = None
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_group_of_one_is_plain_batch_norm(core, hvd):
    alone = hvd.add_process_set([0])
    core.calls.clear()
    x = torch.randn(4, 3)
    expected = torch.nn.BatchNorm1d(3)(x)
    torch.testing.assert_close(hvd.SyncBatchNorm(3, process_set=alone)(x), expected)
    assert core.calls == []


def test_convert(hvd):
    shared = torch.nn.BatchNorm1d(4)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4),
        shared,
        torch.nn.Sequential(torch.nn.BatchNorm2d(2, eps=1e-3, momentum=None), torch.nn.ReLU()),
        shared,
        torch.nn.InstanceNorm1d(4),
        torch.nn.BatchNorm3d(3, affine=False, track_running_stats=False),
    )
    model[2].eval()
    before = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    converted = hvd.convert_sync_batchnorm(model)
    assert converted is model
    assert {n: id(v) for n, v in model.state_dict(keep_vars=True).items()} == before
    assert model[1] is model[3]
    kinds = [type(module) is hvd.SyncBatchNorm for module in model]
    assert kinds == [False, True, False, True, False, True]
    inner = model[2][0]
    assert (inner.eps, inner.momentum, inner.training) == (1e-3, None, False)
    assert (model[5].affine, model[5].running_mean) == (False, None)
    assert hvd.convert_sync_batchnorm(model)[1] is model[1]
    pair = hvd.ProcessSet([0])
    assert hvd.convert_sync_batchnorm(torch.nn.BatchNorm1d(2), pair).process_set is pair
    with pytest.raises(UsageError, match="lazy"):
        hvd.convert_sync_batchnorm(torch.nn.LazyBatchNorm1d())


def test_in_a_compiled_module(hvd):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), hvd.SyncBatchNorm(3))
    compiled = torch.compile(copy.deepcopy(module), backend="eager")
    input = torch.randn(6, 4)
    for one in (module, compiled):
        one(input).square().sum().backward()
    torch.testing.assert_close(compiled(input), module(input))
    for ours, theirs in zip(compiled.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
