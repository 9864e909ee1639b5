"""The HORA_* variables that are set: what they may be, and what a misspelt one was meant to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hora.cli.check_parts import Finding
from hora.errors import HoraError, UsageError
from hora.launch.flags import BACKENDS
from hora.launch.secret_file import read_secret
from hora.launch.spelling import did_you_mean
from hora.launch.store import (
    FAR_AWAY,
    INTERFACES,
    checked_interfaces,
    choose_address,
    interfaces_of,
)
from hora.plugins import is_usable
from hora.settings import (
    LOG_LEVELS,
    LONGEST_ABORT_S,
    LONGEST_WARNING_S,
    Reader,
    one_of,
    output_file,
    seconds,
    seconds_or_never,
    switch,
    whole,
)

__all__ = ["KNOWN", "setting_findings"]

_MILLION = 1_000_000


def _any(word: str) -> str:
    return word


def _timeline(word: str) -> str:
    return word if word == "DYNAMIC" else output_file(word)


def _window(word: str) -> str:
    value = whole(4096, 64 << 20)(word)
    if int(value) % 4096:
        raise ValueError(f"{word!r} is not a multiple of 4096")
    return value


def _mpi(word: str) -> str:
    if word in ("openmpi", "mpich"):
        return word
    if "/" not in word:
        raise ValueError(f"{word!r} is not openmpi, mpich or the path of a library")
    if not Path(word).exists():
        raise ValueError(f"{word!r}: there is no such file")
    return word


def _folder(word: str) -> str:
    if not Path(word).is_dir():
        raise ValueError(f"{word!r}: there is no such folder")
    return word


def _interfaces(word: str) -> str:
    """Also that one of them is up on this host, where that can be told."""
    value = checked_interfaces(word)
    try:
        choose_address(interfaces_of({INTERFACES: value}), FAR_AWAY)
    except UsageError:
        pass  # this installation's core cannot look
    except HoraError as error:
        raise ValueError(str(error)) from None
    return value


def _secret(word: str) -> str:
    try:
        read_secret(Path(word))
    except HoraError as error:
        raise ValueError(str(error)) from None
    return word


# What the engine and Python read (base/config.cc, collectives/plugin, settings.py, launch).
KNOWN: Mapping[str, Reader] = {
    "HORA_AUTOTUNE": one_of("0", "1"),
    "HORA_AUTOTUNE_LOG": output_file,
    "HORA_AUTOTUNE_MAX_SAMPLES": whole(1, _MILLION),
    "HORA_AUTOTUNE_STEPS_PER_SAMPLE": whole(1, _MILLION),
    "HORA_AUTOTUNE_WARMUP_SAMPLES": whole(0, _MILLION),
    "HORA_BACKEND": one_of(*BACKENDS),
    "HORA_BOOTSTRAP_FD": whole(3, (1 << 31) - 1),
    "HORA_CACHE_CAPACITY": whole(0, 1 << 20),
    "HORA_CHUNK_BYTES": whole(0, 64 << 20),
    "HORA_CONTROL_PLANE": one_of("tls", "mac"),
    "HORA_DATA_PLANE": one_of("tls", "auth"),
    "HORA_FUSION_THRESHOLD_BYTES": whole(0, 1 << 40),
    "HORA_GPUS_PER_RANK": whole(1, 64),
    "HORA_GPU_BACKEND": one_of("auto", "nccl", "staged"),
    "HORA_HEARTBEAT_SECONDS": seconds(3600, low=0.2),
    "HORA_JOB_ID": _any,
    "HORA_JOIN_DIVIDES_BY_SIZE": one_of("0", "1"),
    "HORA_LAUNCHER": _any,
    "HORA_LOG_LEVEL": one_of(*LOG_LEVELS),
    "HORA_MPI": _mpi,
    "HORA_NETWORK_INTERFACES": _interfaces,
    "HORA_NCCL_ALONE": one_of("0", "1"),
    "HORA_NCCL_LIBRARY": _any,
    "HORA_PINNED_MEMORY_BYTES": whole(0, 1 << 40),
    "HORA_PLUGIN_DIRECTORY": _folder,
    "HORA_PLUGIN_NO_DEEPBIND": _any,
    "HORA_RENDEZVOUS_DIR": _folder,
    "HORA_RESULT_MEMORY_BYTES": whole(0, 1 << 40),
    "HORA_SECRET_FILE": _secret,
    "HORA_SMALL_ALLREDUCE_BYTES": whole(0, 64 << 20),
    "HORA_STALL_ABORT_SECONDS": seconds_or_never(LONGEST_ABORT_S),
    "HORA_STALL_WARNING_SECONDS": seconds_or_never(LONGEST_WARNING_S),
    "HORA_START_TIMEOUT_SECONDS": seconds(86400),
    "HORA_TERMINAL": _any,
    "HORA_TIMELINE": _timeline,
    "HORA_TIMELINE_MARK_CYCLES": switch,
    "HORA_TREE_FAN_OUT": whole(2, 1024),
    "HORA_URGENT_BYTES": whole(0, 1 << 40),
    "HORA_WINDOW_BYTES": _window,
}


def setting_findings(environ: Mapping[str, str]) -> list[Finding]:
    """One for each HORA_* variable: a value without sense fails, an unknown name only warns."""
    names = sorted(name for name in environ if name.startswith("HORA_"))
    return [_finding(name, environ[name]) for name in names]


def _finding(name: str, value: str) -> Finding:
    if name not in KNOWN:
        what = f"{value!r}: hora has no such variable{did_you_mean(name, KNOWN)}"
        return Finding(name, name, "warning", what, f"unset {name}")
    try:
        if value != value.strip():
            raise ValueError(f"{value!r} has spaces around it")
        KNOWN[name](value)
    except ValueError as error:
        return Finding(name, name, "failed", str(error), f"correct it, or unset {name}")
    if name == "HORA_BACKEND" and not _has_backend(value):
        state = "failed" if value.startswith("flat-") else "warning"  # one host needs no other
        what = f"{value}: its plugin cannot be used here"
        return Finding(name, name, state, what, "install what 'Built' names, or unset HORA_BACKEND")
    return Finding(name, name, "ok", value)


def _has_backend(value: str) -> bool:
    library = value.removeprefix("flat-")
    return library == "tcp" or is_usable(library)
