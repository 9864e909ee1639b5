"""HOROVOD_* variables in terms of HORA_*: the table, and how it is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hora.errors import UsageError
from hora.settings import (
    NEVER_STALLED,
    Reader,
    log_level,
    output_file,
    seconds,
    stall_abort,
    stall_warning,
    switch,
    whole,
)

_SAMPLES = whole(0, 1_000_000)
_ONE_OR_MORE = whole(1, 1_000_000)

# HOROVOD_ + key → (variable, what its value may be).
COUNTERPARTS: Mapping[str, tuple[str, Reader]] = {
    "FUSION_THRESHOLD": ("HORA_FUSION_THRESHOLD_BYTES", whole(0, 1 << 40)),
    "CACHE_CAPACITY": ("HORA_CACHE_CAPACITY", whole(0, 1 << 20)),
    "TIMELINE": ("HORA_TIMELINE", output_file),
    "TIMELINE_MARK_CYCLES": ("HORA_TIMELINE_MARK_CYCLES", switch),
    "STALL_CHECK_TIME_SECONDS": ("HORA_STALL_WARNING_SECONDS", stall_warning),
    "STALL_SHUTDOWN_TIME_SECONDS": ("HORA_STALL_ABORT_SECONDS", stall_abort),
    "LOG_LEVEL": ("HORA_LOG_LEVEL", log_level),
    "AUTOTUNE": ("HORA_AUTOTUNE", switch),
    "AUTOTUNE_LOG": ("HORA_AUTOTUNE_LOG", output_file),
    "AUTOTUNE_WARMUP_SAMPLES": ("HORA_AUTOTUNE_WARMUP_SAMPLES", _SAMPLES),
    "AUTOTUNE_STEPS_PER_SAMPLE": ("HORA_AUTOTUNE_STEPS_PER_SAMPLE", _ONE_OR_MORE),
    "AUTOTUNE_BAYES_OPT_MAX_SAMPLES": ("HORA_AUTOTUNE_MAX_SAMPLES", _ONE_OR_MORE),
    "START_TIMEOUT": ("HORA_START_TIMEOUT_SECONDS", seconds(86400)),
}

# Where Horovod's results differ from hora's on purpose, its scripts get Horovod's.
AS_HOROVOD_DOES: Mapping[str, str] = {"HORA_JOIN_DIVIDES_BY_SIZE": "1"}

# What these ask for is always so: sets can be made at any time, log lines carry no time. The rest
# is set by the launcher, for its ranks.
PLACE = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "HOSTNAME")
FULFILLED = ("DYNAMIC_PROCESS_SETS", "LOG_HIDE_TIME", *PLACE)

# Read when Horovod is compiled, and by nothing that runs.
_BUILD = (
    "WITH_", "WITHOUT_", "GPU", "CUDA_HOME", "ROCM_HOME", "NCCL_HOME", "NCCL_INCLUDE", "NCCL_LIB",
    "NCCL_LINK", "NVTX_INCLUDE", "BUILD_", "CMAKE", "DEBUG", "SKIP_COMPILE", "LOCAL_VERSION",
    "ALLOW_MIXED_GPU_IMPL",
)  # fmt: skip
_PREFIX = "HOROVOD_"


@dataclass(frozen=True)
class Translation:
    """``settings`` to add to the environment; ``unmatched`` variables that mean nothing here."""

    settings: dict[str, str]
    unmatched: list[str]


def translate(environ: Mapping[str, str]) -> Translation:
    """Reads every HOROVOD_* variable that is set and not empty; a HORA_* one that is set wins.

    Raises UsageError naming the variable and its value when that means nothing.
    """
    found = dict(AS_HOROVOD_DOES)
    unmatched = []
    for name in sorted(environ):
        key = name.removeprefix(_PREFIX)
        if key == name or not environ[name]:
            continue
        if key in COUNTERPARTS:
            variable, read = COUNTERPARTS[key]
            found[variable] = _value(name, environ[name], read)
        elif key == "STALL_CHECK_DISABLE":
            continue  # below, because it wins over the times
        elif key not in FULFILLED and not key.startswith(_BUILD):
            unmatched.append(name)
    off = f"{_PREFIX}STALL_CHECK_DISABLE"
    if environ.get(off) and _value(off, environ[off], switch) == "1":
        found.update(NEVER_STALLED)
    return Translation({k: v for k, v in found.items() if k not in environ}, unmatched)


def _value(name: str, word: str, read: Reader) -> str:
    try:
        return read(word)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
