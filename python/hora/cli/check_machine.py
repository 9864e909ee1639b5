"""What this machine allows: processors, shared memory, local sockets, limits, networks."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hora.cli.check_parts import Finding
from hora.cli.environment import cpu_flags
from hora.errors import HoraError, UsageError
from hora.launch.store import FAR_AWAY, choose_address, interfaces_of

__all__ = ["machine_findings", "network_findings"]

_PROBE_BYTES = 1 << 20
_AVX2 = {"avx2", "fma", "f16c"}
_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
_SMALL_SHM_BYTES = 64 << 20  # docker's default
_STRICT_OVERCOMMIT = "2"


def machine_findings() -> list[Finding]:
    """Without the network."""
    return [
        _check_cores(),
        _check_simd(),
        _check_memory(),
        _check_memfd(),
        _check_overcommit(),
        _check_dev_shm(),
        _check_sockets(),
        _check_open_files(),
        _check_locked_memory(),
    ]


def network_findings(environ: Mapping[str, str]) -> tuple[Finding, list[dict[str, Any]]]:
    """The address that a job over several hosts would use, and all that there are.

    Of each: ``name``, ``address``, ``prefix_length``, ``is_up``, ``is_chosen``.
    """
    key, part = "network", "network"
    try:
        core: Any = importlib.import_module("hora._core")
        listed = core.network_interfaces()
    except (ImportError, RuntimeError) as error:
        return Finding(key, part, "absent", f"no interfaces can be listed: {error}"), []
    asked = interfaces_of(environ)
    chosen, problem = "", ""
    try:
        chosen = choose_address(asked, FAR_AWAY)
    except (HoraError, UsageError) as error:
        problem = str(error)
    interfaces = [
        {"name": name, "address": address, "prefix_length": length, "is_up": is_up,
         "is_chosen": address == chosen}
        for name, address, length, is_up in listed
    ]  # fmt: skip
    if problem and asked:
        advice = "name one of those below in HORA_NETWORK_INTERFACES, or unset it"
        return Finding(key, part, "failed", problem, advice), interfaces
    if problem:
        advice = "for several hosts, give --network-interfaces (or HORA_NETWORK_INTERFACES)"
        return Finding(key, part, "absent", problem, advice), interfaces
    names = [each["name"] for each in interfaces if each["is_chosen"]]
    why = "as HORA_NETWORK_INTERFACES says" if asked else "the default route"
    detail = f"{names[0] if names else 'unnamed'} {chosen} ({why})"
    return Finding(key, part, "ok", detail), interfaces


def _check_cores() -> Finding:
    """More ranks than cores work, but wait for each other."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_cores()
    detail = f"{allowed} of {os.cpu_count()} allowed"
    if quota is not None and quota < allowed:
        detail += f", but the control group has the time of {quota:g}"
        allowed = max(1, int(quota))
    if allowed == 1:
        advice = "start one rank, or allow more cores (taskset, docker run --cpus)"
        return Finding("cores", "cores", "warning", f"{detail}; ranks will take turns", advice)
    return Finding("cores", "cores", "ok", detail)


def _check_simd() -> Finding:
    if platform.machine() == "aarch64":
        return Finding("simd", "SIMD", "ok", "neon")
    flags = set(cpu_flags())
    if flags >= _AVX2:
        return Finding("simd", "SIMD", "ok", "avx512" if flags >= _AVX512 else "avx2")
    return Finding("simd", "SIMD", "warning", "none: reductions run element by element")


def _check_memory() -> Finding:
    available = _meminfo("MemAvailable")
    detail = f"{_mebibytes(available)} available" if available is not None else "unknown"
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None:
        detail += f", the control group may use {_mebibytes(limit)}"
    return Finding("memory", "memory", "ok", detail)


def _check_memfd() -> Finding:
    """Anonymous shared memory of 1 MiB can be made and filled; all of a job's ranks use it."""
    key, part = "memfd", "shared memory"
    try:
        fd = os.memfd_create("hora-check", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, _PROBE_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        advice = "allow memfd_create (a sandbox's or container's seccomp profile forbids it)"
        return Finding(key, part, "failed", f"memfd_create: {error.strerror}", advice)
    return Finding(key, part, "ok", "memfd works")


def _check_overcommit() -> Finding:
    key, part = "overcommit", "overcommit"
    try:
        policy = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    except OSError:
        return Finding(key, part, "ok", "unknown")
    if policy == _STRICT_OVERCOMMIT:
        detail = "strict (2): every byte of a shared segment counts when it is made"
        advice = "sysctl vm.overcommit_memory=0 if jobs end with 'Cannot allocate memory'"
        return Finding(key, part, "warning", detail, advice)
    return Finding(key, part, "ok", {"0": "heuristic (0)", "1": "always (1)"}.get(policy, policy))


def _check_dev_shm() -> Finding:
    """Not for hora, but for the workers of PyTorch's DataLoader and for MPI."""
    key, part = "dev_shm", "/dev/shm"
    use = "DataLoader workers and MPI need it, hora does not"
    try:
        status = os.statvfs("/dev/shm")
    except OSError as error:
        return Finding(key, part, "warning", f"{error.strerror}; {use}", "mount a tmpfs there")
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    detail = f"{_mebibytes(free)} free of {_mebibytes(total)}"
    if total <= _SMALL_SHM_BYTES:
        return Finding(key, part, "warning", f"{detail}; {use}", "docker run --shm-size=1g")
    return Finding(key, part, "ok", detail)


def _check_sockets() -> Finding:
    """Ranks of a host meet on a socket in the abstract namespace."""
    key, part = "local_sockets", "local sockets"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(f"\0hora-check-{os.getpid()}")
    except OSError as error:
        advice = "allow AF_UNIX sockets (a sandbox forbids them)"
        return Finding(key, part, "failed", f"abstract AF_UNIX: {error.strerror}", advice)
    return Finding(key, part, "ok", "abstract AF_UNIX")


def _check_open_files() -> Finding:
    """The launcher needs six descriptors per rank."""
    key, part = "nofile", "open files"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"limit {_limit(soft)}, at most {_limit(hard)}"
    if hard != resource.RLIM_INFINITY and hard < 256:
        detail += f": room for {max(0, (hard - 64) // 6)} ranks"
        return Finding(key, part, "warning", detail, "raise the hard limit (ulimit -Hn, limits.d)")
    return Finding(key, part, "ok", detail)


def _check_locked_memory() -> Finding:
    """InfiniBand's libraries, below MPI, lock the memory that they send from."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    sizes = [_limit(one) if one < 0 else _mebibytes(one) for one in (soft, hard)]
    return Finding("memlock", "locked memory", "ok", f"limit {sizes[0]}, at most {sizes[1]}")


def _cgroup_cores() -> float | None:
    """Cores' worth of time that the control group gives; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    cpu = Path("/sys/fs/cgroup/cpu")
    numbers = [_number(cpu / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    return numbers[0] / numbers[1] if numbers[0] and numbers[1] and numbers[0] > 0 else None


def _meminfo(name: str) -> int | None:
    """A line of /proc/meminfo in bytes."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _limit(value: int) -> str:
    return "none" if value == resource.RLIM_INFINITY else str(value)


def _mebibytes(count: int) -> str:
    return f"{count >> 20} MiB"
