"""Operations that gather, scatter or group, over a fake engine."""

from __future__ import annotations

import pytest
import torch
from hora.errors import MismatchError, UsageError


@pytest.fixture
def hvd(core, hvd):
    hvd.shutdown()
    core.size = 3
    hvd.init()
    return hvd


def test_alltoall(core, hvd):
    rows = torch.arange(12.0).reshape(6, 2)
    assert torch.equal(hvd.alltoall(rows.t().contiguous().t()), rows[:2].repeat(3, 1))
    received, counts = hvd.alltoall(rows, splits=[1, 0, 4])
    assert torch.equal(received, rows[:1].repeat(3, 1))
    assert counts.dtype == torch.int32
    assert counts.tolist() == [1, 1, 1]
    assert core.calls[-1].splits == [1, 0, 4]
    assert len(core.calls[-1].input) == 5  # the sixth row goes nowhere
    assert hvd.alltoall(rows, torch.tensor([2, 2, 2]))[0].shape == (6, 2)
    result, counts = hvd.synchronize(hvd.alltoall_async(rows))
    assert (result.shape, counts.tolist()) == ((6, 2), [2, 2, 2])


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (None, "5 rows cannot be split evenly among 3 ranks"),
        ([1, 2], "3 whole numbers"),
        ([1, -1, 1], "3 whole numbers"),
        ([1, 2, 3], r"\[1, 2, 3\] add up to more than the 5 rows there are"),
        (torch.ones(3), "must be integers"),
        ([1.0, 1.0, 1.0], "must be integers"),
        (3, "must be integers"),
    ],
)
def test_splits_that_cannot_work(hvd, splits, words):
    with pytest.raises(ValueError, match=f"alltoall 'x': .*{words}"):
        hvd.alltoall(torch.ones(5), splits, name="x")


def test_alltoall_needs_rows(hvd):
    with pytest.raises(UsageError, match="0-dim"):
        hvd.alltoall(torch.tensor(1.0))


def test_reducescatter(core, hvd):
    rows = torch.arange(10.0).reshape(5, 2)
    assert torch.equal(hvd.reducescatter(rows), rows[:2])  # of five rows, 2, 2 and 1
    assert torch.equal(hvd.reducescatter(rows.t().contiguous().t(), op=hvd.Sum), rows[:2] * 3)
    handle = hvd.reducescatter_async(rows, op=hvd.Max, prescale_factor=2.0)
    assert torch.equal(handle.wait(), rows[:2] * 2)
    assert hvd.reducescatter(rows, compression=hvd.Compression.fp16).dtype == torch.float32
    assert core.calls[-1].input.dtype == torch.float16
    assert hvd.reducescatter(torch.ones(0, 4)).shape == (0, 4)


def test_reducescatter_refuses(hvd):
    with pytest.raises(UsageError, match="reducescatter 'x': a 0-dim tensor"):
        hvd.reducescatter(torch.tensor(1.0), name="x")
    with pytest.raises(UsageError, match="Adasum works with allreduce only"):
        hvd.reducescatter(torch.ones(3), op=hvd.Adasum)
    with pytest.raises(UsageError, match="no average"):
        hvd.reducescatter(torch.ones(3, dtype=torch.bool))


def test_adasum_needs_floats(hvd):
    assert hvd.allreduce(torch.ones(3), op=hvd.Adasum).tolist() == [1, 1, 1]
    for call in (hvd.allreduce, hvd.allreduce_, hvd.allreduce_async):
        with pytest.raises(UsageError, match=r"op=Adasum takes.*not torch\.int64"):
            call(torch.arange(3), op=hvd.Adasum)


def group():
    return [torch.ones(2), torch.arange(6).reshape(2, 3).t(), torch.tensor(2.0)]


def test_groups_are_one_operation(core, hvd):
    tensors = group()
    results = hvd.grouped_allreduce(tensors, op=hvd.Sum, name="g")
    assert [torch.equal(r, t * 3) for r, t in zip(results, tensors, strict=True)] == [True] * 3
    assert hvd.grouped_allreduce_(tensors, op=hvd.Sum) is not None
    assert torch.equal(tensors[1], group()[1] * 3)
    handle = hvd.grouped_allreduce_async_(tensors, op=hvd.Sum)
    assert all(a is b for a, b in zip(handle.wait(), tensors, strict=True))
    assert tensors[2].item() == 18
    assert len(hvd.grouped_allreduce_async(tuple(tensors)).wait()) == 3
    gathered = hvd.grouped_allgather(group(), name="h")
    assert [t.shape for t in gathered] == [(6,), (9, 2), (3,)]
    assert len(hvd.synchronize(hvd.grouped_allgather_async(group()))) == 3
    shares = hvd.grouped_reducescatter(group()[:2], op=hvd.Sum)
    assert [t.tolist() for t in shares] == [[3.0], [[0, 9]]]
    assert len(hvd.grouped_reducescatter_async(group()[:2]).wait()) == 2
    assert [len(call.input) for call in core.calls] == [3] * 6 + [2] * 2


