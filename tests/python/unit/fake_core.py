"""An engine without ranks, for tests of the Python side that must control when operations end.

It follows ``_core.pyi``. All ranks but this one are imagined to submit the same values, so a sum
over ``size`` ranks multiplies. Operations complete at once, or, after ``hold()``, when somebody
waits for them or ``release()`` is called. ``calls`` lists what was submitted.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from dataclasses import dataclass, field

import torch
from hora.errors import NotInitializedError, ShutDownError, UsageError, WaitTimeoutError

ALLREDUCE, ALLGATHER, BROADCAST, BARRIER = range(4)
AVERAGE, SUM, MIN, MAX, PRODUCT = 0, 1, 3, 4, 5


@dataclass
class Topology:
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int


class Gathered:
    def __init__(self, tensor, size):
        self.first_dims = [tensor.shape[0]] * size
        self._bytes = torch.cat([tensor] * size).reshape(-1).view(torch.uint8)
        self.nbytes = self._bytes.numel()

    def __dlpack__(self, **options):
        return self._bytes.__dlpack__(**options)

    def __dlpack_device__(self):
        return (1, 0)


@dataclass
class Handle:
    name: str
    complete: object
    core: object
    finished: bool = False
    error: Exception | None = None
    result: Gathered | None = None

    def finish(self):
        if not self.finished:
            self.finished = True
            self.result = self.complete()

    def done(self):
        return self.finished

    def wait(self, timeout=None):
        if not self.finished:
            if timeout is not None:
                raise WaitTimeoutError(f"'{self.name}' was held by the test")
            self.core.waited.append(self.name)  # a wait without end makes the operation end
            self.core.complete(self)
        if self.error is not None:
            raise self.error

    def gathered(self):
        return self.result


@dataclass
class Call:
    kind: int
    name: str
    input: torch.Tensor | None
    reduce_op: int
    root_rank: int
    prescale: float
    postscale: float


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

    def __post_init__(self):
        self._topology = None
        self._held = False
        self._open = {}

    # --- what tests steer ---

    @property
    def names(self):
        return [call.name for call in self.calls]

    def hold(self):
        self._held = True

    def complete(self, handle):
        self._open.pop(handle.name, None)
        handle.finish()

    def release(self, error=None):
        self._held = False
        for handle in list(self._open.values()):
            handle.error = error
            handle.finish()
        self._open.clear()

    # --- what hora._core has ---

    def init(self, topology, rendezvous, key, listen_fd):
        if self.fail_init is not None:
            raise self.fail_init
        self.starts += 1
        self._topology = Topology(0, self.size, 0, self.size, 0, 1)

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

    def submit(
        self, kind, name, input, output, reduce_op=SUM, root_rank=-1, prescale=1.0, postscale=1.0
    ):
        self.topology()
        if self.fail_submit is not None:
            raise self.fail_submit
        numbers = isinstance(reduce_op, int) and isinstance(root_rank, int) and root_rank < 1 << 31
        if not (isinstance(name, str) and numbers and isinstance(prescale, float)):
            raise TypeError("submit(): incompatible function arguments")  # as pybind11 does
        if name in self._open:
            raise UsageError(f"'{name}' is in use")
        for tensor in (input, output):
            if tensor is not None and not tensor.is_contiguous():
                raise UsageError("not contiguous")
        self.calls.append(Call(kind, name, input, reduce_op, root_rank, prescale, postscale))
        handle = Handle(
            name, lambda: self._compute(kind, input, output, reduce_op, prescale * postscale), self
        )
        if self._held:
            self._open[name] = handle
        else:
            handle.finish()
        return handle

    def run(self, *arguments):
        handle = self.submit(*arguments)
        handle.wait()
        return handle

    def _compute(self, kind, source, target, reduce_op, scale):
        if kind == ALLGATHER:
            return Gathered(source.detach(), self.size)
        if kind != BARRIER:
            value = source.detach().clone()
            if kind == ALLREDUCE and scale != 1.0:
                value = value * scale
            if kind == ALLREDUCE and reduce_op in (SUM, PRODUCT):
                value = value * self.size if reduce_op == SUM else value**self.size
            target.data.copy_(value)
        return None

    def module(self):
        module = types.ModuleType("hora._core")
        constants = (
            "ALLREDUCE", "ALLGATHER", "BROADCAST", "BARRIER",
            "AVERAGE", "SUM", "MIN", "MAX", "PRODUCT", "Topology", "Handle", "Gathered",
        )  # fmt: skip
        for name in constants:
            setattr(module, name, globals()[name])
        for name in (
            "init", "shutdown", "abort", "is_initialized", "topology", "submit", "run",
        ):  # fmt: skip
            setattr(module, name, getattr(self, name))
        return module


_OURS = ("hora._core", "hora.runtime", "hora.ops", "hora.torch", "hora.data")


@contextlib.contextmanager
def hora_over(core):
    """Imports ``hora.torch`` anew over the fake; afterwards everything is as it was."""
    import hora

    def mine(name):
        return any(name == ours or name.startswith(f"{ours}.") for ours in _OURS)

    saved = {name: module for name, module in sys.modules.items() if mine(name)}
    attributes = {
        name: hora.__dict__.get(name) for name in ("_core", "runtime", "ops", "torch", "data")
    }
    excepthook = sys.excepthook
    for name in saved:
        del sys.modules[name]
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
