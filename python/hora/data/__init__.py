"""Which samples each rank reads."""

from hora.data.loader import DistributedDataLoader
from hora.data.sampler import DistributedSampler

__all__ = ["DistributedDataLoader", "DistributedSampler"]
