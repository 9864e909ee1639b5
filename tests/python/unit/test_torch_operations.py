"""The operations over a fake engine: names, layouts, handles, messages."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hora.errors import HoraError, UsageError, WaitTimeoutError

LAYOUTS = {
    "contiguous": lambda: torch.arange(24.0).reshape(2, 3, 4),
    "0-dim": lambda: torch.tensor(3.0),
    "empty": lambda: torch.empty(0, 3),
    "transposed": lambda: torch.arange(12.0).reshape(3, 4).t(),
    "sliced": lambda: torch.arange(24.0).reshape(4, 6)[::2, 1::2],
    "channels_last": lambda: (
        torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    ),
}


@pytest.fixture
def three(core):
    core.size = 3
    return core


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_strides(three, hvd, layout):
    tensor = LAYOUTS[layout]()
    before = tensor.clone()
    for result in (
        hvd.allreduce(tensor, op=hvd.Sum),
        hvd.synchronize(hvd.allreduce_async(tensor, op=hvd.Sum)),
    ):
        assert torch.equal(result, before * 3)
        assert result.shape == tensor.shape
    assert torch.equal(tensor, before)
    assert hvd.allreduce_(tensor, op=hvd.Sum) is tensor
    assert torch.equal(tensor, before * 3)
    handle = hvd.allreduce_async_(tensor, op=hvd.Sum)
    assert handle.wait() is tensor
    assert torch.equal(tensor, before * 9)
    assert torch.equal(hvd.broadcast(tensor, 0), tensor)
    assert hvd.broadcast_(tensor, 0) is tensor


@pytest.mark.parametrize(
    "view",
    [
        lambda: torch.ones(1, 3).expand(4, 3),
        lambda: torch.zeros(5).as_strided((3, 3), (1, 1)),
        lambda: torch.zeros(()).expand(2),
    ],
)
def test_overlapping_memory_is_read_but_not_written(three, hvd, view):
    assert hvd.allreduce(view(), op=hvd.Sum).shape == view().shape
    with pytest.raises(UsageError, match=r"allreduce 'w'.*share memory.*clone"):
        hvd.allreduce_(view(), name="w")
    with pytest.raises(UsageError, match="broadcast"):
        hvd.broadcast_async_(view(), 0)


def test_views_that_negate_are_seen_through(three, hvd):
    imaginary = torch.tensor([1 + 2j]).conj().imag
    assert hvd.allreduce(imaginary, op=hvd.Sum).item() == -6
    conjugate = torch.tensor([1 + 2j]).conj()
    assert hvd.broadcast(conjugate, 0).item() == 1 - 2j
    assert hvd.allgather(conjugate)[0].item() == 1 - 2j


def test_leaves_that_require_grad(three, hvd):
    leaf = torch.nn.Parameter(torch.ones(2, 2))
    assert hvd.allreduce_(leaf, op=hvd.Sum) is leaf
    assert leaf.is_leaf
    assert leaf[0, 0].item() == 3
    hvd.broadcast_(leaf.t(), 0)
    with torch.no_grad():
        result = hvd.allreduce(leaf, op=hvd.Sum)
    assert type(result) is torch.Tensor
    assert not result.requires_grad
    assert not hvd.allreduce_async(leaf).wait().requires_grad


def test_autograd_refuses_a_saved_tensor_that_was_overwritten(three, hvd):
    weight = torch.ones(2, requires_grad=True)
    saved = torch.ones(2)
    loss = (weight * saved).sum()
    hvd.allreduce_(saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(2).to_sparse_csr(), "sparse_csr.*to_dense"),
        (lambda: torch.zeros(2, device="meta"), "meta.*CPU"),
        (lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.zeros(2, dtype=torch.complex32), "complex32.*float32"),
        (lambda: [1.0], "torch.Tensor is needed, not list"),
    ],
)
def test_unsupported_tensors_say_what_is_supported(hvd, make, words):
    for call in (hvd.allreduce, hvd.allreduce_, hvd.allreduce_async, hvd.allreduce_async_):
        with pytest.raises(UsageError, match=words):
            call(make(), name="w")


def test_booleans_have_no_average(hvd):
    flags = torch.tensor([True, False])
    with pytest.raises(UsageError, match="no average"):
        hvd.allreduce(flags)
    assert hvd.allreduce(flags, op=hvd.Max).dtype is torch.bool


@pytest.mark.filterwarnings("ignore:average= is deprecated")
def test_average_and_op_together(hvd):
    with pytest.raises(ValueError, match="not both"):
        hvd.allreduce(torch.ones(1), average=True, op=hvd.Sum)
    with pytest.raises(ValueError, match="not both"):
        hvd.allreduce_async_(torch.ones(1), average=False, op=hvd.Sum)


@pytest.mark.parametrize("op", [6, 99, "sum", [1]])
def test_unknown_reduce_ops(hvd, op):
    with pytest.raises(UsageError, match="none of Average"):
        hvd.allreduce_(torch.ones(1), op=op)


BAD_ARGUMENTS = {
    "name": (lambda hvd, call: call(torch.ones(1), name=3), r"name=3 is not a string"),
    "prescale": (
        lambda hvd, call: call(torch.ones(1), prescale_factor="x"),
        r"prescale_factor='x' is not a number",
    ),
}


@pytest.mark.parametrize("what", BAD_ARGUMENTS)
@pytest.mark.parametrize("suffix", ["", "_", "_async", "_async_"])
def test_bad_arguments_are_named(core, hvd, what, suffix):
    make, words = BAD_ARGUMENTS[what]
    with pytest.raises(UsageError, match=words):
        make(hvd, getattr(hvd, f"allreduce{suffix}"))
    hvd.allreduce_(torch.ones(1))
    assert core.names == ["allreduce.noname.0"]


@pytest.mark.parametrize("suffix", ["", "_", "_async", "_async_"])
@pytest.mark.parametrize("root", [None, "0", 1 << 40])
def test_roots_that_are_no_number_of_a_rank(core, hvd, suffix, root):
    with pytest.raises(UsageError, match=f"broadcast: root_rank={root!r} is not"):
        getattr(hvd, f"broadcast{suffix}")(torch.ones(1), root)
    hvd.broadcast_(torch.ones(1), 0)
    assert core.names == ["broadcast.noname.0"]


def test_average_false_means_sum(three, hvd):
    with pytest.warns(DeprecationWarning, match="op=hvd.Sum") as caught:
        assert hvd.allreduce(torch.ones(1), False).item() == 3
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="average="):
        assert hvd.allreduce_async(torch.ones(1), True).wait().item() == 1
    assert hvd.allreduce(torch.ones(1)).item() == 1


def test_factors_reach_the_engine(core, hvd):
    hvd.allreduce_(torch.ones(1), prescale_factor=0.5, postscale_factor=4.0)
    hvd.allreduce_async(torch.ones(1), op=hvd.Max, prescale_factor=0.5, postscale_factor=4.0)
    assert [(c.prescale, c.postscale) for c in core.calls] == [(0.5, 4.0)] * 2


def test_allgather(three, hvd):
    rows = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    assert torch.equal(hvd.allgather(rows), rows.repeat(3, 1))
    assert torch.equal(hvd.allgather(rows.t()), rows.t().repeat(3, 1))
    assert torch.equal(hvd.allgather(torch.tensor(7)), torch.tensor([7, 7, 7]))
    assert hvd.allgather(torch.empty(2, 0, 5)).shape == (6, 0, 5)
    assert hvd.allgather(torch.tensor([True])).dtype is torch.bool


def test_unnamed_operations_reuse_256_names(core, hvd):
    for _ in range(300):
        hvd.allreduce_(torch.ones(1))
    assert core.names[0] == core.names[256] == "allreduce.noname.0"
    assert len(set(core.names)) == 256
    hvd.broadcast_(torch.ones(1), 0)
    hvd.barrier()
    assert core.names[-2:] == ["broadcast.noname.0", "barrier.noname.0"]


def test_names_wait_for_the_operation_that_used_them_last(core, hvd):
    core.hold()
    handles = [hvd.allreduce_async_(torch.ones(1)) for _ in range(256)]
    assert core.waited == []
    assert hvd.allreduce_async_(torch.ones(1)).name == "allreduce.noname.0"
    assert core.waited == ["allreduce.noname.0"]
    assert [handle.done() for handle in handles] == [True] + [False] * 255


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_a_refused_operation_takes_no_name(core, hvd, layout):
    overlapping = torch.ones(1).expand(4)
    for call in (hvd.allreduce, hvd.allreduce_, hvd.allreduce_async, hvd.allreduce_async_):
        core.calls.clear()
        hvd.shutdown()
        hvd.init()
        with pytest.raises(UsageError):
            call(3.0)
        with pytest.raises(UsageError):
            hvd.allreduce_(overlapping)
        core.fail_submit = UsageError("the engine does not want it")
        with pytest.raises(UsageError, match="does not want"):
            call(LAYOUTS[layout]())
        core.fail_submit = None
        call(LAYOUTS[layout]())
        assert core.names == ["allreduce.noname.0"]
    with pytest.raises(UsageError):
        hvd.allgather(3.0)
    core.fail_submit = UsageError("the engine does not want it")
    with pytest.raises(UsageError):
        hvd.allgather(torch.ones(1))
    core.fail_submit = None
    hvd.allgather(torch.ones(1))
    assert core.names[-1] == "allgather.noname.0"


def test_a_slot_is_given_back_only_while_it_is_the_last(core, hvd):
    from hora.ops import NameRing

    ring = NameRing("test")
    first, second = ring.claim(), ring.claim()
    ring.give_back(first)
    assert ring.claim() == 2
    ring.give_back(2)
    assert (second, ring.claim()) == (1, 2)
    for _ in range(253):
        last = ring.claim()
    ring.give_back(last)
    assert (last, ring.claim(), ring.claim()) == (255, 255, 0)


def test_names_start_anew_with_every_group(core, hvd):
    hvd.allreduce_(torch.ones(1))
    hvd.shutdown()
    hvd.init()
    hvd.allreduce_(torch.ones(1))
    assert core.names == ["allreduce.noname.0"] * 2


def test_handles(three, hvd):
    three.hold()
    tensor = torch.ones(2, 2).t()
    handle = hvd.allreduce_async(tensor, op=hvd.Sum, name="x")
    assert not hvd.poll(handle)
    assert not handle.done()
    assert repr(handle) == "<Handle 'x' under way>"
    with pytest.raises(WaitTimeoutError):
        handle.wait(timeout=0.01)
    three.release()
    assert hvd.poll(handle)
    first = hvd.synchronize(handle)
    assert torch.equal(first, tensor * 3)
    assert hvd.synchronize(handle) is first


def test_an_error_is_raised_again(core, hvd):
    core.hold()
    handle = hvd.allreduce_async_(torch.ones(2))
    core.release(HoraError("lost"))
    for _ in range(2):
        with pytest.raises(HoraError, match="lost"):
            handle.wait()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon"])
def test_senseless_timeouts(hvd, timeout):
    handle = hvd.allreduce_async(torch.ones(1))
    with pytest.raises(UsageError, match=f"timeout={timeout!r} is not a number of seconds"):
        handle.wait(timeout)
    assert handle.wait(0).item() == 1


@pytest.mark.parametrize("call", ["poll", "synchronize"])
def test_other_things_than_handles(hvd, call):
    with pytest.raises(ValueError, match=r"Handle is needed.*not int"):
        getattr(hvd, call)(7)


def test_a_waited_handle_leaves_no_tensor_behind(hvd):
    tensor = torch.ones(4)
    alive = weakref.ref(tensor)
    hvd.allreduce_async_(tensor).wait()
    hvd.allreduce_(tensor)
    # The fake lists its calls; only hora's own references are of interest.
    import hora._core as core_module

    core_module.submit.__self__.calls.clear()
    del tensor
    gc.collect()
    assert alive() is None


def test_not_initialised(hvd):
    hvd.shutdown()
    hvd.shutdown()
    for call in (hvd.rank, hvd.size, hvd.local_rank, hvd.cross_size, hvd.barrier):
        with pytest.raises(ValueError, match=r"call hvd\.init\(\) first"):
            call()


def test_unknown_names_get_a_hint(hvd):
    with pytest.raises(AttributeError, match="did you mean 'DistributedDataLoader'"):
        _ = hvd.DistributedDataloader
    with pytest.raises(AttributeError, match="did you mean 'grouped_allreduce'"):
        _ = hvd.group_allreduce
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'$"):
        _ = hvd.xyzzy
    assert len(hvd.__all__) == len(set(hvd.__all__))
    assert all(hasattr(hvd, name) for name in hvd.__all__)
    assert hvd.HorovodInternalError is hvd.HoraError
