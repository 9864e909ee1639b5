"""Which samples each rank gets."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hora.errors import UsageError


def dealt(hvd, count, size, epoch=0, **options):
    ranks = []
    for rank in range(size):
        sampler = hvd.DistributedSampler(range(count), size, rank, **options)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    return ranks


@pytest.mark.parametrize("count", [0, 1, 3, 8, 11, 12])
@pytest.mark.parametrize("size", [1, 2, 4, 5])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_is_dealt(hvd, count, size, shuffle):
    padded = dealt(hvd, count, size, shuffle=shuffle)
    assert len({len(samples) for samples in padded}) == 1
    assert set().union(*padded) == set(range(count))
    assert sum(map(len, padded)) < count + size

    dropped = list(chain(*dealt(hvd, count, size, shuffle=shuffle, drop_last=True)))
    assert len(dropped) == len(set(dropped)) == count - count % size

    uneven = dealt(hvd, count, size, shuffle=shuffle, even=False)
    assert sorted(chain(*uneven)) == list(range(count))
    assert max(map(len, uneven)) - min(map(len, uneven)) <= 1


def test_global_batches_do_not_depend_on_the_number_of_ranks(hvd):
    def global_batches(size):
        ranks = dealt(hvd, 48, size, seed=5)
        share = 12 // size
        return [
            set().union(*(samples[k * share : (k + 1) * share] for samples in ranks))
            for k in range(4)
        ]

    assert global_batches(1) == global_batches(2) == global_batches(4)


def test_epochs_and_seeds_change_the_order(hvd):
    orders = [dealt(hvd, 50, 1, epoch=e, seed=s)[0] for e, s in ((0, 0), (1, 0), (0, 9), (0, 0))]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2]
    sampler = hvd.DistributedSampler(range(50), 1, 0)
    sampler.load_state_dict({"epoch": 1, "seed": 0})
    assert list(sampler) == orders[1]
    assert sampler.state_dict() == {"epoch": 1, "seed": 0}


def test_what_the_sampler_refuses(hvd):
    with pytest.raises(UsageError, match="rank=2 is not below num_replicas=2"):
        hvd.DistributedSampler(range(4), 2, 2)
    with pytest.raises(UsageError, match="no length"):
        hvd.DistributedSampler(iter([]), 2, 1)
    with pytest.raises(UsageError, match="even"):
        hvd.DistributedSampler(range(4), 2, 1, drop_last=True, even=False)


def test_the_loader_counts_epochs(core, hvd):
    core.size = 2
    hvd.shutdown()
    hvd.init()
    loader = hvd.DistributedDataLoader(torch.arange(10), batch_size=2, seed=1)
    first, second = ([batch.tolist() for batch in loader] for _ in range(2))
    assert len(loader) == len(first) == 3
    assert sum(map(len, first)) == 5
    assert first != second
    loader.set_epoch(0)
    assert [batch.tolist() for batch in loader] == first
    assert [batch.tolist() for batch in loader] == second
    full = hvd.DistributedDataLoader(torch.arange(10), batch_size=2, drop_last=True, num_workers=1)
    assert [len(batch) for batch in full] == [2, 2]


def test_what_the_loader_refuses(hvd):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(UsageError, match="iterable"):
        hvd.DistributedDataLoader(Stream())
    with pytest.raises(UsageError, match="batch_sampler"):
        hvd.DistributedDataLoader(torch.arange(3), batch_sampler=[[0]])
