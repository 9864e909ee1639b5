"""An ssh that runs the command on this machine, or fails, as the host's name says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Like sshd: a bare environment, and the command as one string for the login shell.
_PROGRAM = """#!{python}
import json, os, subprocess, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps(words), file=log)
after = words.index("--")
host, command = words[after + 1], " ".join(words[after + 2:])
says = {{
    "refused": "ssh: connect to host refused port 22: Connection refused",
    "denied": "me@denied: Permission denied (publickey).",
    "keyless": "Warning: Identity file k not accessible: No such file or directory.\\n"
               "me@keyless: Permission denied (publickey).",
    "unknown": "ssh: Could not resolve hostname unknown: Name or service not known",
    "changed": "Host key verification failed.",
}}
if host in says:
    sys.exit(print(says[host], file=sys.stderr) or 255)
if host == "hangs":  # its sshd: this ssh keeps to its limit
    import time
    (limit,) = [word[15:] for word in words if word.startswith("ConnectTimeout=")]
    time.sleep(int(limit))
    print("Connection timed out during banner exchange", file=sys.stderr)
    sys.exit(255)
if host == "dozes":  # its shell
    os.execvp("sleep", ["sleep", "1000"])
hello = {{"kind": "hello", "hora": {version!r}, "python": "python", "address": "127.0.0.1"}}
if host == "old":
    print(json.dumps(hello | {{"hora": "0.0.1"}}), flush=True)
    sys.stdin.read()
if host == "garbles":
    print(json.dumps(hello), flush=True)
    print("Segmentation fault", flush=True)
    sys.stdin.read()
if host == "nonsense":
    print(json.dumps(hello), flush=True)
    print('{{"kind": "out", "rank": 77, "fd": "x", "data": 3}}', flush=True)
    sys.stdin.read()
if host == "endless":
    print("x" * 100_000, flush=True)
    sys.stdin.read()
if host == "noisy":
    print("Welcome!\\n{{}}\\n", flush=True)
if host == "halfway":
    print(json.dumps(hello), flush=True)
    sys.stdin.readline()
    print("Connection to halfway closed by remote host.", file=sys.stderr)
    sys.exit(255)
# All names are this machine; the launcher is to take them for different hosts.
ours = 'import hora.launch.agent as agent; agent.host_identity = lambda: "{{}}"; agent.main()'
if host != "again":
    command = command.replace("from hora.launch.agent import main; main()", ours.format(host))
bare = {{"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin",
        "SSH_CONNECTION": "127.0.0.1 1 127.0.0.1 22"}}
sys.exit(subprocess.call(["sh", "-c", command], env=bare))
"""


class FakeSsh:
    """Lies in ``folder``, which comes first on PATH."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = folder
        self._log = folder / "log"
        program = folder / "ssh"
        text = _PROGRAM.format(python=sys.executable, log=str(self._log), version=version)
        program.write_text(text)
        program.chmod(0o755)

    def calls(self) -> list[list[str]]:
        """The argument vectors so far."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines()]
