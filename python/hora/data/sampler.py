"""A sampler that deals one shuffled deck of samples out to all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from hora import runtime
from hora.errors import UsageError

__all__ = ["DistributedSampler"]


class DistributedSampler(Sampler[int]):
    """Yields this rank's samples of an epoch; all ranks' together are the data set.

    Every rank shuffles the indices alike (by ``seed`` and epoch) and takes each ``num_replicas``-th
    one, so that the k-th batches of all ranks together are the k-th slice of the shuffled data set,
    however many ranks there are.

    Where the ranks do not divide the data set, by default the first samples of the epoch are
    dealt a second time, fewer than ``num_replicas`` of them, so that all ranks have the same
    number of batches: a rank with one more would wait for the others for ever. ``drop_last=True``
    leaves the last samples of the epoch out instead. ``even=False`` does neither: every sample
    comes exactly once and ranks' lengths differ by at most one; for evaluation without a
    collective per batch.

    Args:
        dataset: anything that has a length.
        num_replicas: how many ranks share it; ``hvd.size()`` when None.
        rank: whose samples; ``hvd.rank()`` when None.
        shuffle: in a new order each epoch, see ``set_epoch``.
        seed: the same on all ranks.
        drop_last: leave samples out instead of repeating some.
        even: give all ranks the same number of samples.
    """

    def __init__(  # noqa: PLR0917 - the order of torch's DistributedSampler
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        even: bool = True,
    ) -> None:
        self.num_replicas = runtime.size() if num_replicas is None else num_replicas
        self.rank = runtime.rank() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise UsageError(f"rank={self.rank} is not below num_replicas={self.num_replicas}")
        if not hasattr(dataset, "__len__"):
            raise UsageError(
                f"{type(dataset).__name__} has no length, so ranks cannot share its samples by "
                "index; let each rank read its own part"
            )
        if drop_last and not even:
            raise UsageError("drop_last=True makes ranks even; it contradicts even=False")
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.even = even
        self.epoch = 0

    def __len__(self) -> int:
        count = len(self.dataset)
        if not self.even:
            return (count - self.rank + self.num_replicas - 1) // self.num_replicas
        if self.drop_last:
            return count // self.num_replicas
        return (count + self.num_replicas - 1) // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        count = len(self.dataset)
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(self.seed + self.epoch)
            indices = torch.randperm(count, generator=generator).tolist()
        else:
            indices = list(range(count))
        # The deck starts anew where it is too short: len() says how many this rank takes.
        for turn in range(len(self)):
            yield indices[(self.rank + turn * self.num_replicas) % count]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next epoch; call it with the same number on all ranks."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """What decides the order of samples: the epoch and the seed."""
        return {"epoch": self.epoch, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the order of a saved sampler."""
        self.epoch = state["epoch"]
        self.seed = state["seed"]
