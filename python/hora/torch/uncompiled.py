"""What a graph of ``torch.compile`` leaves to Python, between two graphs.

Imported when a graph is made: saying so takes the compiler, whose import takes most of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hora.torch import sync_batch_norm

__all__ = ["normalised"]

_disable: Callable[..., Callable[..., Any]] = torch.compiler.disable
# Its collectives are those of a training step, and a graph would need their gradients.
normalised = _disable(sync_batch_norm.normalised)
