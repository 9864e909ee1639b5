"""One horarun on each host, as torchrun is started; and the file with the job's secret."""

from __future__ import annotations

import json
import os
import socket
import sys

import pytest
from hora.errors import UsageError
from hora.launch.cli import parse
from hora.launch.job_spec import OneOfSeveralNodes
from hora.launch.secret_file import read_secret

REPORT = """
import json, os
told = json.loads(open(int(os.environ["HORA_BOOTSTRAP_FD"]), "rb").read())
print("told", json.dumps({"document": told, "env": dict(os.environ)}))
"""
KEY = "5a" * 32


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


def nodes(*words: str):
    return parse(["--nnodes=2", "--master-addr=h1", *words, "true"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_torchruns_flags(secret):
    words = ["--nproc_per_node=3", "--nnodes=2", "--node_rank=1", "--master_addr=h1"]
    spec = parse([*words, "--master_port=2950", "--secret-file", str(secret), "true"])
    assert spec.where == OneOfSeveralNodes(1, "h1", 2950, secret)
    assert (spec.size, spec.placement.sizes) == (6, (3, 3))
    spec = nodes("-np", "4", "--node-rank=0", "--secret-file", str(secret))
    assert (spec.placement.sizes, spec.where.master_port) == ((2, 2), 29500)
    assert parse(["--nnodes=1", "--nproc-per-node=2", "true"]).where is None
    assert parse(["--nnodes=1:1", "--node-rank=0", "--nproc-per-node=2", "true"]).where is None
    with pytest.raises(UsageError, match="--node-rank 5 is not below --nnodes 1"):
        parse(["--nnodes=1", "--node-rank=5", "--nproc-per-node=2", "true"])


def fake_smi(tmp_path, monkeypatch, answer: str) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{answer}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("visible", "smi", "gpus"),
    [
        (
            None,
            r"printf 'GPU 0: X (UUID: GPU-a)\n  MIG 1g (UUID: MIG-m)\nGPU 1: X (UUID: GPU-b)\n'",
            2,
        ),
        ("0,1,2", "exit 1", 3),
        ("2,-1,0", "exit 1", 1),
        ("", "exit 1", 0),
    ],
    ids=["one slice and one", "listed", "listed and cut off", "hidden"],
)
def test_ranks_counted_by_torchruns_words(tmp_path, monkeypatch, visible, smi, gpus):
    cores = len(os.sched_getaffinity(0))
    fake_smi(tmp_path, monkeypatch, smi)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    hosts = ["-H", "one,two"]
    assert parse([*hosts, "--nproc-per-node=cpu", "true"]).placement.sizes == (cores,) * 2
    auto = parse([*hosts, "--nproc_per_node", "auto", "true"])
    assert auto.placement.sizes == (gpus or cores,) * 2
    if gpus:
        found = parse([*hosts, "--nproc-per-node=gpu", "true"])
        assert found.placement.sizes == (gpus, gpus)
        return
    with pytest.raises(UsageError, match="--nproc-per-node gpu: this host has none"):
        parse([*hosts, "--nproc-per-node=gpu", "true"])


def test_standalone_is_one_host():
    spec = parse(["--standalone", "--nproc-per-node=2", "true"])
    assert (spec.size, spec.where) == (2, None)
    assert parse(["--standalone", "--nnodes=1", "--nproc-per-node=2", "true"]).where is None
    for words in (["--nnodes=2"], ["-H", "a:2"], ["--master-addr=h1"]):
        with pytest.raises(UsageError, match="--standalone is for this host alone"):
            parse(["--standalone", "--nproc-per-node=2", *words, "true"])
    with pytest.raises(UsageError, match=r"'many' is not a whole number .*, gpu, cpu or auto"):
        parse(["--nproc-per-node=many", "true"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nproc-per-node=2"], "--nnodes 2 needs --node-rank"),
        (["--node-rank=0"], "--nnodes 2 needs --nproc-per-node"),
        (["--node-rank=2", "-np=2"], "--node-rank 2 is not below --nnodes 2"),
        (["--node-rank=0", "-np=3"], "--nnodes 2 needs --nproc-per-node"),
        (["--node-rank=0", "-np=3", "--nproc-per-node=1"], "-np 3 is not 2 nodes × 1 ranks"),
        (["--node-rank=0", "-np=2"], "needs --secret-file (or HORA_SECRET_FILE)"),
        (["--node-rank=0", "-np=2", "-H", "a:2"], "--nnodes 2 with --hosts or --hostfile"),
        (["--node-rank=0", "--nnodes=1:2"], "'1:2': elastic training is not there yet"),
        (["--node-rank=0", "--master-port=0"], "'0' is not a whole number from 1"),
    ],
)
def test_mistakes(words, message, monkeypatch):
    monkeypatch.delenv("HORA_SECRET_FILE", raising=False)
    with pytest.raises(UsageError) as caught:
        nodes(*words)
    assert message in str(caught.value)


def test_flags_of_several_nodes_need_their_number():
    with pytest.raises(UsageError, match="--node-rank 1 needs --nnodes"):
        parse(["-np", "2", "--node-rank", "1", "true"])


def test_the_secret_by_flag_environment_and_file(secret, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text("secret-file: /from/file\nnode-rank: 0\nnproc-per-node: 1\n")
    words = ("--config-file", str(config))
    monkeypatch.delenv("HORA_SECRET_FILE", raising=False)
    assert str(nodes(*words).where.secret_file) == "/from/file"
    monkeypatch.setenv("HORA_SECRET_FILE", "/from/environment")
    assert str(nodes(*words).where.secret_file) == "/from/environment"
    assert nodes(*words, "--secret-file", str(secret)).where.secret_file == secret


def test_two_launchers_make_one_job(start, secret):
    common = ("--nproc-per-node=2", "--nnodes=2", "--master-addr=127.0.0.1")
    env = {"HORA_SECRET_FILE": str(secret), "HORA_NETWORK_INTERFACES": "lo"}
    port = free_port()
    words = (*common, f"--master-port={port}", "--horovod")
    report = ("--", sys.executable, "-c", REPORT)
    jobs = [start(*words, f"--node-rank={node}", *report, env=env) for node in (1, 0)]
    ends = [job.end() for job in jobs]
    assert [code for code, _ in ends] == [0, 0], ends
    assert f"the store listens on 127.0.0.1:{port}" in ends[1][1]
    lines = [line for job in jobs for line in job.lines]
    told = sorted(lines, key=lambda line: line.split("]")[0])
    assert [line[:4] for line in told] == ["[0] ", "[1] ", "[2] ", "[3] "]
    for rank, line in enumerate(told):
        fields = json.loads(line.split("told ", 1)[1])
        document, env = fields["document"], fields["env"]
        assert (document["rank"], document["size"], document["key"]) == (rank, 4, KEY)
        assert (document["cross_rank"], document["local_rank"]) == (rank // 2, rank % 2)
        assert (document["store"], document["interfaces"]) == (f"127.0.0.1:{port}", ["lo"])
        assert (env["RANK"], env["GROUP_RANK"]) == (str(rank), str(rank // 2))
        assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("127.0.0.1", str(port + 1))
        assert env["HOROVOD_CROSS_SIZE"] == "2"
    assert len({json.loads(line.split("told ", 1)[1])["document"]["job_id"] for line in told}) == 1


def test_a_port_in_use(launch, secret):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ("--nnodes=2", "--node-rank=0", "--nproc-per-node=1", "--master-addr=127.0.0.1")
        options = (f"--master-port={port}", "--secret-file", str(secret))
        code, out, err = launch(*words, *options, "true")
    assert (code, out) == (126, [])
    assert f"127.0.0.1:{port}" in err and "Traceback" not in err


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_secret_that_others_can_reach(secret, mode):
    secret.chmod(mode)
    with pytest.raises(UsageError, match=rf"has mode 0{mode:o}: others can reach it \(chmod 600"):
        read_secret(secret)


@pytest.mark.parametrize("content", ["", "abc", KEY[:-2], KEY + "00", "zz" * 32, "\udcff" * 64])
def test_a_secret_that_is_none(secret, content):
    secret.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match="is not 64 hexadecimal digits; make one") as caught:
        read_secret(secret)
    assert len(content) < 9 or content not in str(caught.value)


def test_a_secret_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, message in ((tmp_path / "pipe", "is not a file"), (tmp_path / "no", "No such file")):
        with pytest.raises(UsageError, match=message):
            read_secret(path)


def test_the_job_id_tells_nothing_of_the_key(secret):
    found = read_secret(secret)
    assert found.key == KEY
    assert len(found.job_id) == 16 and found.job_id not in KEY
    assert KEY not in repr(found)
