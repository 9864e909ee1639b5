"""What a distributed optimizer was asked for."""

from __future__ import annotations

from typing import NamedTuple

from hora.errors import UsageError
from hora.ops import ReduceOp
from hora.process_sets import ProcessSet, id_of
from hora.torch.compression import Compressor
from hora.torch.kinds import Terms

__all__ = ["OptimizerSettings", "checked_passes"]


class OptimizerSettings(NamedTuple):
    """Plain values, from which a copy of the optimizer is built."""

    compression: type[Compressor]
    passes: int
    op: int
    predivide: float
    groups: list[list[int]]
    sparse_as_dense: bool
    process_set: ProcessSet
    views: bool = False  # gradient_as_bucket_view
    overlap: bool | None = None

    def terms(self) -> Terms:
        """On what ranks must agree for each gradient; ``UsageError`` for what cannot work."""
        predivide = self.predivide
        if not (isinstance(predivide, (int, float)) and predivide > 0):
            raise UsageError(f"gradient_predivide_factor={predivide!r} is not a number above 0")
        if predivide != 1.0 and self.op != ReduceOp.AVERAGE:
            raise UsageError("gradient_predivide_factor splits the division of op=Average only")
        return Terms(self.op, -1, 1.0 / predivide, float(predivide), id_of(self.process_set))


def checked_passes(passes: int) -> int:
    """``backward_passes_per_step``, if it is one."""
    if not isinstance(passes, int) or passes < 1:
        raise UsageError(f"backward_passes_per_step={passes!r} is not a whole number above 0")
    return passes
