"""The engine's functions as Python calls them: arguments, handles, and which tensors are plain."""

from __future__ import annotations

import gc
import pickle
import weakref

import pytest
import torch
from hora import _core
from hora.errors import UsageError

pytestmark = pytest.mark.any_backend


class Subclass(torch.Tensor):
    """A tensor that may mean anything."""


PLAIN = {
    "float32": lambda: torch.ones(3),
    "bfloat16": lambda: torch.ones(2, 3, dtype=torch.bfloat16),
    "uint64": lambda: torch.ones(3, dtype=torch.uint64),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "scalar": lambda: torch.tensor(1.0),
    "empty": lambda: torch.ones(0, 4).t(),
    "seven dimensions": lambda: torch.ones(1, 2, 1, 2, 1, 2, 1),
}
NOT_PLAIN = {
    "bool": lambda: torch.ones(2, dtype=torch.bool),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "float8": lambda: torch.ones(2).to(torch.float8_e5m2),
    "strided": lambda: torch.ones(2, 3).t(),
    "expanded": lambda: torch.ones(1).expand(3),
    "negated": lambda: torch.ones(1, dtype=torch.complex64).conj().imag,
    "sparse": lambda: torch.eye(2).to_sparse(),
    "meta": lambda: torch.ones(2, device="meta"),
    "subclass": lambda: torch.ones(2).as_subclass(Subclass),
    "no tensor": lambda: [1.0],
    "None": lambda: None,
}


@pytest.mark.parametrize("what", PLAIN)
def test_plain_tensors(hvd, what):
    tensor = PLAIN[what]()
    assert _core.is_plain(tensor)
    expected = tensor.detach() * hvd.size()
    assert torch.equal(hvd.allreduce(tensor.detach(), name="plain", op=hvd.Sum), expected)
    handle = hvd.allreduce_async_(tensor, name="plain", op=hvd.Sum)
    assert handle.wait() is tensor
    assert torch.equal(tensor.detach(), expected)


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_other_tensors(hvd, what):
    operand = NOT_PLAIN[what]()
    assert not _core.is_plain(operand)
    assert not _core.try_run(_core.ALLREDUCE, "other", operand, operand)
    terms = (hvd.Sum, -1, 1.0, 1.0, hvd.global_process_set, 0)
    assert _core.start_usual(_core.ALLREDUCE, "other", operand, operand, *terms) is None
    assert not _core.run_usual(_core.ALLREDUCE, "other", operand, operand, *terms)
    assert hvd.allreduce(torch.ones(1), name="other", op=hvd.Sum).item() == hvd.size()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("name", 5), ("name", b"bytes"), ("name", "\ud800"), ("prescale_factor", "one")],
)
def test_bad_arguments_are_named(hvd, argument, value):
    for call in (hvd.allreduce, hvd.allreduce_, hvd.allreduce_async, hvd.allreduce_async_):
        with pytest.raises((UsageError, TypeError), match=argument.split("_", maxsplit=1)[0]):
            call(torch.ones(1), **{argument: value})
    for root in (1.5, "0", 1 << 40, None):
        with pytest.raises(UsageError, match="root_rank"):
            hvd.broadcast_(torch.ones(1), root)
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()


def test_arguments_by_name_and_place():
    tensor = torch.ones(1)
    for arguments, options, problem in (
        ((0,), {}, "name is missing"),
        ((0, "x", tensor, tensor), {"kind": 1}, "kind is given twice"),
        ((0, "x", tensor, tensor), {"colour": 1}, "no argument colour"),
        ((0, "x", tensor, tensor, *range(8)), {}, "at most 11 arguments, not 12"),
        ((1 << 40, "x", tensor, tensor), {}, "kind is a 32-bit integer"),
        ((0, "x", tensor, tensor), {"postscale": None}, "postscale is a number, not None"),
        ((4, "x", tensor, None), {"splits": "ab"}, "splits is a list"),
    ):
        for function in (_core.submit, _core.run):
            with pytest.raises(TypeError, match=problem):
                function(*arguments, **options)
    with pytest.raises(TypeError, match="10 arguments"):
        _core.start_usual(0, "x", tensor, tensor)


USUAL = {
    "name": "usual", "op": None, "root_rank": -1, "prescale": 1.0, "postscale": 1.0,
    "process_set": None, "priority": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "unusual",
    [
        {"name": None},
        {"name": "\udc80"},
        {"op": 1},
        {"op": 7},
        {"root_rank": 1 << 40},
        {"prescale": 1},
        {"postscale": "1"},
        {"process_set": 0},
        {"priority": 0.5},
    ],
    ids=str,
)
def test_what_is_not_usual_is_left_to_python(hvd, unusual):
    tensor = torch.ones(2)
    terms = USUAL | {"process_set": hvd.global_process_set} | unusual
    arguments = (_core.ALLREDUCE, terms.pop("name"), tensor, tensor, *terms.values())
    assert _core.start_usual(*arguments) is None
    assert _core.run_usual(*arguments) is False
    assert tensor._version == 0


def test_usual_operations(hvd):
    tensor, output = torch.ones(2), torch.empty(2)
    terms = (hvd.Sum, -1, 1.0, 1.0, hvd.global_process_set, 0)
    handle = _core.start_usual(_core.ALLREDUCE, "usual", tensor, output, *terms)
    assert type(handle) is hvd.Handle
    assert handle.wait() is output
    assert output.tolist() == [hvd.size()] * 2
    assert (tensor._version, output._version) == (0, 0)
    assert _core.run_usual(_core.ALLREDUCE, "usual", tensor, tensor, None, *terms[1:])
    assert tensor.tolist() == [1, 1]
    assert tensor._version == 1


def test_handles(hvd):
    tensor = torch.ones(3)
    named = hvd.allreduce_async_(tensor, name="handle", op=hvd.Sum)
    unnamed = hvd.allreduce_async(torch.ones(2), op=hvd.Sum)
    for handle in (named, unnamed, unnamed.then(torch.sum)):
        assert isinstance(handle, hvd.Handle)
        assert weakref.ref(handle)() is handle
        assert handle() is handle.wait(timeout=30)
        assert handle.poll() and handle.done()
        assert "done" in repr(handle)
        with pytest.raises(TypeError):
            handle("now")
        with pytest.raises(TypeError):
            handle.wait(1, 2)
        with pytest.raises(TypeError):
            pickle.dumps(handle)
    assert named.name == "handle"
    with pytest.raises(TypeError, match="made by submitting"):
        hvd.Handle("handle")


def test_a_dropped_handle_keeps_its_tensors_until_it_is_done(hvd):
    turns = [torch.full((1000,), float(turn)) for turn in range(20)]
    alive = [weakref.ref(tensor) for tensor in turns]
    for turn, tensor in enumerate(turns):
        hvd.allreduce_async_(tensor, name=f"dropped.{turn}")
    del turns, tensor
    hvd.barrier()
    for turn in range(20):
        assert hvd.allreduce(torch.ones(1), name=f"dropped.{turn}", op=hvd.Sum) == hvd.size()
    gc.collect()
    assert not any(reference() is not None for reference in alive)


@pytest.mark.ranks(2)
def test_a_compiled_broadcast_names_the_root_that_is_not_in_the_set(hvd):
    one = hvd.add_process_set([1])
    if hvd.rank() == 1:
        function = torch.compile(hvd.broadcast, fullgraph=True, backend="aot_eager")
        with pytest.raises(RuntimeError, match=r"'away'.*root_rank 0 .*ranks 1\)"):
            function(torch.ones(2), 0, name="away", process_set=one)
    hvd.remove_process_set(one)
