"""What each rank learns about itself, and that the job key is nowhere else."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from launched import launcher_processes

REPORT = """
import json, os, stat
fd = int(os.environ["HORA_BOOTSTRAP_FD"])
told = json.loads(open(fd, "rb").read())
listener = told["listen_fd"]
told["is_socket"] = listener is not None and stat.S_ISSOCK(os.fstat(listener).st_mode)
told["env"] = {k: os.environ.get(k) for k in (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
    "MASTER_PORT", "OMP_NUM_THREADS", "TORCHELASTIC_USE_AGENT_STORE")}
print("told", json.dumps(told))
"""


def ask(launch, size: int, **options) -> list[dict]:
    code, out, err = launch("-np", str(size), sys.executable, "-c", REPORT, **options)
    assert code == 0, err
    told = [json.loads(line.split("told ", 1)[1]) for line in out]
    return sorted(told, key=lambda fields: fields["rank"])


def test_documents_of_three_ranks(launch):
    told = ask(launch, 3)
    first = told[0]
    for rank, fields in enumerate(told):
        assert fields["version"] == 2
        assert (fields["rank"], fields["size"]) == (rank, 3)
        assert (fields["local_rank"], fields["local_size"]) == (rank, 3)
        assert (fields["cross_rank"], fields["cross_size"]) == (0, 1)
        assert (fields["store"], fields["interfaces"]) == ("", [])
        assert all(fields[name] == first[name] for name in ("job_id", "key", "rendezvous"))
        assert fields["is_socket"] == (rank == 0)
        assert (fields["listen_fd"] is None) == (rank > 0)
    assert re.fullmatch(r"[0-9a-f]{16}", first["job_id"])
    assert re.fullmatch(r"[0-9a-f]{64}", first["key"])
    assert re.fullmatch(r"hora-[0-9a-f]{32}", first["rendezvous"])


def test_torchrun_variables(launch):
    # What an outer launcher said is not repeated to our ranks.
    told = ask(launch, 2, env={"TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": "9"})
    for rank, fields in enumerate(told):
        env = fields["env"]
        assert (env["RANK"], env["LOCAL_RANK"]) == (str(rank), str(rank))
        assert (env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"], env["GROUP_RANK"]) == ("2", "2", "0")
        assert env["MASTER_ADDR"] == "127.0.0.1"
        assert 1024 <= int(env["MASTER_PORT"]) <= 65535
        assert env["TORCHELASTIC_USE_AGENT_STORE"] is None
        cores = len(os.sched_getaffinity(0))
        assert env["OMP_NUM_THREADS"] == str(max(1, cores // 2))


def test_omp_num_threads_of_the_user_wins(launch):
    (told,) = ask(launch, 1, env={"OMP_NUM_THREADS": "7"})
    assert told["env"]["OMP_NUM_THREADS"] == "7"


def test_rank_0_can_listen_on_the_reserved_port(launch):
    code = """
import os, socket
if os.environ["RANK"] == "0":
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))
        server.listen()
"""
    assert launch("-np", "2", sys.executable, "-c", code) == (0, [], "")


def test_the_key_is_in_no_command_line_environment_or_output(start):
    code = f"{REPORT}\nimport signal; signal.pause()"
    job = start("-np", "2", "--verbose", sys.executable, "-c", code)
    told = [json.loads(text) for text in job.wait_for(2, "told ")]
    key = told[0]["key"]
    encodings = (key.encode(), bytes.fromhex(key))
    scanned = 0
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                content = (process / name).read_bytes()
            except OSError:
                continue
            scanned += 1
            assert not any(encoding in content for encoding in encodings), process
    assert scanned > 4
    assert len(launcher_processes(job.process.pid)) == 2
    job.process.terminate()
    assert key not in job.end()[1]


def test_the_launcher_lets_go_of_the_listening_socket(start):
    code = "import os, signal; print('pid', os.getpid()); signal.pause()"
    job = start("-np", "2", sys.executable, "-c", code)
    pids = job.rank_pids(2)
    (listening,) = sockets(pids[0])
    assert sockets(pids[1]) == set()
    assert listening not in sockets(launcher_processes(job.process.pid)[1])
    job.process.terminate()
    job.end()


def sockets(pid: int) -> set[str]:
    """The sockets a process holds, as /proc names them."""
    links = (os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    return {link for link in links if link.startswith("socket:")}
