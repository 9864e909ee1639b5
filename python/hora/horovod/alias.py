"""Horovod's modules, each one a view of a module of hora.

Nothing is copied: ``horovod.torch.allreduce`` *is* ``hora.torch.allreduce``, whenever it is asked
for, so that errors, classes and did-you-mean hints are the same under both names.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

HOROVOD_VERSION = "0.28.1"  # the release whose interface this is
FOLDER = Path(__file__).parent / "path"

_NAMES = "hora.horovod.names"
_ELASTIC = "hora.torch.elastic"

# Where the names of each module are looked up, first match wins.
MODULES: Mapping[str, Sequence[str]] = {
    "horovod.torch": ("hora.horovod.torch_names", "hora.torch"),
    "horovod.torch.mpi_ops": ("hora.horovod.torch_names", "hora.torch"),
    "horovod.torch.compression": ("hora.torch",),
    "horovod.torch.functions": ("hora.torch",),
    "horovod.torch.optimizer": ("hora.torch",),
    "horovod.torch.sync_batch_norm": ("hora.torch",),
    "horovod.torch.elastic": (_ELASTIC,),
    "horovod.torch.elastic.sampler": (_ELASTIC,),
    "horovod.torch.elastic.state": (_ELASTIC,),
    "horovod.data": ("hora.data",),
    "horovod.data.data_loader_base": ("hora.data",),
    "horovod.runner": (_NAMES,),
    "horovod.runner.util": (_NAMES,),
    "horovod.runner.util.threads": (_NAMES,),
    "horovod.common": (_NAMES,),
    "horovod.common.elastic": (_ELASTIC,),
    "horovod.common.exceptions": ("hora.errors", _NAMES),
    "horovod.common.process_sets": ("hora.torch",),
    "horovod.common.util": (_NAMES,),
}

# Parts of Horovod that hora does not have.
ABSENT = ("keras", "mxnet", "ray", "spark", "tensorflow")


class AliasFinder(MetaPathFinder):
    """Answers imports of ``horovod.…``; any thread, as the import system allows."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for anything but Horovod; raises ModuleNotFoundError saying what there is."""
        if not fullname.startswith("horovod."):
            return None
        if fullname not in MODULES:
            raise ModuleNotFoundError(_why_not(fullname), name=fullname)
        return spec_from_loader(fullname, _ViewLoader(), is_package=bool(_children(fullname)))


class _ViewLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _View(spec.name, f"Horovod's {spec.name}: names of {MODULES[spec.name][-1]}.")

    def exec_module(self, module: ModuleType) -> None:
        assert isinstance(module, _View)
        module.show(MODULES[module.__name__])


class _View(ModuleType):
    """A module without names of its own."""

    _targets: tuple[ModuleType, ...] = ()

    def show(self, targets: Sequence[str]) -> None:
        self._targets = tuple(importlib.import_module(name) for name in targets)
        self.__all__ = [name for module in self._targets for name in module.__all__]

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        for module in self._targets:
            if name in module.__all__:
                return getattr(module, name)
        return getattr(self._targets[-1], name)  # its error is the one to show

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__all__})

    def __reduce__(self) -> tuple[Any, ...]:
        # As modules travel with cloudpickle: horovod.run() is given functions that use one.
        return importlib.import_module, (self.__name__,)


def install() -> None:
    """Makes this process import Horovod's modules from hora; once is enough."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AliasFinder())


def _children(name: str) -> list[str]:
    return [module for module in MODULES if module.startswith(f"{name}.")]


def _why_not(name: str) -> str:
    part = name.split(".")[1]
    if part in ABSENT:
        return f"horovod.{part}: hora is for PyTorch only; there is horovod.torch"
    close = difflib.get_close_matches(name, MODULES, n=1, cutoff=0.8)
    hint = f"; did you mean {close[0]}?" if close else f" (it has {', '.join(MODULES)})"
    return f"hora has no module {name}{hint}"
