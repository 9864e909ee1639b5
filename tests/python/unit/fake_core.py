"""An engine without ranks, for tests of the Python side that must control when operations end.

It follows ``_core.pyi``. All ranks but this one are imagined to submit the same values, so a sum
over ``size`` ranks multiplies; ``gather`` may give other ranks other rows. Operations complete at
once, or, after ``hold()``, when somebody waits for them or ``release()`` is called. ``calls`` lists
what was submitted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from fake_gradients import GradientCollector
from hora.errors import NotInitializedError, ShutDownError, UsageError, WaitTimeoutError

ALLREDUCE, ALLGATHER, BROADCAST, BARRIER, ALLTOALL, REDUCESCATTER, JOIN = range(7)
AVERAGE, SUM, ADASUM, MIN, MAX, PRODUCT = range(6)
NUMBERS = {
    torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64,
    torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
}  # fmt: skip


def listed(tensors):
    if tensors is None:
        return []
    return tensors if isinstance(tensors, list) else [tensors]


@dataclass
class Topology:
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int


class Gathered:
    def __init__(self, parts):
        self.first_dims = [part.shape[0] for part in parts]
        self._bytes = torch.cat(parts).reshape(-1).view(torch.uint8)
        self.nbytes = self._bytes.numel()
        self.memory = None

    def __dlpack__(self, **options):
        return self._bytes.__dlpack__(**options)

    def __dlpack_device__(self):
        return (1, 0)


@dataclass
class Operation:
    name: str
    complete: object
    core: object
    finished: bool = False
    error: Exception | None = None
    outcome: object = None

    def finish(self):
        if not self.finished:
            self.finished = True
            self.outcome = self.complete()

    def wait(self, timeout):
        if not (timeout is None or (hasattr(timeout, "__float__") and float(timeout) >= 0)):
            raise UsageError(f"timeout={timeout!r} is not a number of seconds")
        if not self.finished:
            if timeout is not None:
                raise WaitTimeoutError(f"'{self.name}' was held by the test")
            self.core.waited.append(self.name)  # a wait without end makes the operation end
            self.core.complete(self)
        if self.error is not None:
            raise self.error


class Handle:
    """Of an operation, or of what another handle is of."""

    def __new__(cls, other, result=None):
        self = super().__new__(cls)
        self._operation = other._operation if isinstance(other, Handle) else other
        self._value = result
        return self

    @property
    def name(self):
        return self._operation.name

    def done(self):
        return self._operation.finished

    poll = completed = done

    def wait(self, timeout=None):
        self._operation.wait(timeout)
        return self._value

    def __call__(self):
        return self.wait()

    def gathered(self):
        return self._operation.outcome

    def last_joined(self):
        return self._operation.outcome


@dataclass
class Call:
    kind: int
    name: str
    input: torch.Tensor | list[torch.Tensor] | None
    reduce_op: int
    root_rank: int
    prescale: float
    postscale: float
    process_set: int
    splits: list[int] | None
    priority: int = 0


@dataclass
class FakeCore:
    """What ``hora._core`` is replaced by, as an object; ``module()`` makes the module."""

    size: int = 1
    calls: list[Call] = field(default_factory=list)
    waited: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    starts: int = 0
    fail_init: Exception | None = None
    fail_submit: Exception | None = None
    gather: Callable | None = None  # from this rank's rows and the size to all ranks' rows

    def __post_init__(self):
        self._topology = None
        self.sets = {}
        self.timeline = None
        self.log_level = None
        self.device = None
        self._held = False
        self._open = {}

    # --- what tests steer ---

    @property
    def names(self):
        return [call.name for call in self.calls]

    def hold(self):
        self._held = True

    def complete(self, operation):
        for key in [key for key, open_ in self._open.items() if open_ is operation]:
            del self._open[key]
        operation.finish()

    def release(self, error=None):
        self._held = False
        for operation in list(self._open.values()):
            operation.error = error
            operation.finish()
        self._open.clear()

    # --- what hora._core has ---

    def init(self, topology, rendezvous, key, listen_fd, store="", job_id="", interfaces=()):
        if self.fail_init is not None:
            raise self.fail_init
        self.starts += 1
        self._topology = Topology(0, self.size, 0, self.size, 0, 1)
        self.sets = {0: list(range(self.size))}
        self._next_set = 1

    def shutdown(self):
        self.release(ShutDownError("this rank has shut down"))
        self._topology = None

    def abort(self, message):
        self.aborted.append(message)

    def is_initialized(self):
        return self._topology is not None

    def topology(self):
        if self._topology is None:
            raise NotInitializedError("hora has not been initialised; call hvd.init() first")
        return self._topology

    def add_process_set(self, ranks):
        assert ranks == sorted(ranks) and ranks not in self.sets.values()
        self._next_set += 1
        self.sets[self._next_set - 1] = ranks
        return self._next_set - 1

    def remove_process_set(self, process_set):
        del self.sets[process_set]

    def process_sets(self):
        return dict(self.sets)

    def metrics(self):
        return {"submitted": len(self.calls), "failed": 0}

    def pending(self):
        return [(0, "allreduce", name, 1.5) for _, name in self._open]

    def tuning(self):
        return {"fusion_threshold_bytes": 1 << 27, "chunk_bytes": 1, "urgent_bytes": 2}

    def flush(self, process_set=0):
        pass

    def forget_compiled_names(self, process_set=None):
        pass

    def set_log_level(self, level):
        self.log_level = level

    def start_timeline(self, path, mark_cycles=False):
        self.timeline = (path, mark_cycles)

    def stop_timeline(self):
        if self.timeline is None:
            raise UsageError("no timeline is being written")
        self.timeline = None

    def submit(
        self,
        kind,
        name,
        input,
        output,
        reduce_op=SUM,
        root_rank=-1,
        prescale=1.0,
        postscale=1.0,
        process_set=0,
        splits=None,
        priority=0,
    ):
        self.topology()
        if self.fail_submit is not None:
            raise self.fail_submit
        numbers = all(isinstance(number, int) for number in (reduce_op, root_rank, priority))
        numbers = numbers and max(root_rank, priority) < 1 << 31
        if not (isinstance(name, str) and numbers and isinstance(prescale, float)):
            raise TypeError("name is a string, not …")
        if (process_set, name) in self._open:
            raise UsageError(f"'{name}' is in use")
        for tensor in [*listed(input), *listed(output)]:
            if not tensor.is_contiguous():
                raise UsageError("not contiguous")
        call = Call(
            kind, name, input, reduce_op, root_rank, prescale, postscale, process_set, splits,
            priority,
        )  # fmt: skip
        self.calls.append(call)
        size = len(self.sets[process_set])
        operation = Operation(name, lambda: self._compute(call, listed(output), size), self)
        if self._held:
            self._open[process_set, name] = operation
        else:
            operation.finish()
        return Handle(operation)

    def run(self, *arguments, **options):
        handle = self.submit(*arguments, **options)
        handle.wait()
        return handle

    def set_plain_types(self, *types):
        self.plain_types = types

    def is_plain(self, tensor):
        return (
            type(tensor) in self.plain_types
            and tensor.dtype in NUMBERS
            and tensor.layout is torch.strided
            and tensor.is_cpu
            and tensor.is_contiguous()
            and not tensor.is_neg()
        )

    def set_device_calls(self, current_stream, allocate, record, empty_cache=None):
        self.device_calls = current_stream, allocate, record, empty_cache

    def choose_device(self, index):
        if self.device not in (None, index):
            raise UsageError(f"this rank works on cuda:{self.device}")
        self.device = index

    def chosen_device(self):
        return self.device

    def set_usual(self, handle_class, operators, global_set, profiling, bump):
        self.usual = handle_class, operators, global_set, profiling, bump

    def start_usual(
        self, kind, name, input, output, op, root_rank, prescale, postscale, process_set, priority
    ):
        handle_class, operators, global_set, profiling, bump = self.usual
        usual = (
            isinstance(name, str)
            and (op is None or type(op) is operators)
            and op != ADASUM
            and all(isinstance(number, int) for number in (root_rank, priority))
            and max(root_rank, priority) < 1 << 31
            and type(prescale) is float
            and type(postscale) is float
            and process_set is global_set
            and not profiling()
            and self.is_plain(input)
        )
        if not usual:
            return None
        op = AVERAGE if op is None else op
        core = self.submit(
            kind, name, input, output, op, root_rank, prescale, postscale, 0, None, priority
        )
        if input is output:
            bump((input,))
        return handle_class(core, output)

    def run_usual(self, *arguments):
        handle = self.start_usual(*arguments)
        if handle is not None:
            handle.wait()
        return handle is not None

    def try_run(self, kind, name, input, *arguments):
        if not self.is_plain(input):
            return False
        self.run(kind, name, input, *arguments)
        return True

    def _compute(self, call, targets, size):
        sources = [source.detach() for source in listed(call.input)]
        if call.kind == ALLGATHER:
            parts = self.gather or (lambda rows, size: [rows] * size)
            return [Gathered(parts(source, size)) for source in sources]
        if call.kind == ALLTOALL:
            rows = call.splits[0] if call.splits else len(sources[0]) // size
            return [Gathered([sources[0][:rows]] * size)]
        if call.kind == JOIN:
            return size - 1
        scale = call.prescale * call.postscale
        for source, target in zip(sources, targets, strict=True):
            value = source.clone()
            if call.kind in (ALLREDUCE, REDUCESCATTER):
                value = value if scale == 1.0 else value * scale
                if call.reduce_op in (SUM, PRODUCT):
                    value = value * size if call.reduce_op == SUM else value**size
            target.data.copy_(value if target.dim() == 0 else value[: len(target)])
        return None

    def module(self):
        module = types.ModuleType("hora._core")
        constants = (
            "ALLREDUCE", "ALLGATHER", "BROADCAST", "BARRIER", "ALLTOALL", "REDUCESCATTER", "JOIN",
            "AVERAGE", "SUM", "ADASUM", "MIN", "MAX", "PRODUCT",
            "Topology", "Handle", "Gathered",
        )  # fmt: skip
        for name in constants:
            setattr(module, name, globals()[name])
        for name in (
            "init", "shutdown", "abort", "is_initialized", "topology", "submit", "run",
            "start_usual", "run_usual", "set_usual", "try_run", "is_plain", "set_plain_types",
            "add_process_set", "remove_process_set", "process_sets", "metrics", "pending", "tuning",
            "set_log_level", "start_timeline", "stop_timeline", "forget_compiled_names",
            "set_device_calls", "choose_device", "chosen_device",
        ):  # fmt: skip
            setattr(module, name, getattr(self, name))
        module.GradientCollector = functools.partial(GradientCollector, self)
        return module


_OURS = (
    "hora._core",
    "hora.runtime",
    "hora.ops",
    "hora.process_sets",
    "hora.introspection",
    "hora.torch",
    "hora.data",
)


@contextlib.contextmanager
def hora_over(core):
    """Imports ``hora.torch`` anew over the fake; afterwards everything is as it was."""
    import hora

    def mine(name):
        return any(name == ours or name.startswith(f"{ours}.") for ours in _OURS)

    saved = {name: module for name, module in sys.modules.items() if mine(name)}
    attributes = {name: hora.__dict__.get(name) for name in (ours[5:] for ours in _OURS)}
    excepthook = sys.excepthook
    for name in saved:
        del sys.modules[name]
    for name in attributes:  # or "from hora import runtime" finds the one that is set aside
        hora.__dict__.pop(name, None)
    try:
        sys.modules["hora._core"] = hora._core = core.module()
        yield importlib.import_module("hora.torch")
    finally:
        sys.excepthook = excepthook
        for name in [name for name in sys.modules if mine(name)]:
            del sys.modules[name]
        sys.modules.update(saved)
        for name, module in attributes.items():
            if module is None:
                hora.__dict__.pop(name, None)
            else:
                setattr(hora, name, module)
