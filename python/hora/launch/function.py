"""``hora.run(function)``: calls a Python function on N ranks and returns their results.

The function travels by cloudpickle through files that only this user can read, in a folder that is
gone when ``run`` returns; nothing is sent over a network. The ranks are started by ``horarun`` in
a process of its own, which ends with the caller's.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hora
from hora.errors import HoraError, UsageError
from hora.launch.cli import parse

__all__ = ["RankError", "run"]

_ENDING_DEADLINE_S = 30.0
# Errors of ranks that only suffered from another one's.
_CONSEQUENCES = ("PeerFailedError", "ShutDownError")
_SIZES = ("--num-proc", "--min-num-proc", "--max-num-proc", "--hosts", "--hostfile")
# hora may be importable here only because of what this process did to sys.path.
_ENTER = "import sys; sys.path.append(sys.argv.pop(1)); from hora.launch.call import main; main()"


class RankError(HoraError):
    """A rank's function raised; the message ends with that rank's traceback.

    ``rank``; ``kind``: the class's name; ``traceback``: as text.
    """

    def __init__(self, rank: int, kind: str, message: str, traceback: str) -> None:
        super().__init__(f"rank {rank} raised {kind}: {message}\n\n{traceback}")
        self.rank = rank
        self.kind = kind
        self.traceback = traceback
        self._arguments = (rank, kind, message, traceback)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


def run(  # noqa: PLR0917 - Horovod's order
    func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    num_proc: int | None = None,
    min_num_proc: int | None = None,
    max_num_proc: int | None = None,
    slots: int | None = None,
    reset_limit: int | None = None,
    cooldown_range: Sequence[int] | None = None,
    hosts: str | None = None,
    hostfile: str | None = None,
    start_timeout: float | None = None,
    ssh_port: int | None = None,
    ssh_identity_file: str | None = None,
    disable_cache: bool | None = None,
    output_filename: str | None = None,
    verbose: bool | int | None = None,
    use_gloo: bool | None = None,
    use_mpi: bool | None = None,
    mpi_args: str | None = None,
    network_interface: str | None = None,
    executable: str | None = None,
    np: int | None = None,
    min_np: int | None = None,
    max_np: int | None = None,
    *,
    network_interfaces: str | None = None,
    host_discovery_script: str | None = None,
    horovod: bool = False,
) -> list[Any]:
    """Calls ``func(*args, **kwargs)`` on ``num_proc`` ranks (default 1); returns their results.

    ``func`` calls ``hora.torch.init()`` itself. The results are in rank order. What the ranks print
    is shown as by ``horarun``. ``np`` is another word for ``num_proc``; ``executable`` is the
    ranks' Python; ``horovod`` makes ``import horovod.torch`` mean hora there. All other arguments
    are horarun's flags of the same name, and Horovod's: those without effect say so.

    Raises RankError with the traceback of the first rank that raised; HoraError when a rank ended
    without a result; UsageError, before anything is started, for an argument that cannot work,
    also a function that cannot be pickled. Ctrl-C ends all ranks. Blocks until all have ended.
    """
    if use_gloo and use_mpi:
        raise UsageError("give either use_gloo or use_mpi, not both")
    given: dict[str, Any] = {
        "--num-proc": _either(num_proc, np),
        "--min-num-proc": _either(min_num_proc, min_np),
        "--max-num-proc": _either(max_num_proc, max_np),
        "--slots-per-host": slots,
        "--reset-limit": reset_limit,
        "--hosts": hosts,
        "--hostfile": hostfile,
        "--host-discovery-script": host_discovery_script,
        "--start-timeout": start_timeout,
        "--ssh-port": ssh_port,
        "--ssh-identity-file": ssh_identity_file,
        "--disable-cache": disable_cache,
        "--output-filename": output_filename,
        "--verbose": bool(verbose),
        "--gloo": use_gloo,
        "--mpi": use_mpi,
        "--mpi-args": mpi_args,
        "--network-interfaces": _either(network_interfaces, network_interface),
        "--horovod": horovod,
    }
    flags = [word for name, value in given.items() for word in _flag(name, value)]
    if cooldown_range is not None:
        flags += ["--blacklist-cooldown-range", *map(str, cooldown_range)]
    if all(given[name] is None for name in _SIZES):
        flags.append("--num-proc=1")
    with tempfile.TemporaryDirectory(prefix="hora-run-") as folder:
        python = executable or sys.executable
        words = [*flags, "--", python, "-c", _ENTER, _package_root(), folder]
        spec = parse(words, "hora.run")  # mistakes are the caller's exceptions
        assert spec is not None
        if spec.where is not None:
            raise UsageError("hora.run calls the function on this host only; for others: horarun")
        _write_call(Path(folder), func, args, kwargs or {})
        code = _launch(words)
        return _results(Path(folder), spec.size, code)


def _either(value: Any, other_name: Any) -> Any:
    return value if value is not None else other_name


def _flag(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    return [name] if value is True else [f"{name}={value}"]


def _write_call(
    folder: Path, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Leaves the call for the ranks, with the folders that this process imports modules from."""
    cloudpickle: Any = importlib.import_module("cloudpickle")
    try:
        call = cloudpickle.dumps((func, tuple(args), dict(kwargs)))
    except Exception as error:  # whatever an object's own __reduce__ raises
        name = getattr(func, "__qualname__", repr(func))
        raise UsageError(
            f"{name} or one of its arguments cannot be pickled ({error}): open what belongs to "
            "this process, such as a file or a lock, inside the function"
        ) from error
    (folder / "call").write_bytes(pickle.dumps((list(sys.path), call)))


def _launch(words: Sequence[str]) -> int:
    """Runs horarun to its end and returns its code; an exception here ends the ranks first."""
    # A session of its own: a terminal's Ctrl-C reaches the ranks once, through here.
    launcher = subprocess.Popen(
        [sys.executable, "-c", _ENTER, _package_root(), str(os.getpid()), *words],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return launcher.wait()
    except BaseException as error:
        signum = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        for stronger in (signum, signal.SIGTERM):
            launcher.send_signal(stronger)
            try:
                launcher.wait(_ENDING_DEADLINE_S)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                continue  # the second signal makes the launcher kill at once
        else:
            launcher.kill()
            launcher.wait(_ENDING_DEADLINE_S)
        raise


def _package_root() -> str:
    return str(Path(hora.__file__).parents[1])


def _results(folder: Path, size: int, code: int) -> list[Any]:
    """Every rank's value, or the error that explains why there is none."""
    cloudpickle: Any = importlib.import_module("cloudpickle")
    outcomes: dict[int, dict[str, Any]] = {}
    for rank in range(size):
        file = folder / f"result.{rank}"
        if file.exists():
            outcomes[rank] = pickle.loads(file.read_bytes())
    failed = [
        (outcome["kind"] in _CONSEQUENCES, outcome["time"], rank)
        for rank, outcome in outcomes.items()
        if "kind" in outcome
    ]
    if failed:
        rank = min(failed)[2]
        outcome = outcomes[rank]
        raise RankError(rank, outcome["kind"], outcome["message"], outcome["traceback"])
    missing = [rank for rank in range(size) if rank not in outcomes]
    if missing:
        ranks = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        why = "the lines above say why" if code else "did the function call sys.exit?"
        raise HoraError(f"{ranks} ended without a result; horarun's exit code is {code}: {why}")
    if code:
        raise HoraError(f"the job failed after every rank had its result: exit code {code}")
    return [cloudpickle.loads(outcomes[rank]["value"]) for rank in range(size)]
