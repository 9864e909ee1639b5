"""``--config-file``: a YAML file in horovodrun's sections, or with the flags' own names.

    params: {fusion_threshold_mb: 64, cache_capacity: 2048}
    timeline: {filename: trace.json}
    start-timeout: 120

Everything becomes a flag, so that a value is checked in one place and its error is the flag's,
with the file and the line in front.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hora.errors import UsageError
from hora.launch.spelling import did_you_mean

_PARAMS = (
    "fusion_threshold_mb", "cycle_time_ms", "cache_capacity", "hierarchical_allreduce",
    "hierarchical_allgather", "torus_allreduce",
)  # fmt: skip
_AUTOTUNE = (
    "enabled", "log_file", "warmup_samples", "steps_per_sample", "bayes_opt_max_samples",
    "gaussian_process_noise",
)  # fmt: skip
_LIBRARY = ("mpi_threads_disable", "num_nccl_streams", "thread_affinity", "gloo_timeout_seconds")
# Section → (what its keys' flags start with, its keys).
_SECTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "params": ("--", _PARAMS),
    "autotune": ("--autotune-", _AUTOTUNE),
    "timeline": ("--timeline-", ("filename", "mark_cycles")),
    "stall_check": (
        "--stall-check-",
        ("enabled", "warning_time_seconds", "shutdown_time_seconds"),
    ),
    "library_options": ("--", _LIBRARY),
    "logging": ("--log-", ("level", "with_timestamp", "hide_timestamp")),
}
_CONTROLLERS = ("gloo", "mpi", "jsrun")
_OPPOSITES = {"--log-with-timestamp": "--log-without-timestamp"}
# Values with commas between them, which may be written as a list.
_COMMAS = ("--hosts", "--network-interfaces", "--network-interface")
_BOOL = "tag:yaml.org,2002:bool"
_NULL = "tag:yaml.org,2002:null"


class _Mistake(Exception):
    """What is wrong at a place in the file."""

    def __init__(self, node: Any, message: str) -> None:
        super().__init__(message)
        self.line = node.start_mark.line + 1


def config_words(
    path: str, options: Mapping[str, int], check: Callable[[list[str]], object]
) -> list[str]:
    """Returns the file as command-line words.

    ``options`` holds every spelling and its number of values; ``check`` parses one flag's words and
    raises UsageError. Raises UsageError naming the file and the line.
    """
    yaml: Any = importlib.import_module("yaml")
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"--config-file {path}: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise UsageError(f"{where}: not YAML: {getattr(error, 'problem', error)}") from None
    words: list[str] = []
    try:
        for flag, key, value in _flags(root, options):
            flag_words = _with_value(flag, value, options)
            try:
                check(flag_words)
            except UsageError as error:
                raise _Mistake(key, str(error)) from None
            words += flag_words
    except _Mistake as mistake:
        raise UsageError(f"{path}:{mistake.line}: {mistake}") from None
    return words


def _flags(root: Any, options: Mapping[str, int]) -> Iterator[tuple[str, Any, Any]]:
    """Every setting as (flag, key node, value node)."""
    for key, value in _pairs(root):
        name = _text(key)
        if name in _SECTIONS and (_is_empty(value) or type(value).__name__ == "MappingNode"):
            yield from _section(name, value)
        elif name in _SECTIONS and f"--{name}" not in options:
            keys = ", ".join(_SECTIONS[name][1])
            raise _Mistake(key, f"{name} is a section with the keys {keys}")
        elif name == "controller":
            kind = _text(value).lower()
            if kind not in _CONTROLLERS:
                kinds = ", ".join(_CONTROLLERS)
                raise _Mistake(key, f"controller: {kind!r} is not one of {kinds}")
            yield f"--{kind}", key, None
        else:
            bare = name.replace("_", "-")
            flag = next((f for f in (f"--{bare}", f"-{bare}") if f in options), None)
            if flag == "--config-file":
                raise _Mistake(key, "a configuration file cannot name another one")
            if flag is None:
                known = [*_SECTIONS, "controller", *(option.lstrip("-") for option in options)]
                raise _Mistake(key, f"unknown key {name}{did_you_mean(name, known)}")
            if not _is_empty(value):
                yield flag, key, value


def _section(section: str, node: Any) -> Iterator[tuple[str, Any, Any]]:
    prefix, keys = _SECTIONS[section]
    for key, value in _pairs(node):
        name = _text(key)
        if name not in keys:
            hint = did_you_mean(name, keys) or f" (it has {', '.join(keys)})"
            raise _Mistake(key, f"{section} has no key {name}{hint}")
        name = name.replace("_", "-")
        if not _is_empty(value):
            yield (prefix[:-1] if name == "enabled" else prefix + name), key, value


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    if node is None or _is_empty(node):
        return []
    if type(node).__name__ != "MappingNode":
        raise _Mistake(node, "expected lines of the form 'key: value'")
    seen: set[str] = set()
    for key, _ in node.value:
        name = _text(key)
        if name in seen:
            raise _Mistake(key, f"{name} is there twice")
        seen.add(name)
    return list(node.value)


def _is_empty(node: Any) -> bool:
    return bool(node.tag == _NULL)


def _with_value(flag: str, value: Any, options: Mapping[str, int]) -> list[str]:
    """The words that give ``flag`` the value: text as it is written in the file."""
    if value is None:
        return [flag]
    if options[flag] == 0:
        if value.tag != _BOOL:
            raise _Mistake(value, f"{flag[2:]}: {_text(value)!r} is not true or false")
        if value.value.lower() in ("true", "yes", "on"):
            return [flag]
        opposite = _OPPOSITES.get(flag, f"--no-{flag[2:]}")
        return [opposite] if opposite in options else []
    if type(value).__name__ == "SequenceNode":
        texts = [_text(item) for item in value.value]
        if flag in _COMMAS:
            return [f"{flag}={','.join(texts)}"]
        return [flag, *texts] if options[flag] > 1 else [f"{flag}={text}" for text in texts]
    return [f"{flag}={_text(value)}"]


def _text(node: Any) -> str:
    if not isinstance(node.value, str):
        raise _Mistake(node, "expected a single value")
    return node.value
