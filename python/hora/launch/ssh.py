"""How a host's agent is started: by ssh with the user's own configuration, or directly."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import hora

# Where this hora lies there, too (a shared folder), it is the one to use; else what is installed.
# The folder is not left on the path, which it would reorder.
_ENTER = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import hora; del sys.path[0]; "
    "from hora.launch.agent import main; main()"
)

LOGIN_S = 6.0  # a cold one takes seconds; that nobody answers, ssh itself tells earlier


@dataclass(frozen=True)
class SshOptions:
    """What is added to the user's own ssh configuration.

    ``options`` are ``-o`` values; ``python`` is the other hosts' interpreter ("": the same path as
    this one); ``connect_timeout_s`` is how long a host's sshd may take to answer.
    """

    port: int | None = None
    identity_file: str | None = None
    options: tuple[str, ...] = ()
    python: str = ""
    connect_timeout_s: float = 4.0

    @property
    def hello_limit_s(self) -> float:
        """By when the agent must be there: after the login, the shell and the start of Python."""
        return self.connect_timeout_s + LOGIN_S


def agent_words(python: str = "") -> list[str]:
    """The agent's argument vector, for this host."""
    root = str(Path(hora.__file__).parents[1])
    return [python or sys.executable, "-c", _ENTER, root]


def ssh_words(host: str, ssh: SshOptions) -> list[str]:
    """The argument vector that starts the agent on ``host``; a checked host name.

    The user's options come before ours, so that they win; only asking for a password is never
    possible. ssh gives the command to the remote shell as one string: it holds nothing but the
    interpreter and the package's folder, both quoted.
    """
    patience = max(1, round(ssh.connect_timeout_s))
    words = ["ssh", "-T", "-o", "BatchMode=yes"]
    for option in ssh.options:
        words += ["-o", option]
    if ssh.port is not None:
        words += ["-p", str(ssh.port)]
    if ssh.identity_file:
        words += ["-i", ssh.identity_file]
    for option in (
        f"ConnectTimeout={patience}", "ServerAliveInterval=5", "ServerAliveCountMax=3",
        "ClearAllForwardings=yes", "ForwardX11=no",
    ):  # fmt: skip
        words += ["-o", option]
    remote = [shlex.quote(word) for word in agent_words(ssh.python)]
    return [*words, "--", host.replace("[", "").replace("]", ""), *remote]
