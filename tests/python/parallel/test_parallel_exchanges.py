"""alltoall, reducescatter, groups, sparse tensors and join, against what each rank brought."""

from __future__ import annotations

import pytest
import torch
from hora.errors import HoraError, MismatchError, UsageError
from rank_values import MOVABLE, REDUCIBLE, as_bytes, reduced, same_bits, values_of


@pytest.mark.parametrize("dtype", MOVABLE, ids=str)
def test_alltoall(hvd, dtype):
    n, me = hvd.size(), hvd.rank()
    for row in [(), (3, 2), (0,)]:
        for rows_for in (
            lambda source, target: 2,
            lambda source, target: source + 2 * target,
            lambda source, target: 5000 * (source == 0) * (target == n - 1),
            lambda source, target: 0,
        ):
            splits = [[rows_for(source, target) for target in range(n)] for source in range(n)]
            brought = [values_of(s, (sum(splits[s]), *row), dtype) for s in range(n)]
            parts = [t.split(splits[s])[me] for s, t in enumerate(brought)]
            expected = torch.cat([as_bytes(part) for part in parts])
            received, counts = hvd.alltoall(brought[me], splits=splits[me])
            assert torch.equal(as_bytes(received), expected)
            assert (received.dtype, received.shape[1:]) == (dtype, row)
            assert counts.tolist() == [splits[s][me] for s in range(n)]
            assert len(received) == sum(counts)


def test_alltoall_without_splits_and_of_columns(hvd):
    n, me = hvd.size(), hvd.rank()
    mine = (torch.arange(3 * 2 * n) + 1000 * me).reshape(3, 2 * n).t()
    received = hvd.alltoall(mine)
    expected = [mine[2 * me :][:2] + 1000 * (source - me) for source in range(n)]
    assert torch.equal(received, torch.cat(expected))
    with pytest.raises(ValueError, match="split evenly") if n > 1 else pytest.raises(UsageError):
        hvd.alltoall(torch.ones(n + 1) if n > 1 else torch.tensor(1.0))


@pytest.mark.parametrize("op", ["Average", "Sum", "Min", "Max", "Product"])
@pytest.mark.parametrize("dtype", REDUCIBLE, ids=str)
def test_reducescatter(hvd, dtype, op):
    if dtype is torch.bool and op == "Average":
        pytest.skip("booleans have no average")
    n, me = hvd.size(), hvd.rank()
    for shape in [(n,), (2 * n + 1, 3), (1, 2), (0, 4), (7001, 2)]:
        tensors = [values_of(r, shape, dtype, high=3) for r in range(n)]
        share, more = divmod(shape[0], n)
        start = me * share + min(me, more)
        expected = reduced(tensors, op)[start : start + share + (me < more)]
        result = hvd.reducescatter(tensors[me], op=getattr(hvd, op))
        rtol = 1e-2 if dtype.itemsize == 2 else 1e-6
        torch.testing.assert_close(result.cpu(), expected.cpu(), rtol=rtol, atol=0)
        again = hvd.reducescatter_async(tensors[me], op=getattr(hvd, op)).wait()
        assert same_bits(result, again)


def test_reducescatter_is_a_share_of_allreduce(hvd):
    torch.manual_seed(hvd.rank())
    mine = torch.randn(4 * hvd.size(), 5)
    options = {"op": hvd.Sum, "prescale_factor": 0.3, "postscale_factor": 1.7}
    whole = hvd.allreduce(mine, **options)
    share = hvd.reducescatter(mine, **options)
    torch.testing.assert_close(share, whole[4 * hvd.rank() :][:4])


def group_of(hvd, rank):
    return [
        values_of(rank, (5, 2)),
        values_of(rank, (3, 4), torch.int64).t(),
        values_of(rank, (4,), torch.bfloat16),
        values_of(rank, (70001,), torch.float64),
    ]


def test_groups(hvd):
    groups = [group_of(hvd, rank) for rank in range(hvd.size())]
    mine = groups[hvd.rank()]
    totals = [reduced([g[k] for g in groups], "Sum") for k in range(4)]
    for _ in range(3):  # the third time, what ranks agreed on is remembered
        for result, total in zip(
            hvd.grouped_allreduce(mine, op=hvd.Sum, name="g"), totals, strict=True
        ):
            torch.testing.assert_close(result, total)
        for k, result in enumerate(hvd.grouped_allgather(mine, name="h")):
            assert torch.equal(result, torch.cat([g[k] for g in groups]))
        for result, total in zip(
            hvd.grouped_reducescatter(mine, op=hvd.Sum, name="s"), totals, strict=True
        ):
            share, more = divmod(len(total), hvd.size())
            start = hvd.rank() * share + min(hvd.rank(), more)
            torch.testing.assert_close(result, total[start : start + len(result)])
    results = hvd.grouped_allreduce_(mine, op=hvd.Sum)
    assert all(a is b for a, b in zip(results, mine, strict=True))
    for result, total in zip(mine, totals, strict=True):
        torch.testing.assert_close(result, total)


