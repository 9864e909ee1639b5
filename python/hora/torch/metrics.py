"""Losses and metrics over all ranks. Nothing here touches gradients.

Each rank computes its loss on its own batch. These report the number for all ranks together;
gradients are averaged by ``DistributedOptimizer``, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hora.errors import UsageError
from hora.ops import Numbers
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.handle import Handle
from hora.torch.operations import Average, Sum, allreduce_, allreduce_async_, chosen_op

__all__ = ["DistributedLossReducer", "Metric", "MetricAverager"]

# They number the objects of this process in the order in which the script makes them, the same on
# all ranks.
_reducers = Numbers()
_averagers = Numbers()


class DistributedLossReducer:
    """``reducer(loss)`` returns the mean of the loss over all ranks, as a float. For reading only.

    **It does not touch gradients.** The number is for logs, schedulers and early stopping; calling
    ``backward()`` on anything it returns is impossible, and leaving it out changes no training.

        mean_loss = hvd.DistributedLossReducer()
        for batch in loader:
            loss = criterion(model(batch.x), batch.y)
            loss.backward()  # this rank's own loss makes the gradients
            optimizer.step()  # DistributedOptimizer averages them
            log(mean_loss(loss))  # the number for all ranks

    Every rank calls it equally often (a rank that has called ``join()`` no longer counts). Not
    thread-safe.

    Args:
        op: Average (default), Sum, Min or Max of the ranks' numbers.
        every: reduce at the first call and then at each ``every``-th: what is reduced is the mean
            of this rank's losses since the last time. Calls in between return the last result.
        async_: do not wait: a call starts its reduction and returns the result of the one before
            it (the first call waits for its own). ``finish()`` returns the last one.
        process_set: the ranks that take part.
    """

    def __init__(
        self,
        op: int = Average,
        every: int = 1,
        async_: bool = False,
        process_set: ProcessSet = global_process_set,
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise UsageError(f"every={every!r} is not a whole number above 0")
        self._op = chosen_op(op, None)
        self._every = every
        self._async = async_
        self._process_set = process_set
        self._name = f"DistributedLossReducer.{_reducers.next()}"
        self._until_next = 1
        self._sum, self._count = 0.0, 0
        self._under_way: Handle | None = None
        self._value: float | None = None

    @property
    def value(self) -> float | None:
        """The last result that has been waited for; None before the first call."""
        return self._value

    def __call__(self, loss: float | torch.Tensor) -> float:
        """Takes this rank's loss, a number or a tensor of one element; see the class."""
        self._sum += _number(loss, "loss")
        self._count += 1
        self._until_next -= 1
        if self._until_next > 0:
            assert self._value is not None  # the first call reduces
            return self._value
        self._until_next = self._every
        is_first = self._value is None
        self._collect()
        mean = torch.tensor(self._sum / self._count, dtype=torch.float64, device="cpu")
        self._sum, self._count = 0.0, 0
        self._under_way = allreduce_async_(
            mean, name=self._name, op=self._op, process_set=self._process_set
        )
        if is_first or not self._async:
            self._collect()
        assert self._value is not None
        return self._value

    def finish(self) -> float | None:
        """Waits for a reduction that is under way; returns the last result."""
        self._collect()
        return self._value

    def _collect(self) -> None:
        handle, self._under_way = self._under_way, None
        if handle is not None:
            self._value = float(handle.wait())


class MetricAverager:
    """Running means of several named numbers over all ranks, weighted by counts.

        averages = hvd.MetricAverager("loss", "accuracy")
        for x, y in loader:
            averages.update(loss=loss, accuracy=right / len(y), count=len(y))
        print(averages.compute())  # {"loss": …, "accuracy": …}, of all samples of all ranks

    ``update`` is local and cheap; ``compute`` is one reduction for all names, which every rank
    calls, also one that had no data. Ranks may update unequally often: the result is the sum of
    value times count over all updates of all ranks, divided by the sum of the counts.

    Args:
        *names: of the numbers, the same on every rank.
        process_set: the ranks that take part.
    """

    def __init__(self, *names: str, process_set: ProcessSet = global_process_set) -> None:
        if not names or not all(isinstance(name, str) for name in names):
            raise UsageError('names are needed, as in MetricAverager("loss", "accuracy")')
        if len(set(names)) != len(names) or "count" in names:
            raise UsageError(f"names are all different and none is 'count', unlike {names}")
        self._process_set = process_set
        self._name = f"MetricAverager.{_averagers.next()}"
        self._sums = dict.fromkeys(names, 0.0)
        self._counts = dict.fromkeys(names, 0.0)

    def update(
        self,
        values: Mapping[str, float | torch.Tensor] | None = None,
        *,
        count: float = 1,
        **more: float | torch.Tensor,
    ) -> None:
        """Adds means over ``count`` samples, each a number or a tensor of one element."""
        if not count >= 0:
            raise UsageError(f"count={count!r} is not a number of samples, 0 or more")
        entries = {**(values or {}), **more}
        unknown = entries.keys() - self._sums.keys()
        if unknown:
            raise UsageError(f"'{min(unknown)}' is none of {', '.join(self._sums)}")
        for name, value in entries.items():
            number = _number(value, name)
            self._sums[name] += number * count if count else 0.0
            self._counts[name] += count

    def compute(self) -> dict[str, float]:
        """The means over all ranks so far; nan for what nobody has updated. Every rank calls it."""
        numbers = [*self._sums.values(), *self._counts.values()]
        totals = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        allreduce_(totals, name=self._name, op=Sum, process_set=self._process_set)
        sums, counts = totals.reshape(2, -1).tolist()
        return {
            name: total / count if count else float("nan")
            for name, total, count in zip(self._sums, sums, counts, strict=True)
        }

    def reset(self) -> None:
        """Forgets all updates of this rank, for the next epoch."""
        self._sums = dict.fromkeys(self._sums, 0.0)
        self._counts = dict.fromkeys(self._counts, 0.0)


class Metric:
    """The running mean of one number over all ranks: a ``MetricAverager`` with one name.

        loss_of_epoch = hvd.Metric("loss")
        loss_of_epoch.update(loss, count=len(batch))
        print(loss_of_epoch.compute())

    ``update`` is local; ``compute`` is a reduction that every rank calls.
    """

    def __init__(self, name: str = "value", process_set: ProcessSet = global_process_set) -> None:
        self.name = name
        self._averager = MetricAverager(name, process_set=process_set)

    def update(self, value: float | torch.Tensor, count: float = 1) -> None:
        """Adds the mean of ``count`` samples."""
        self._averager.update({self.name: value}, count=count)

    def compute(self) -> float:
        """The mean over all ranks so far, nan without updates. Every rank calls it."""
        return self._averager.compute()[self.name]

    def reset(self) -> None:
        """Forgets all updates of this rank."""
        self._averager.reset()


def _number(value: float | torch.Tensor, what: str) -> float:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise UsageError(
                f"{what} is a tensor of shape {tuple(value.shape)}; one number is needed: pass its "
                "mean()"
            )
        return float(value.detach())
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{what}={value!r} is not a number") from None
