"""Every operation passes its priority on to the engine."""

from __future__ import annotations

import pytest
import torch
from hora.errors import UsageError

CALLS = {
    "allreduce": lambda hvd, **p: hvd.allreduce(torch.ones(2), **p),
    "allreduce_": lambda hvd, **p: hvd.allreduce_(torch.ones(2), **p),
    "allreduce_async": lambda hvd, **p: hvd.allreduce_async(torch.ones(2), **p).wait(),
    "allreduce_async_": lambda hvd, **p: hvd.allreduce_async_(torch.ones(2), **p).wait(),
    "allgather": lambda hvd, **p: hvd.allgather(torch.ones(2), **p),
    "allgather_async": lambda hvd, **p: hvd.allgather_async(torch.ones(2), **p).wait(),
    "broadcast": lambda hvd, **p: hvd.broadcast(torch.ones(2), 0, **p),
    "broadcast_": lambda hvd, **p: hvd.broadcast_(torch.ones(2), 0, **p),
    "broadcast_async": lambda hvd, **p: hvd.broadcast_async(torch.ones(2), 0, **p).wait(),
    "broadcast_async_": lambda hvd, **p: hvd.broadcast_async_(torch.ones(2), 0, **p).wait(),
    "alltoall": lambda hvd, **p: hvd.alltoall(torch.ones(2), **p),
    "alltoall_async": lambda hvd, **p: hvd.alltoall_async(torch.ones(2), **p).wait(),
    "reducescatter": lambda hvd, **p: hvd.reducescatter(torch.ones(2), **p),
    "reducescatter_async": lambda hvd, **p: hvd.reducescatter_async(torch.ones(2), **p).wait(),
    "grouped_allreduce": lambda hvd, **p: hvd.grouped_allreduce([torch.ones(2)], **p),
    "grouped_allreduce_": lambda hvd, **p: hvd.grouped_allreduce_([torch.ones(2)], **p),
    "grouped_allreduce_async": lambda hvd, **p: hvd.grouped_allreduce_async([torch.ones(2)], **p),
    "grouped_allreduce_async_": lambda hvd, **p: hvd.grouped_allreduce_async_([torch.ones(2)], **p),
    "grouped_allgather": lambda hvd, **p: hvd.grouped_allgather([torch.ones(2)], **p),
    "grouped_allgather_async": lambda hvd, **p: hvd.grouped_allgather_async([torch.ones(2)], **p),
    "grouped_reducescatter": lambda hvd, **p: hvd.grouped_reducescatter([torch.ones(2)], **p),
    "grouped_reducescatter_async": lambda hvd, **p: hvd.grouped_reducescatter_async(
        [torch.ones(2)], **p
    ),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_it_reaches_the_engine(core, hvd, call, named):
    name = {"name": "n"} if named else {}
    CALLS[call](hvd, priority=7, **name)
    CALLS[call](hvd, **name)
    assert [call.priority for call in core.calls] == [7, 0]


def test_gradients_have_that_of_the_operation(core, hvd):
    rows = torch.ones(2, requires_grad=True)
    for operation in (hvd.allreduce, hvd.allgather, hvd.alltoall, hvd.reducescatter):
        operation(rows, priority=3).sum().backward()
    hvd.broadcast(rows, 0, priority=3).sum().backward()
    assert {call.priority for call in core.calls} == {3}
    assert len(core.calls) == 10


@pytest.mark.parametrize("priority", [1.5, "high", 1 << 31, None])
def test_a_senseless_one_is_named(core, hvd, priority):
    for name in ("x", None):
        with pytest.raises(UsageError, match=r"priority=.* is not an integer of 32 bits"):
            hvd.allreduce(torch.ones(2), name=name, priority=priority)
    hvd.allreduce(torch.ones(2))
    assert core.calls[-1].name == "allreduce.noname.0"
