"""Starts the launcher as a user would, and ends it whatever the test does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import hora
import pytest
from fake_ssh import FakeSsh
from launched import DEADLINE_S, Launch, default_signals, environment


@pytest.fixture
def start() -> Iterator[Callable[..., Launch]]:
    """Starts the launcher in the background; it is killed at the end of the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*words: str, env: dict[str, str] | None = None, **options) -> Launch:
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(
            [sys.executable, "-m", "hora.launch", *words],
            env=environment(**(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            preexec_fn=default_signals,  # noqa: PLW1509
            **options,
        )
        running.append(process)
        return Launch(process)

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait(DEADLINE_S)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture
def launch(start):
    """Runs the launcher to its end: (exit code, stdout lines, stderr)."""

    def launch(*words: str, **options) -> tuple[int, list[str], str]:
        job = start(*words, **options)
        code, err = job.end()
        return code, job.lines, err

    return launch


@pytest.fixture
def ssh(tmp_path_factory, monkeypatch) -> FakeSsh:
    """A fake ssh in the place of the real one."""
    fake = FakeSsh(tmp_path_factory.mktemp("ssh"), hora.__version__)
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake
