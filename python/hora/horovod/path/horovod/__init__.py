"""Horovod's name for hora; see ``hora.horovod.alias`` for what is where."""

from hora.horovod import alias
from hora.horovod.names import run

__all__ = ["__version__", "run"]
__version__ = alias.HOROVOD_VERSION

alias.install()
