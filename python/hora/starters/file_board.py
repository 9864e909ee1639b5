"""Files in which the ranks of one job, started by a scheduler, leave words for each other.

They lie in a folder that only its owner can enter and that all hosts share, and are there from the
start of a job until all of its ranks have met.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from hora.errors import HoraError, UsageError
from hora.starters.board import HostEntry, ToldError

FOLDER = "HORA_RENDEZVOUS_DIR"
_POLL_S = 0.02
_LONGEST_POLL_S = 0.25
_SILENT_S = 3.0
_LIMIT_BYTES = 1 << 20
# A note outlives the process that wrote it, so that ranks which start later see it.
_NOTE_LIFE_S = 60.0
# Ranks of one job start at about the same time.
_APART_S = 1.0
_T = TypeVar("_T")


class FileBoard:
    """A ``Board`` in files named after the job; what this process wrote goes at ``clear`` or exit.

    One thread, but for ``problem`` and ``clear``. Every wait ends ``timeout`` seconds after the
    board was made, or with ToldError when somebody leaves a problem, here or ``elsewhere``. Raises
    UsageError for a folder or a file that others could have written, HoraError when nobody comes.
    """

    def __init__(
        self,
        job: str,
        environ: Mapping[str, str],
        timeout: float,
        elsewhere: Callable[[], str] = str,
    ) -> None:
        self._folder = _open_folder(environ)
        self._job = job
        self._elsewhere = elsewhere
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._written: list[Path] = []
        self._owner = os.getpid()
        atexit.register(self.clear)
        self._drop_old_notes()

    def clear(self) -> None:
        """Removes what this process wrote; nothing in a forked child."""
        if os.getpid() == self._owner:
            for path in self._written:
                path.unlink(missing_ok=True)
            self._written.clear()
        atexit.unregister(self.clear)

    def add_host(self, entry: HostEntry) -> None:
        """One file for each host."""
        self._write_until_end(self._path(f"host-{entry.rank}"), asdict(entry))

    def hosts(self, size: int) -> list[HostEntry]:
        """Waits until the hosts are complete."""
        found: dict[int, HostEntry] = {}

        def look() -> list[HostEntry] | None:
            for path in self._folder.glob(f"{self._job}.host-*"):
                fields = self._read(path)
                if fields is not None:
                    entry = HostEntry(fields["rank"], fields["size"], fields["name"])
                    found[entry.rank] = entry
            complete = sum(host.size for host in found.values()) >= size
            return list(found.values()) if complete else None

        def have() -> str:
            names = ", ".join(f"{host.name} with {host.size} ranks" for host in found.values())
            return f"of {size} ranks there are only {names or 'none'}"

        return self._wait(look, have)

    def first_words(self, words: str) -> str:
        """What the first living process said by this call: ``words``, if that is this one."""
        path = self._path("first")
        for _ in range(2):  # two may find nothing, but only one is the first to write
            if (found := self._read(path)) is not None:
                return str(found["words"])
            with contextlib.suppress(UsageError):
                self._write_until_end(path, {"words": words})
                break
        return words

    def publish(self, words: str) -> None:
        """Never waits."""
        self._write_until_end(self._path("meet"), {"words": words})

    def read(self) -> str:
        """Waits for rank 0's file."""
        path = self._path("meet")

        def look() -> str | None:
            os.listdir(self._folder)  # else NFS answers for half a minute from what it once saw
            fields = self._read(path)
            return None if fields is None else str(fields["words"])

        return self._wait(look, lambda: f"rank 0 has not written {path}")

    def leave_problem(self, text: str) -> None:
        """A file that counts for a minute, and on this machine not for those who start later."""
        path = self._path(f"problem-{secrets.token_hex(8)}")
        self._write(path, {"words": text, "at": time.clock_gettime(time.CLOCK_BOOTTIME)})

    def problem(self) -> str:
        """The words of any of the files; "" without one. Never waits; any thread."""
        for path in self._folder.glob(f"{self._job}.problem-*"):
            fields = self._read(path, even_of_dead=True)
            if fields is not None and not _is_of_earlier_start(fields):
                return str(fields["words"])
        if problem := self._elsewhere():
            self.leave_problem(problem)
        return problem

    def _drop_old_notes(self) -> None:
        """Of all jobs: nobody else removes them. The folder may be on a host with another clock."""
        for path in self._folder.glob("siblings-*.first"):  # of ranks that were killed
            with contextlib.suppress(UsageError, OSError):
                if self._read(path) is None:
                    path.unlink()
        notes = list(self._folder.glob("*.problem-*"))
        if not notes:
            return
        probe = self._folder / f"new-{secrets.token_hex(8)}.now"
        with contextlib.suppress(OSError):
            probe.touch(0o600, exist_ok=False)
            now = probe.lstat().st_mtime
            probe.unlink()
            for note in notes:
                if now - note.lstat().st_mtime > _NOTE_LIFE_S:
                    note.unlink()

    def _path(self, what: str) -> Path:
        return self._folder / f"{self._job}.{what}"

    def _wait(self, look: Callable[[], _T | None], have: Callable[[], str]) -> _T:
        pause_s = _POLL_S
        is_told = False
        while (found := look()) is None:
            if problem := self.problem():
                raise ToldError(problem)
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise HoraError(
                    f"the ranks did not meet within {self._timeout:g} s: {have()}. All hosts must "
                    f"share the folder {self._folder}; {FOLDER} names another one"
                )
            if self._timeout - left_s > _SILENT_S and not is_told:
                is_told = True
                words = f"hora: still waiting: {have()}; gives up in {left_s:.0f} s"
                print(words, file=sys.stderr, flush=True)
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)
        return found

    def _write_until_end(self, path: Path, fields: Mapping[str, Any]) -> None:
        """``clear`` removes it."""
        self._write(path, fields)
        self._written.append(path)

    def _write(self, path: Path, fields: Mapping[str, Any]) -> None:
        """The whole file or none; takes the place of one that a dead process left."""
        # Named so that whoever looks for finished files does not find it.
        new = path.with_name(f"new-{secrets.token_hex(8)}.{path.name}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(new, flags, 0o600), "w") as file:
                json.dump({"writer": _this_process(), **fields}, file)
            try:
                os.link(new, path, follow_symlinks=False)  # unlike rename, fails where one is
            except FileExistsError:
                found = self._read(path)
                if found is not None and found["writer"][0] == this_machine():
                    raise UsageError(
                        f"{path} belongs to a job that is starting: two jobs have the same id; "
                        "set HORA_JOB_ID differently for each"
                    ) from None
                os.replace(new, path)
        except OSError as error:
            raise UsageError(
                f"{error.filename}: {error.strerror}; {FOLDER} names another folder"
            ) from (error)
        finally:
            new.unlink(missing_ok=True)

    def _read(self, path: Path, even_of_dead: bool = False) -> dict[str, Any] | None:
        """What a process that still lives wrote; None when there is nothing of the kind."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            _check_owner(path, os.fstat(descriptor), stat.S_ISREG)
            content = file.read(_LIMIT_BYTES)
        try:
            fields = json.loads(content)
            is_void = _is_dead(fields["writer"]) and not even_of_dead
            return None if is_void else dict(fields)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(f"{path} is not a file of this version of hora; remove it") from None


def _open_folder(environ: Mapping[str, str]) -> Path:
    given = environ.get(FOLDER)
    home = environ.get("HOME") or os.path.expanduser("~")
    folder = Path(given) if given else Path(home) / ".cache" / "hora" / "jobs"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _check_owner(folder, folder.lstat(), stat.S_ISDIR)
    except UsageError as error:
        raise UsageError(f"{error}; {FOLDER} names another folder") from None
    except OSError as error:
        raise UsageError(
            f"{folder}: {error.strerror}; the ranks meet in a folder there that all hosts share: "
            f"{FOLDER} names another one"
        ) from error
    return folder


def _check_owner(path: Path, status: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(status.st_mode):
        raise UsageError(f"{path} is not a {'folder' if is_kind is stat.S_ISDIR else 'file'}")
    if status.st_uid != os.geteuid():
        raise UsageError(f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()})")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        advice = "" if mode & stat.S_ISVTX else f" (chmod go= {path})"
        raise UsageError(f"{path} has mode {mode:04o}: others can reach it{advice}")


def _this_process() -> list[Any]:
    """Boot and process namespace, which make the rest comparable; process id and start time."""
    pid = os.getpid()
    return [this_machine(), pid, when_started(pid)]


def this_machine() -> str:
    """Of which process ids are comparable: boot and process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def when_started(pid: int) -> int:
    """When the process began, in ticks since boot; -1 when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    return int(text.rpartition(")")[2].split()[19])


def _is_of_earlier_start(note: Mapping[str, Any]) -> bool:
    """Whether it was left on this machine before this process began: by a job that has ended."""
    began = when_started(os.getpid()) / os.sysconf("SC_CLK_TCK")
    return bool(note["writer"][0] == this_machine() and note.get("at", 0) < began - _APART_S)


def _is_dead(writer: list[Any]) -> bool:
    """Whether a process of this machine wrote it and is gone; of others nobody can say."""
    machine, pid, started = writer
    return bool(machine == this_machine() and when_started(int(pid)) != started)
