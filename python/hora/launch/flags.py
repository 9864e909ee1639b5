"""Horovod's flags in terms of ours: which variable each one sets, and which do nothing here.

Together with ``config_file`` this is all the launcher knows of horovodrun. A flag's destination in
the namespace is the variable it sets, so that collecting the settings needs no second table.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hora.errors import UsageError
from hora.settings import (
    LONGEST_ABORT_S,
    LONGEST_WARNING_S,
    NEVER_STALLED,
    Reader,
    log_level,
    number,
    one_of,
    output_file,
    seconds,
    seconds_or_never,
    stall_abort,
    stall_warning,
    whole,
)


@dataclass(frozen=True)
class Setting:
    """Flags whose value becomes the value of ``variable``."""

    flags: tuple[str, ...]
    variable: str
    read: Reader
    help: str
    metavar: str = "N"


@dataclass(frozen=True)
class Switch:
    """Flags that turn ``variable`` on and off."""

    on: str
    off: str
    variable: str
    help: str


@dataclass(frozen=True)
class Unused:
    """Flags that choose between things hora has only one of; ``values`` are checked all the same.

    ``because`` completes "… has no effect: ".
    """

    flags: tuple[str, ...]
    because: str
    values: Sequence[Reader] = field(default_factory=tuple)


BACKENDS = ("tcp", "gloo", "mpi", "flat-tcp", "flat-gloo", "flat-mpi")
TIMES = (
    Setting(("--start-timeout",), "HORA_START_TIMEOUT_SECONDS", seconds(86400),
            "give up when the ranks do not all meet", "S"),
    Setting(("--stall-warning",), "HORA_STALL_WARNING_SECONDS", seconds_or_never(LONGEST_WARNING_S),
            "warn of a tensor some rank never submits; 0: never", "S"),
    Setting(("--stall-abort",), "HORA_STALL_ABORT_SECONDS", seconds_or_never(LONGEST_ABORT_S),
            "give up on such a tensor; 0: never", "S"),
)  # fmt: skip
ENGINE = (
    Setting(("--backend",), "HORA_BACKEND", one_of(*BACKENDS),
            "what moves data between hosts, with shared memory inside each: tcp (default), gloo, "
            "mpi; flat-tcp, flat-gloo, flat-mpi: between all ranks", "B"),
    Setting(("--data-plane",), "HORA_DATA_PLANE", one_of("tls", "auth"),
            "how data are protected between hosts: tls (default), or auth: authenticated, then "
            "plain with checksums", "P"),
    Setting(("--control-plane",), "HORA_CONTROL_PLANE", one_of("tls", "mac"),
            "the same for agreements: tls (default), or mac: authentic, but readable", "P"),
    Setting(("--heartbeat",), "HORA_HEARTBEAT_SECONDS", seconds(3600, low=0.2),
            "a host silent for so long is dead (default 3), a launcher after ten times that", "S"),
)  # fmt: skip
GPUS = (
    Setting(("--gpus-per-rank",), "HORA_GPUS_PER_RANK", whole(1, 64),
            "each rank sees N GPUs of its own alone, its cuda:0 and up, of those that "
            "CUDA_VISIBLE_DEVICES lists, or of all; by default all ranks see the same"),
    Setting(("--gpu-backend",), "HORA_GPU_BACKEND", one_of("auto", "nccl", "staged"),
            "what moves GPU tensors: nccl; staged: through the host's memory; auto (default)", "B"),
)  # fmt: skip
DIAGNOSIS = (
    Setting(("--log-level",), "HORA_LOG_LEVEL", log_level,
            "trace, debug, info, warning, error, off", "LEVEL"),
)  # fmt: skip

_MILLION = 1_000_000
HOROVODS = (
    Setting(("--fusion-threshold-mb",), "HORA_FUSION_THRESHOLD_BYTES", whole(0, 1 << 20, 1 << 20),
            "most MiB to reduce together; 0: each tensor alone"),
    Setting(("--cache-capacity",), "HORA_CACHE_CAPACITY", whole(0, 1 << 20),
            "tensors that are agreed on by one bit; 0: none"),
    Setting(("--autotune-log-file",), "HORA_AUTOTUNE_LOG", output_file,
            "write every trial to this file", "F"),
    Setting(("--autotune-warmup-samples",), "HORA_AUTOTUNE_WARMUP_SAMPLES", whole(0, _MILLION),
            "trials to throw away first"),
    Setting(("--autotune-steps-per-sample",), "HORA_AUTOTUNE_STEPS_PER_SAMPLE", whole(1, _MILLION),
            "steps per trial"),
    Setting(("--autotune-bayes-opt-max-samples",), "HORA_AUTOTUNE_MAX_SAMPLES", whole(1, _MILLION),
            "trials before the best is kept"),
    Setting(("--timeline-filename",), "HORA_TIMELINE", output_file,
            "write a trace from the start: rank 0 to F, rank 1 to F with .rank1, …", "F"),
    Setting(("--stall-check-warning-time-seconds",), "HORA_STALL_WARNING_SECONDS", stall_warning,
            "the same as --stall-warning", "S"),
    Setting(("--stall-check-shutdown-time-seconds",), "HORA_STALL_ABORT_SECONDS", stall_abort,
            "the same as --stall-abort; 0: never", "S"),
)  # fmt: skip
SWITCHES = (
    Switch("--autotune", "--no-autotune", "HORA_AUTOTUNE", "search for the fastest settings"),
    Switch("--timeline-mark-cycles", "--no-timeline-mark-cycles", "HORA_TIMELINE_MARK_CYCLES",
           "mark every batch in the trace"),
)  # fmt: skip


def _any_word(word: str) -> str:
    return word


_COUNT = whole(0, 1 << 31)
_NO_MPI = "hora does not use MPI"
_NO_GLOO = "hora has its own control plane instead of Gloo"
_OWN_CHOICE = "the engine chooses the algorithm for each tensor itself"
_FIXED = "the ranks of this job never change"
UNUSED = (
    Unused(("--cycle-time-ms",), "the engine acts when tensors are ready, not in cycles",
           (number(0, 1e9),)),
    Unused(("--hierarchical-allreduce", "--no-hierarchical-allreduce"), _OWN_CHOICE),
    Unused(("--hierarchical-allgather", "--no-hierarchical-allgather"), _OWN_CHOICE),
    Unused(("--torus-allreduce", "--no-torus-allreduce"), _OWN_CHOICE),
    Unused(("--autotune-gaussian-process-noise",), "the autotuner has no Gaussian process",
           (number(0, 1),)),
    Unused(("--disable-cache",), "nothing about hosts is remembered between jobs"),
    Unused(("--tcp",), "between hosts everything goes over TCP"),
    Unused(("--jsrun",), "there is no jsrun; see --mpi and --slurm"),
    Unused(("--mpi-threads-disable", "--no-mpi-threads-disable"), _NO_MPI),
    Unused(("--binding-args",), _NO_MPI, (_any_word,)),
    Unused(("--gloo",), _NO_GLOO),
    Unused(("--gloo-timeout-seconds",), f"{_NO_GLOO}; see --stall-abort", (_COUNT,)),
    Unused(("--num-nccl-streams",), "GPU operations of a process set keep one order on one stream",
           (_COUNT,)),
    Unused(("--thread-affinity",), "the engine's threads run where the rank runs (see taskset)",
           (_any_word,)),
    Unused(("--elastic-timeout",), _FIXED, (_COUNT,)),
    Unused(("--reset-limit",), _FIXED, (_COUNT,)),
    Unused(("--blacklist-cooldown-range",), _FIXED, (_COUNT, _COUNT)),
    Unused(("--log-with-timestamp", "--no-log-hide-timestamp"),
           "the engine's log has no time; --prefix-timestamp gives one to every line"),
)  # fmt: skip
# What these ask for is always so.
_SILENT = ("--log-without-timestamp", "--log-hide-timestamp")
_ELASTIC_ONLY = ("--host-discovery-script", "--slots-per-host")


def typed(read: Reader) -> Any:
    """A reader as argparse wants it: its message is shown after the name of the flag."""

    def convert(word: str) -> str:
        try:
            return read(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def add_settings(group: argparse._ArgumentGroup, settings: Sequence[Setting]) -> None:
    """Adds flags that set variables."""
    for setting in settings:
        group.add_argument(
            *setting.flags, dest=setting.variable, type=typed(setting.read),
            metavar=setting.metavar, help=f"{setting.help} (sets {setting.variable})",
        )  # fmt: skip


def add_horovods_flags(parser: argparse.ArgumentParser) -> None:
    """Adds every flag of horovodrun that is not one of ours anyway."""
    group = parser.add_argument_group("Horovod's options")
    for name, flags in (("min_size", ("--min-np", "--min-num-proc")),
                        ("max_size", ("--max-np", "--max-num-proc"))):  # fmt: skip
        group.add_argument(
            *flags, dest=name, type=typed(whole(1, 1 << 20)), metavar="N", help="must equal -np"
        )
    add_settings(group, HOROVODS)
    for switch in SWITCHES:
        text = f"{switch.help} (sets {switch.variable})"
        group.add_argument(switch.on, dest=switch.variable, action="store_const", const="1",
                           help=text)  # fmt: skip
        group.add_argument(switch.off, dest=switch.variable, action="store_const", const="0",
                           help=argparse.SUPPRESS)  # fmt: skip
    group.add_argument(
        "--no-stall-check", dest="stall_check", action="store_false", default=True,
        help="never warn of a stalled tensor, never give up",
    )  # fmt: skip
    group.add_argument(
        "--stall-check", dest="stall_check", action="store_true", help=argparse.SUPPRESS
    )
    for flag in _SILENT:
        group.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag in _ELASTIC_ONLY:
        group.add_argument(flag, action=_ElasticOnly, help=argparse.SUPPRESS)
    for unused in UNUSED:
        group.add_argument(
            *unused.flags, dest="unused", action=_NoteUnused, unused=unused,
            help=argparse.SUPPRESS,
        )  # fmt: skip
    shown = ", ".join(unused.flags[0] for unused in UNUSED)
    group.description = textwrap.fill(f"Accepted without effect: {shown}.", break_on_hyphens=False)


def settings_of(given: argparse.Namespace) -> dict[str, str]:
    """The variables that the flags stand for."""
    settings = {
        name: value
        for name, value in vars(given).items()
        if name.startswith("HORA_") and value is not None
    }
    return settings if given.stall_check else settings | NEVER_STALLED


def notes_on(given: argparse.Namespace) -> list[str]:
    """One line for each reason why flags have no effect."""
    by_reason: dict[str, list[str]] = {}
    for flag, because in dict(given.unused or ()).items():
        by_reason.setdefault(because, []).append(flag)
    return [
        f"{', '.join(flags)} {'has' if len(flags) == 1 else 'have'} no effect: {because}"
        for because, flags in by_reason.items()
    ]


class _NoteUnused(argparse.Action):
    """Checks the values, and remembers the flag and why it does nothing."""

    def __init__(self, *, unused: Unused, **kwargs: Any) -> None:
        super().__init__(nargs=len(unused.values), **kwargs)
        self._unused = unused

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for read, word in zip(self._unused.values, values, strict=True):
            try:
                read(word)
            except ValueError as error:
                raise UsageError(f"argument {option_string}: {error}") from None
        noted = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*noted, (option_string, self._unused.because)])


class _ElasticOnly(argparse.Action):
    """Refuses what only a job with a changing number of ranks can do."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        raise UsageError(f"{option_string}: {NO_ELASTIC}")


NO_ELASTIC = "elastic training is not there yet; the ranks of a job cannot change (give -np N)"
