"""hora: collective communication for data-parallel PyTorch.

``import hora.torch as hvd`` is where a training script starts; this package itself stays free of
torch, so that the launcher and the command line start quickly. ``hora.run`` calls a function on
several ranks from Python.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hora.launch.function import RankError as RankError
    from hora.launch.function import run as run

__version__ = "0.1.0"

__all__: Final = ["RankError", "__version__", "run"]


def __getattr__(name: str) -> Any:
    if name in ("RankError", "run"):
        from hora.launch import function

        return getattr(function, name)
    raise AttributeError(f"module 'hora' has no attribute '{name}'")
