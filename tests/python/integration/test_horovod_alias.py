"""Scripts written for Horovod, run unchanged: real jobs of ``horarun --horovod``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

DEADLINE_S = 120  # for a whole job, start-up of torch included

# As tutorials have it, with made-up digits in place of the download.
MNIST = """
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import torch.utils.data.distributed
import horovod.torch as hvd

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--lr", type=float, default=0.05)
args = parser.parse_args()

hvd.init()
torch.manual_seed(42)
torch.set_num_threads(1)

templates = torch.randn(10, 1, 28, 28)
labels = torch.arange(256) % 10
images = templates[labels] + 0.5 * torch.randn(256, 1, 28, 28)
train_dataset = torch.utils.data.TensorDataset(images, labels)
train_sampler = torch.utils.data.distributed.DistributedSampler(
    train_dataset, num_replicas=hvd.size(), rank=hvd.rank())
train_loader = torch.utils.data.DataLoader(train_dataset, batch_size=16, sampler=train_sampler)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, kernel_size=5)
        self.fc1 = nn.Linear(576, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        return F.log_softmax(self.fc1(x.view(-1, 576)), dim=1)


model = Net()
optimizer = optim.SGD(model.parameters(), lr=args.lr * hvd.size(), momentum=0.5)
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())


def train(epoch):
    model.train()
    train_sampler.set_epoch(epoch)
    for batch_idx, (data, target) in enumerate(train_loader):
        optimizer.zero_grad()
        loss = F.nll_loss(model(data), target)
        loss.backward()
        optimizer.step()


def metric_average(val, name):
    tensor = torch.tensor(val)
    avg_tensor = hvd.allreduce(tensor, name=name)
    return avg_tensor.item()


def test():
    model.eval()
    output = model(images)
    loss = metric_average(F.nll_loss(output, labels).item(), "avg_loss")
    accuracy = metric_average((output.argmax(1) == labels).float().mean().item(), "avg_accuracy")
    print(f"rank {hvd.rank()} of {hvd.size()}: loss {loss:.6f} accuracy {accuracy:.3f}")


for epoch in range(1, args.epochs + 1):
    train(epoch)
    test()
"""

# Every import that Horovod's documentation and tests show, and what is the same object.
IMPORTS = """
import horovod, importlib, sys
import horovod.torch as hvd
import horovod.torch.mpi_ops
import horovod.torch.elastic as elastic
import horovod.common.util as common_util
from horovod.torch import Compression, mpi_ops
from horovod.torch.compression import Compression as again
from horovod.torch.mpi_ops import allreduce, Average, rank, size
from horovod.torch.functions import broadcast_object
from horovod.torch.optimizer import DistributedOptimizer
from horovod.torch.sync_batch_norm import SyncBatchNorm
from horovod.torch.elastic.sampler import ElasticSampler
from horovod.torch.elastic.state import TorchState
from horovod.data import BaseDataLoader, AsyncDataLoaderMixin
from horovod.data.data_loader_base import BaseDataLoader as same_loader
from horovod.runner import run
from horovod.runner.util.threads import in_thread
from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from horovod.common.process_sets import ProcessSet, global_process_set
from horovod.common.util import check_extension, check_installed_version

import hora.torch
from hora.horovod.alias import ABSENT, MODULES

assert horovod.__version__ == "0.28.1" and horovod.run is run
assert Compression is again and same_loader is BaseDataLoader
assert hvd.allreduce is hora.torch.allreduce is allreduce is mpi_ops.allreduce
assert HorovodInternalError is hora.torch.HoraError
assert hvd.DistributedOptimizer is DistributedOptimizer
assert "allreduce" in dir(hvd)
for name in MODULES:
    importlib.import_module(name)
star = {}
exec("from horovod.torch import *", star)
assert star["init"] is hvd.init and star["allreduce"] is hvd.allreduce
for name in ABSENT:
    try:
        importlib.import_module("horovod." + name)
    except ImportError as error:
        assert "there is horovod.torch" in str(error)
    else:
        raise AssertionError(name)
try:
    hvd.DistributedDataloader
except AttributeError as error:
    assert "DistributedDataLoader" in str(error)
else:
    raise AssertionError("no hint")
