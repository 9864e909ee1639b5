"""A data loader that knows which rank it reads for."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, TypeVar, cast

from torch.utils.data import DataLoader, Dataset, IterableDataset

from hora.data.sampler import DistributedSampler
from hora.errors import UsageError

__all__ = ["DistributedDataLoader"]

T_co = TypeVar("T_co", covariant=True)


class DistributedDataLoader(DataLoader[T_co]):
    """A ``DataLoader`` over this rank's share of the data set; each pass over it is a new epoch.

    All ranks get the same number of batches. With ``drop_last=False`` a few samples come twice
    where the ranks do not divide the data set, and the last batch may be small; with
    ``drop_last=True`` every batch is full and no sample comes twice (see ``DistributedSampler``).

    Args:
        dataset: a map-style data set, the same on all ranks.
        batch_size: samples per rank and batch; ``hvd.size()`` times as many make one global batch.
        shuffle: in a new order each epoch, the same on all ranks.
        seed: of the order.
        drop_last: leave out what does not fill a batch on every rank.
        **options: of ``torch.utils.data.DataLoader`` (``num_workers``, ``collate_fn``, …).
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        **options: Any,
    ) -> None:
        for name in ("sampler", "batch_sampler"):
            if options.get(name) is not None:
                raise UsageError(f"{name} is what this loader brings; use DataLoader for your own")
        if isinstance(dataset, IterableDataset):
            raise UsageError(
                "an iterable data set has no indices to share out; let each rank read its own part "
                "with DataLoader"
            )
        self._next_epoch = 0
        self._order = DistributedSampler(
            cast(Sized, dataset), shuffle=shuffle, seed=seed, drop_last=drop_last
        )
        super().__init__(
            dataset, batch_size=batch_size, sampler=self._order, drop_last=drop_last, **options
        )

    def __iter__(self) -> Any:
        self._order.set_epoch(self._next_epoch)
        self._next_epoch += 1
        return super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass epoch ``epoch``, as when training resumes; later ones count on."""
        self._next_epoch = epoch
