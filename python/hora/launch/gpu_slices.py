"""``--gpus-per-rank``: every rank sees GPUs of its own and no others.

Without it all ranks of a host see the same GPUs, and hora picks one for each by its local rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from hora.errors import UsageError
from hora.gpus import listed_gpus
from hora.settings import whole

__all__ = ["MOST_GPUS", "VARIABLE", "gpus_of_ranks", "visible_gpus"]

VARIABLE = "HORA_GPUS_PER_RANK"
MOST_GPUS = 64
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus_of_ranks(environ: Mapping[str, str], local_size: int) -> list[dict[str, str]]:
    """By local rank, what its environment gets beside the host's: nothing unless it is asked for.

    Raises UsageError when there are not enough GPUs, ResourceError when they cannot be listed. May
    block for some seconds, until nvidia-smi has answered.
    """
    wanted = environ.get(VARIABLE)
    if not wanted:
        return [{} for _ in range(local_size)]
    try:
        each = int(whole(1, MOST_GPUS)(wanted))
    except ValueError as error:
        raise UsageError(f"--gpus-per-rank: {error}") from None
    visible = visible_gpus(environ)
    if len(visible) < each * local_size:
        told = environ.get(_VISIBLE)
        why = f"{_VISIBLE} is {told!r}" if told is not None else "nvidia-smi lists no more"
        raise UsageError(
            f"--gpus-per-rank {each} for {local_size} ranks of this host takes "
            f"{each * local_size} GPUs, but it has {len(visible)} ({why}): start fewer ranks, or "
            "drop the option: then ranks share GPUs"
        )
    slices = [visible[first : first + each] for first in range(0, each * local_size, each)]
    for gpus in slices:
        if len(gpus) > 1 and any(name.startswith("MIG-") for name in gpus):
            raise UsageError(
                f"--gpus-per-rank {each}: a process sees one MIG slice at most ({', '.join(gpus)})"
            )
    return [{_VISIBLE: ",".join(gpus)} for gpus in slices]


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment sees, by index or unique name.

    As CUDA reads the variable: what follows the first name of none does not count. Where it is not
    set, unique names, because nvidia-smi and CUDA need not count alike.
    """
    told = environ.get(_VISIBLE)
    if told is None:
        return listed_gpus()
    names: list[str] = []
    for word in told.split(","):
        name = word.strip()
        if not name.isdigit() and not name.startswith(("GPU-", "MIG-")):
            break
        names.append(name)
    return names
