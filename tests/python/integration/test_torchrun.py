"""Ranks that torchrun starts, on this host and on two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from bare import BARE
from hosts import Hosts, why_impossible
from ranks import check_ranks, rank_words

pytest.importorskip("torch")
pytest.importorskip("hora._core")

DEADLINE_S = 100
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--no-python")


def test_ranks_of_torchrun_meet(tmp_path):
    words = [*TORCHRUN, "--standalone", "--nproc-per-node", "4", *rank_words(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_ranks(tmp_path, [4], "torchrun")


_GROUP = f"""
import os
{BARE}
group, rank = divmod(int(os.environ["RANK"]), 2)
for name in ("RANK", "LOCAL_RANK"):
    os.environ[name] = str(rank)
for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
    os.environ[name] = "2"
os.environ["MASTER_PORT"] = os.environ["PORTS"].split()[group]
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
hvd.init()
os.write(1, f"group {{group}}: {{hvd.rank()}} of {{hvd.size()}}\\n".encode())  # at once
"""


def test_groups_of_ranks_that_are_jobs_of_their_own(two):
    words = [*TORCHRUN, "--standalone", "--nproc-per-node", "4", sys.executable, "-c", _GROUP]
    env = {"OMP_NUM_THREADS": "1", "PORTS": "29502 29503"}  # nobody else's: a network of its own
    code, out, err = two.run("h1", words, DEADLINE_S, env)
    assert code == 0, err
    expected = [f"group {group}: {rank} of 2" for group in range(2) for rank in range(2)]
    assert sorted(out.splitlines()) == expected


_TWICE = """
import sys, uuid
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
for place in ("soon", ""):
    job = {"run_id": uuid.uuid4().hex, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    job = LaunchConfig(1, 1, 2, max_restarts=0, **job)
    try:
        elastic_launch(job, sys.executable)("-c", sys.argv[1], place)
    except Exception as error:
        print(type(error).__name__)
"""
_OF_TWO = f"""
import os, sys
{BARE}
os.environ["LOCAL_RANK"] = sys.argv[1] or os.environ["LOCAL_RANK"]
hvd.init()
os.write(1, f"{{hvd.rank()}} of {{hvd.size()}}\\n".encode())  # at once
"""


def test_a_second_job_of_the_same_process():
    """It does not hear why the first one, which this process started as well, could not be."""
    words = [sys.executable, "-c", _TWICE, _OF_TWO]
    done = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    out = sorted(done.stdout.splitlines())
    assert out == ["0 of 2", "1 of 2", "ChildFailedError"], done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if why_impossible():
        pytest.skip(why_impossible())
    with Hosts(2, tmp_path_factory.mktemp("two")) as hosts:
        yield hosts


def run_on(two: Hosts, program: list[str], env: dict[str, str]) -> None:
    """Two torchruns of two ranks each; both must end well."""
    common = (*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "2", "--master-port", "29500")
    common = (*common, "--master-addr", two.address("h1"), "--node-rank")
    second = two.start("h2", [*common, "1", *program], env)
    try:
        code, out, err = two.run("h1", [*common, "0", *program], DEADLINE_S, env)
        _, second_err = second.communicate(timeout=DEADLINE_S)
    finally:
        second.kill()
    assert (code, second.returncode) == (0, 0), out + err + second_err


_WITH_GARBAGE = f"""
import os, sys, time
import torch.distributed  # which takes its time
{BARE}
rank, begun = os.environ["RANK"], time.monotonic()
if rank == "3":
    os.environ.update([sys.argv[2].split("=")])
try:
    hvd.init()
except hvd.HoraError as error:
    with open(f"{{sys.argv[1]}}/error.{{rank}}", "w") as out:
        out.write(f"{{time.monotonic() - begun}} {{error}}")
    # Who leaves first has its torchrun end the other rank of this host.
    while len([name for name in os.listdir(sys.argv[1]) if name[:5] == "error"]) < 4:
        time.sleep(0.02)
        if time.monotonic() - begun > 8:
            break
    sys.exit(1)
"""


@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        ("RANK=soon", "RANK='soon' is not a whole number"),
        ("GROUP_WORLD_SIZE=5", "WORLD_SIZE=4 with GROUP_WORLD_SIZE=5"),
        ("MASTER_ADDR=no.such.host", "MASTER_ADDR=no.such.host"),
        ("MASTER_PORT=1", "MASTER_PORT=1"),
        ("TORCHELASTIC_RUN_ID=other", "TORCHELASTIC_RUN_ID=other"),
    ],
)
def test_garbage_of_one_rank_is_told_to_all(two, tmp_path, garbage, words):
    common = (*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "2", "--master-port", "29501")
    common = (*common, "--master-addr", two.address("h1"), "--node-rank")
    program = (sys.executable, "-c", _WITH_GARBAGE, str(tmp_path), garbage)
    env = {"OMP_NUM_THREADS": "1"}
    jobs = [two.start(f"h{node + 1}", [*common, str(node), *program], env) for node in range(2)]
    said = [job.communicate(timeout=DEADLINE_S) for job in jobs]
    found = [path.read_text().partition(" ") for path in tmp_path.glob("error.*")]
    print(found)
    assert len(found) == 4, said
    assert all(words in text for _, _, text in found)
    assert max(float(seconds) for seconds, _, _ in found) < 5


@pytest.mark.parametrize("secret", [False, True], ids=["key through the store", "secret file"])
def test_ranks_of_two_torchruns_meet(two, tmp_path, secret):
    env = {"OMP_NUM_THREADS": "1"}
    if secret:
        file = tmp_path / "secret"
        file.touch(0o600)
        file.write_text(os.urandom(32).hex())
        env["HORA_SECRET_FILE"] = str(file)
    run_on(two, rank_words(tmp_path), env)
    check_ranks(tmp_path, [2, 2], "torchrun")


def test_ranks_of_two_torchruns_train(two, tmp_path):
    pytest.importorskip("sklearn")
    from digits import check_training, training_words

    run_on(two, training_words(tmp_path, "tcp"), {"OMP_NUM_THREADS": "1"})
    check_training(tmp_path, 4, "tcp")