def test_a_group_of_one_is_its_tensor(core, hvd):
    (result,) = hvd.grouped_allreduce([torch.ones(2)], op=hvd.Sum)
    assert result.tolist() == [3, 3]
    assert isinstance(core.calls[-1].input, torch.Tensor)


GROUPED = [
    "grouped_allreduce",
    "grouped_allreduce_",
    "grouped_allreduce_async",
    "grouped_allgather",
    "grouped_reducescatter",
]


@pytest.mark.parametrize("call", GROUPED)
def test_groups_that_are_none(hvd, call):
    with pytest.raises(ValueError, match="the list of tensors is empty"):
        getattr(hvd, call)([])
    with pytest.raises(UsageError, match="takes a list of tensors; for one tensor, use"):
        getattr(hvd, call)(torch.ones(3))
    with pytest.raises(UsageError, match="takes a list of tensors, not int"):
        getattr(hvd, call)(3)


@pytest.mark.parametrize("call", ["grouped_allreduce", "grouped_allreduce_"])
def test_the_tensor_at_fault_is_named(core, hvd, call):
    with pytest.raises(UsageError, match=r"grouped_allreduce 'g', tensor 1 of.*meta"):
        getattr(hvd, call)([torch.ones(1), torch.ones(1, device="meta")], name="g")
    assert core.calls == []


def test_compression(core, hvd):
    tensor = torch.full((3,), 1e-3, dtype=torch.float64)
    result = hvd.allreduce(tensor, compression=hvd.Compression.bf16)
    assert core.calls[-1].input.dtype == torch.bfloat16
    assert torch.equal(result, tensor.bfloat16().double())
    hvd.grouped_allreduce([tensor, torch.arange(3)], compression=hvd.Compression.fp16)
    assert [t.dtype for t in core.calls[-1].input] == [torch.float16, torch.int64]
    assert hvd.Compression.fp16.compress(tensor.half())[0].dtype == torch.float16
    assert hvd.Compression.none.compress(tensor) == (tensor, None)


def test_a_compressor_of_the_users_own(core, hvd):
    class Halved(hvd.Compressor):
        @staticmethod
        def compress(tensor):
            return tensor[::2], tensor.shape

        @staticmethod
        def decompress(tensor, ctx):
            return tensor.repeat_interleave(2).reshape(ctx)

    assert hvd.allreduce(torch.ones(4), op=hvd.Sum, compression=Halved).tolist() == [3.0] * 4
    with pytest.raises(NotImplementedError):
        hvd.allreduce(torch.ones(4), compression=hvd.Compressor)


def sparse(dtype=torch.float32):
    indices = torch.tensor([[0, 2, 2], [1, 0, 0]])
    return torch.sparse_coo_tensor(indices, torch.tensor([1, 2, 3], dtype=dtype), (4, 2))


def test_sparse_tensors(core, hvd):
    tensor = sparse()
    total = tensor.to_dense() * 3
    handle = hvd.sparse_allreduce_async(tensor, name="s", op=hvd.Sum)
    result = handle()
    assert result is hvd.synchronize(handle)
    assert result.is_coalesced()
    assert torch.equal(result.to_dense(), total)
    assert core.names == ["s"]  # one operation: all of it travels, or nothing
    assert torch.equal(hvd.allreduce(tensor).to_dense(), total / 3)
    assert torch.equal(hvd.allreduce_async(tensor, op=hvd.Sum).wait().to_dense(), total)
    scaled = hvd.allreduce(tensor, op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0)
    assert torch.equal(scaled.to_dense(), total * 2)
    assert hvd.allreduce_(tensor, op=hvd.Sum) is tensor
    assert torch.equal(tensor.to_dense(), total)
    hybrid = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, 5), (3, 5))
    assert torch.equal(hvd.allreduce(hybrid).to_dense(), hybrid.to_dense())
    assert hvd.allreduce(torch.sparse_coo_tensor(size=(2, 2))).to_dense().sum() == 0
    whole = hvd.allreduce(sparse(torch.int64))
    assert whole.dtype == torch.int64
    assert torch.equal(whole.to_dense(), sparse(torch.int64).to_dense())


def test_what_sparse_tensors_cannot_do(core, hvd):
    with pytest.raises(UsageError, match=r"sparse allreduce 's': op=Max needs a dense tensor"):
        hvd.allreduce(sparse(), op=hvd.Max, name="s")
    with pytest.raises(UsageError, match="takes a sparse COO tensor"):
        hvd.sparse_allreduce_async(torch.ones(2), "s")
    core.gather = lambda rows, size: [rows, rows, rows + 1 if rows.dtype.itemsize == 8 else rows]
    with pytest.raises(MismatchError, match=r"rank 0 has \[4, 2\].*rank 2 has \[5, 3\]"):
        hvd.allreduce(sparse(), name="s")


def test_join(core, hvd):
    hvd.allreduce_(torch.ones(1))
    hvd.allreduce_(torch.ones(1))
    assert hvd.join() == hvd.join(device=0) == 2
    hvd.allreduce_(torch.ones(1))
    numbers = [name.rsplit(".", 1)[-1] for name in core.names]
    assert numbers == ["0", "1", "noname", "noname", "0"]
