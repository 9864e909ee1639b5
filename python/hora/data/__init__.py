"""Which samples each rank reads, and reading them ahead."""

from hora.data.async_loader import AsyncDataLoaderMixin, BaseDataLoader
from hora.data.loader import DistributedDataLoader
from hora.data.sampler import DistributedSampler

__all__ = [
    "AsyncDataLoaderMixin",
    "BaseDataLoader",
    "DistributedDataLoader",
    "DistributedSampler",
]
