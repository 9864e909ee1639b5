"""hora: collective communication for data-parallel PyTorch.

``import hora.torch as hvd`` is where a training script starts; this package itself stays free of
torch, so that the launcher and the command line start quickly.
"""

from typing import Final

__version__ = "0.1.0"

__all__: Final = ["__version__"]