print("all there")
"""


def run(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    dropped = ("HOROVOD_", "HORA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the scripts, and a horovod of its own that must not win."""
    (tmp_path / "train.py").write_text(MNIST)
    (tmp_path / "imports.py").write_text(IMPORTS)
    real = tmp_path / "site" / "horovod"
    real.mkdir(parents=True)
    (real / "__init__.py").write_text("raise ImportError('the installed horovod')\n")
    return tmp_path


def python_path(folder: Path) -> str:
    return os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(folder / "site")])


def test_a_tutorials_script_learns_the_same_on_both_ranks(folder: Path) -> None:
    done = run("hora.launch", "--horovod", "-np", "2", "train.py", "--epochs", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = re.findall(r"rank (\d) of 2: loss (\S+) accuracy (\S+)", done.stdout)
    by_rank = {rank: [line[1:] for line in found if line[0] == rank] for rank in "01"}
    assert len(by_rank["0"]) == 2
    assert by_rank["0"] == by_rank["1"]
    assert float(by_rank["0"][-1][1]) > 0.9


def test_every_module_is_there_and_an_installed_horovod_does_not_win(folder: Path) -> None:
    path = python_path(folder)
    done = run("hora.launch", "--horovod", "-np", "1", "imports.py", cwd=folder, PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (0, "[0] all there\n"), done.stderr


def test_without_the_launcher(folder: Path) -> None:
    (folder / "horovod.py").write_text("raise ImportError('beside the script')\n")
    done = run("hora.horovod", "imports.py", cwd=folder, PYTHONPATH=python_path(folder))
    assert (done.returncode, done.stdout) == (0, "all there\n"), done.stderr
    as_module = run("hora.horovod", "-m", "train", "--epochs", "1", cwd=folder)
    assert "rank 0 of 1" in as_module.stdout, as_module.stderr
    assert run("hora.horovod", cwd=folder).stderr.startswith("usage: python -m hora.horovod")


def test_without_the_flag_nothing_changes(folder: Path) -> None:
    path = python_path(folder)
    done = run("hora.launch", "-np", "1", "imports.py", cwd=folder, PYTHONPATH=path)
    assert done.returncode == 1
    assert "the installed horovod" in done.stderr


VARIABLES = """
import os
import horovod.torch as hvd
for value in ({values}):
    os.environ["HOROVOD_FUSION_THRESHOLD"] = value
    hvd.init()
    print(hvd.size(), hvd.debug_state()["tuning"]["fusion_threshold_bytes"])
    hvd.shutdown()
print([name for name in os.environ if name.startswith("HORA_FUSION")])
"""


def test_each_init_reads_what_the_script_itself_has_set(folder: Path) -> None:
    (folder / "set.py").write_text(VARIABLES.format(values="'4096', '8192'"))
    done = run("hora.launch", "--horovod", "-np", "2", "set.py", cwd=folder)
    lines = sorted(done.stdout.splitlines())
    of_each = [f"[{rank}] {text}" for rank in "01" for text in ("2 4096", "2 8192", "[]")]
    assert lines == of_each, done.stderr
    (folder / "set.py").write_text(VARIABLES.format(values="'64 MB',"))
    done = run("hora.horovod", "set.py", cwd=folder)
    assert "HOROVOD_FUSION_THRESHOLD: '64 MB' is not a whole number" in done.stderr


FUNCTION = """
import horovod
import horovod.torch as hvd

def train(offset):
    hvd.init()
    return hvd.rank() + offset, hvd.size()

if __name__ == "__main__":
    print(horovod.run(train, args=(10,), np=2, use_gloo=True))
"""


def test_horovod_run(folder: Path) -> None:
    (folder / "call.py").write_text(FUNCTION)
    done = run("hora.horovod", "call.py", cwd=folder)
    assert done.stdout == "[(10, 2), (11, 2)]\n", done.stderr


def test_a_timeline_of_every_rank_from_the_start(folder: Path) -> None:
    core = pytest.importorskip("hora._core")
    if not hasattr(core, "start_timeline"):
        pytest.skip("this engine has no timeline")
    options = ("--timeline-filename", "trace.json", "--timeline-mark-cycles")
    words = ("--horovod", "-np", "2", *options, "train.py", "--epochs", "1")
    done = run("hora.launch", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in ("trace.json", "trace.rank1.json"):
        assert "conv1.weight" in (folder / name).read_text()