@pytest.mark.ranks(2)
def test_a_group_fails_whole(hvd):
    for _ in range(2):
        tensors = [torch.ones(2), torch.ones(3 + (hvd.rank() == 1))]
        with pytest.raises(MismatchError, match="g"):
            hvd.grouped_allreduce_(tensors, op=hvd.Sum, name="g")
        assert tensors[0].tolist() == [1, 1]
    with pytest.raises(MismatchError):
        hvd.grouped_allreduce([torch.ones(2)] * (1 + hvd.rank()), name="g")
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()


def test_sparse(hvd):
    def brought(rank):
        indices = torch.tensor([[rank, 0, 0], [1, 2, 2]])
        values = torch.tensor([1.0, 2.0, 3.0]) * (rank + 1)
        return torch.sparse_coo_tensor(indices, values, (hvd.size(), 4), check_invariants=True)

    total = sum(brought(rank).to_dense() for rank in range(hvd.size()))
    mine = brought(hvd.rank())
    for name in (None, "s", "s"):
        assert torch.equal(hvd.allreduce(mine, name=name, op=hvd.Sum).to_dense(), total)
    mean = hvd.sparse_allreduce_async(mine, name="s", op=hvd.Average)()
    torch.testing.assert_close(mean.to_dense(), total / hvd.size())
    if hvd.size() > 1:
        with pytest.raises(MismatchError, match=r"shapes differ.*rank 0.*rank 1"):
            hvd.allreduce(torch.zeros(2 + hvd.rank(), 2).to_sparse())
        with pytest.raises(MismatchError, match="mixed"):
            hvd.allreduce(torch.eye(2).to_sparse() if last(hvd) else torch.eye(2), name="mixed")


def last(hvd):
    return hvd.rank() == hvd.size() - 1


@pytest.mark.ranks(2)
@pytest.mark.parametrize("caching", [False, True])
def test_join_leaves_averages_undiluted(hvd, caching):
    for turn in range(3):
        for _ in range(3 * caching):
            hvd.allreduce(torch.ones(2), name="a")
        steps = hvd.rank() + turn
        for step in range(steps):
            left = [r for r in range(hvd.size()) if r + turn > step]
            mine = torch.full((2,), float(hvd.rank()))
            assert hvd.allreduce(mine, name="a")[0].item() == sum(left) / len(left)
            assert hvd.allreduce(mine, op=hvd.Sum)[0].item() == sum(left)
            assert hvd.allreduce(mine, op=hvd.Min)[0].item() == min(left)
        ended = hvd.join()
        assert hvd.allgather_object(ended) == [ended] * hvd.size()
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()


@pytest.mark.ranks(2)
def test_what_joined_ranks_cannot_take_part_in(hvd):
    if not last(hvd):
        joined = hvd.join()
    else:
        for call in (hvd.allgather, hvd.reducescatter, hvd.alltoall):
            with pytest.raises(HoraError, match="joined"):
                call(torch.ones(hvd.size()))
        with pytest.raises(HoraError, match="joined"):
            hvd.broadcast(torch.ones(1), 0)
        joined = hvd.join()
    assert joined == hvd.size() - 1
    assert hvd.allgather(torch.tensor(joined)).tolist() == [joined] * hvd.size()


@pytest.mark.ranks(3)
def test_join_in_a_set(hvd):
    pair = hvd.add_process_set([0, hvd.size() - 1])
    if pair.included():
        mine = torch.tensor([5.0 if last(hvd) else 0.0])
        assert hvd.allreduce(mine, process_set=pair).item() == 2.5
        if last(hvd):
            assert hvd.allreduce(torch.tensor([5.0]), process_set=pair).item() == 5.0
        assert hvd.join(process_set=pair) == hvd.size() - 1
    hvd.remove_process_set(pair)


def test_objects(hvd):
    def made(rank):
        return {"rank": rank, "data": "x" * 1000 * rank, "t": torch.full((rank,), rank)}

    objects = [made(rank) for rank in range(hvd.size())]
    for options in ({}, {"allow_pickle": False}):
        for found, sent in zip(
            hvd.allgather_object(objects[hvd.rank()], **options), objects, strict=True
        ):
            assert (found["rank"], found["data"]) == (sent["rank"], sent["data"])
            assert torch.equal(found["t"], sent["t"])
    culprit = hvd.size() - 1
    with pytest.raises(UsageError, match=rf"rank {culprit} \(TypeError"):
        hvd.allgather_object((n for n in [1]) if hvd.rank() == culprit else 1)


def test_state_and_counters(hvd, tmp_path):
    before = hvd.metrics()["completed"]
    hvd.start_timeline(tmp_path / "trace.json", mark_cycles=True)
    hvd.allreduce(torch.ones(1), name="traced")
    hvd.stop_timeline()
    with pytest.raises(ValueError, match="timeline"):
        hvd.stop_timeline()
    files = list(tmp_path.iterdir())
    assert len(files) == 1
    assert "traced" in files[0].read_text()
    assert hvd.metrics()["completed"] > before
    state = hvd.debug_state()
    assert (state["rank"], state["size"], state["pending"]) == (hvd.rank(), hvd.size(), [])
    hvd.barrier()
    if hvd.rank() == 0 and hvd.size() > 1:
        handle = hvd.allreduce_async(torch.ones(1), name="late")
        assert [one["name"] for one in hvd.debug_state()["pending"]] == ["late"]
        hvd.barrier()
        handle.wait()
    else:
        hvd.barrier()
        hvd.allreduce(torch.ones(1), name="late")
